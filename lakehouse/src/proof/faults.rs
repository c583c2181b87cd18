//! Counts every operation that leaves the process, and lets the n-th one fail, or the process die at it.

use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use chainalytics_common::Result;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result as StoreResult, UploadPart,
};
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::catalog::Swap;
use crate::err;

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: operations are counted.
    None,
    /// The process dies before it is sent. Reads do not count: dying there is dying after the last write.
    DiesBefore,
    /// The process dies after it was done.
    DiesAfter,
    /// The process dies with half of the object under its name (a store that writes in place).
    DiesTorn,
    /// The process dies with half of the object under the local store's name for unfinished ones.
    DiesStaged,
    /// It is not done, and answered with an error; all others work.
    FailsOnce,
    /// It is done, and answered with an error; all others work.
    AnswerLost,
    /// It and all after it are not done, and answered with an error.
    Broken,
}

impl Fault {
    fn kills(self) -> bool {
        matches!(self, Self::DiesBefore | Self::DiesAfter | Self::DiesTorn | Self::DiesStaged)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Delete,
    Read,
    Commit,
}

/// One process's operations. They are done one after the other, so that a dead process leaves nothing in flight.
#[derive(Debug)]
pub struct Faults {
    fault: Fault,
    /// Number of the operation it happens to, from 1.
    at: u64,
    count: AtomicU64,
    one_at_a_time: Mutex<()>,
    dead: Notify,
}

/// What becomes of one operation.
enum Fate {
    Done,
    Refused,
    DoneButRefused,
}

impl Faults {
    pub fn new(fault: Fault, at: u64) -> Arc<Self> {
        Arc::new(Self { fault, at, count: AtomicU64::new(0), one_at_a_time: Mutex::default(), dead: Notify::new() })
    }

    /// Operations so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether the operation came.
    pub fn struck(&self) -> bool {
        self.fault != Fault::None && self.count() >= self.at
    }

    /// Returns when the process has died.
    pub async fn death(&self) {
        self.dead.notified().await;
    }

    async fn die(&self) -> ! {
        self.dead.notify_one();
        pending::<()>().await;
        unreachable!()
    }

    /// Waits for its turn and decides. `tear` leaves behind what the fault leaves.
    async fn enter(&self, kind: Kind, tear: impl AsyncFnOnce(bool)) -> (MutexGuard<'_, ()>, Fate) {
        let turn = self.one_at_a_time.lock().await;
        if self.fault.kills() && kind == Kind::Read {
            return (turn, Fate::Done);
        }
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let fate = match self.fault {
            Fault::Broken if number >= self.at => Fate::Refused,
            _ if number != self.at => Fate::Done,
            Fault::DiesBefore => self.die().await,
            Fault::DiesTorn | Fault::DiesStaged => {
                tear(self.fault == Fault::DiesStaged).await;
                self.die().await
            }
            Fault::FailsOnce => Fate::Refused,
            Fault::AnswerLost => Fate::DoneButRefused,
            Fault::None | Fault::DiesAfter | Fault::Broken => Fate::Done,
        };
        (turn, fate)
    }

    async fn operation<T>(&self, kind: Kind, act: impl Future<Output = StoreResult<T>>, tear: impl AsyncFnOnce(bool)) -> StoreResult<T> {
        let (_turn, fate) = self.enter(kind, tear).await;
        if matches!(fate, Fate::Refused) {
            return Err(refused());
        }
        let done = act.await;
        if self.fault == Fault::DiesAfter && self.count() == self.at && kind != Kind::Read {
            self.die().await;
        }
        if matches!(fate, Fate::DoneButRefused) { Err(refused()) } else { done }
    }

    /// The catalog's compare-and-swap.
    pub async fn swap(&self, act: impl Future<Output = Result<Swap>>) -> Result<Swap> {
        let (_turn, fate) = self.enter(Kind::Commit, async |_| ()).await;
        if matches!(fate, Fate::Refused) {
            return Err(err::catalog_unreachable("the catalog does not answer"));
        }
        let done = act.await;
        if self.fault == Fault::DiesAfter && self.count() == self.at {
            self.die().await;
        }
        match fate {
            Fate::DoneButRefused => Ok(Swap::Unknown(err::commit_unknown(sqlx::Error::WorkerCrashed))),
            _ => done,
        }
    }

    /// A question to the catalog.
    pub async fn ask<T>(&self, act: impl Future<Output = Result<T>>) -> Result<T> {
        let (_turn, fate) = self.enter(Kind::Read, async |_| ()).await;
        match fate {
            Fate::Done => act.await,
            _ => Err(err::catalog_unreachable("the catalog does not answer")),
        }
    }
}

fn refused() -> StoreError {
    StoreError::Generic { store: "proof", source: "the store does not answer".into() }
}

/// Local files behind [`Faults`].
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<LocalFileSystem>,
    faults: Arc<Faults>,
}

impl FaultyStore {
    pub fn new(faults: Arc<Faults>) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner: Arc::new(LocalFileSystem::new()), faults })
    }
}

/// Leaves half of an object.
async fn tear(location: &Path, bytes: &[u8], staged: bool) {
    let path = format!("/{location}{}", if staged { "#1" } else { "" });
    tokio::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).await.unwrap();
    tokio::fs::write(path, &bytes[..bytes.len() / 2]).await.unwrap();
}

fn joined(payload: &PutPayload) -> Bytes {
    payload.iter().flat_map(|bytes| bytes.iter().copied()).collect()
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let bytes = joined(&payload);
        let act = self.inner.put_opts(location, payload, opts);
        self.faults.operation(Kind::Write, act, async |staged| tear(location, &bytes, staged).await).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        let act = self.inner.put_multipart_opts(location, opts);
        let inner = self.faults.operation(Kind::Write, act, async |_| ()).await?;
        Ok(Box::new(FaultyUpload { inner, faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.faults.operation(Kind::Read, self.inner.get_opts(location, options), async |_| ()).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        let this = self.clone();
        locations
            .and_then(move |path| {
                let this = this.clone();
                async move {
                    use object_store::ObjectStoreExt;
                    this.faults.operation(Kind::Delete, this.inner.delete(&path), async |_| ()).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        stream::once(async move {
            let found: StoreResult<Vec<ObjectMeta>> =
                this.faults.operation(Kind::Read, this.inner.list(prefix.as_ref()).try_collect(), async |_| ()).await;
            stream::iter(found.map_or_else(|error| vec![Err(error)], |all| all.into_iter().map(Ok).collect()))
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.faults.operation(Kind::Read, self.inner.list_with_delimiter(prefix), async |_| ()).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.faults.operation(Kind::Write, self.inner.copy_opts(from, to, options), async |_| ()).await
    }
}

/// An upload in parts; each part and the completion are operations of their own.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, faults) = (self.inner.put_part(data), Arc::clone(&self.faults));
        Box::pin(async move { faults.operation(Kind::Write, part, async |_| ()).await })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let act = self.inner.complete();
        self.faults.operation(Kind::Write, act, async |_| ()).await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        let act = self.inner.abort();
        self.faults.operation(Kind::Delete, act, async |_| ()).await
    }
}
