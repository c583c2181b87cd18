//! Credentials that a catalog lends for the files of its tables. They hold below a prefix, so one bucket may need several:
//! its store hands every request on to the one whose prefix fits.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chainalytics_common::Result as OurResult;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};
use parking_lot::RwLock;

use super::{S3Options, StoreRegistry, location};
use crate::err;

/// Prefixes remembered per bucket; the oldest goes first.
const PREFIXES_MAX: usize = 1024;

/// What a catalog sends along with a table.
#[derive(Clone)]
pub(crate) struct LentCredentials {
    /// URI below which they hold.
    pub prefix: String,
    /// `s3.access-key-id`, `s3.secret-access-key`, `s3.session-token`, `s3.endpoint`...
    pub config: HashMap<String, String>,
}

struct Lent {
    prefix: Path,
    options: S3Options,
    store: Arc<dyn ObjectStore>,
}

/// Stores of one bucket by prefix.
#[derive(Default)]
pub(super) struct LentStores {
    all: RwLock<Vec<Lent>>,
}

impl LentStores {
    /// The store of the longest prefix that fits.
    fn of(&self, path: &Path) -> Option<Arc<dyn ObjectStore>> {
        let all = self.all.read();
        let fitting = all.iter().filter(|lent| path.prefix_matches(&lent.prefix));
        fitting.max_by_key(|lent| lent.prefix.as_ref().len()).map(|lent| Arc::clone(&lent.store))
    }
}

impl StoreRegistry {
    /// Uses lent credentials from now on. Such without a key say nothing new.
    pub(crate) fn lend(&self, credentials: LentCredentials) -> OurResult<()> {
        if !credentials.config.contains_key("s3.access-key-id") {
            return Ok(());
        }
        let parts = location::split(&credentials.prefix)?;
        if !matches!(parts.scheme.as_str(), "s3" | "s3a" | "s3n") {
            return Ok(());
        }
        let prefix = Path::parse(&parts.path).map_err(|e| err::metadata(format!("location {}: {e}", credentials.prefix)))?;
        let options = self.s3.lent(&credentials.config);
        let stores = self.lent_stores(&parts.authority);
        if stores.all.read().iter().any(|lent| lent.prefix == prefix && lent.options == options) {
            return Ok(());
        }
        let store: Arc<dyn ObjectStore> = Arc::new(options.store(&parts.bucket)?);
        let mut all = stores.all.write();
        all.retain(|lent| lent.prefix != prefix);
        if all.len() >= PREFIXES_MAX {
            all.remove(0);
        }
        all.push(Lent { prefix, options, store });
        Ok(())
    }
}

/// A bucket: lent credentials where there are any, the configured ones elsewhere.
pub(super) struct Bucket {
    pub own: Arc<dyn ObjectStore>,
    pub lent: Arc<LentStores>,
}

impl Bucket {
    fn of(&self, path: &Path) -> Arc<dyn ObjectStore> {
        self.lent.of(path).unwrap_or_else(|| Arc::clone(&self.own))
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("own", &self.own).finish_non_exhaustive()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.own.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.of(location).put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.of(location).put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.of(location).get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.of(location).get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.lent.all.read().is_empty() {
            return self.own.delete_stream(locations);
        }
        let (own, lent) = (Arc::clone(&self.own), Arc::clone(&self.lent));
        locations
            .and_then(move |path| {
                let store = lent.of(&path).unwrap_or_else(|| Arc::clone(&own));
                async move {
                    use object_store::ObjectStoreExt;
                    store.delete(&path).await.map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.of(prefix.unwrap_or(&Path::default())).list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.of(prefix.unwrap_or(&Path::default())).list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.of(prefix.unwrap_or(&Path::default())).list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.of(to).copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.of(to).rename_opts(from, to, options).await
    }
}
