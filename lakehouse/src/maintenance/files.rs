use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chainalytics_common::{Error, ErrorCode, Result};
use futures::{StreamExt, TryStreamExt, stream};

use crate::store::{StoreRegistry, normalize_location};

/// Deletions in flight unless the caller says otherwise.
pub(super) const DELETES_DEFAULT: usize = 16;
/// Deletions in flight at most.
const DELETES_MAX: usize = 256;

/// A file in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedFile {
    pub uri: String,
    pub bytes: u64,
    pub modified_ms: i64,
}

/// Deletes files that nothing refers to; how many went. One that cannot be deleted is logged and stays: removal of
/// orphans finds it.
pub(super) async fn delete_all(store: &Arc<StoreRegistry>, uris: &[String], concurrency: Option<usize>) -> u64 {
    let concurrency = concurrency.unwrap_or(DELETES_DEFAULT).clamp(1, DELETES_MAX);
    let deleted = AtomicU64::new(0);
    stream::iter(uris)
        .for_each_concurrent(concurrency, |uri| {
            let deleted = &deleted;
            async move {
                match store.delete(uri).await {
                    Ok(()) => {
                        deleted.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => tracing::warn!(uri, %error, "could not delete a file that nothing refers to"),
                }
            }
        })
        .await;
    deleted.into_inner()
}

/// All files under a location, those of unfinished uploads too.
pub(super) async fn list(store: &Arc<StoreRegistry>, location: &str) -> Result<Vec<ListedFile>> {
    let at = store.resolve(location)?;
    let prefix = at.url.as_str().trim_end_matches('/').to_owned();
    let listed: Vec<object_store::ObjectMeta> = at
        .store
        .list(Some(&at.path))
        .try_collect()
        .await
        .map_err(|e| Error::new(ErrorCode::StorageRead, format!("cannot list {location}")).with_source(e))?;
    let mut files = Vec::with_capacity(listed.len());
    for meta in listed {
        files.push(ListedFile {
            uri: normalize_location(&format!("{prefix}/{}", meta.location))?,
            bytes: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
        });
    }
    for staged in store.unfinished(location).await? {
        let modified: chrono::DateTime<chrono::Utc> = staged.modified.into();
        files.push(ListedFile { uri: normalize_location(&staged.path)?, bytes: staged.bytes, modified_ms: modified.timestamp_millis() });
    }
    Ok(files)
}
