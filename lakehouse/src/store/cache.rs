use std::num::NonZeroUsize;
use std::sync::Arc;

use chainalytics_common::Result;
use iceberg::spec::{FormatVersion, Manifest, ManifestFile, ManifestList, TableMetadata};
use lru::LruCache;
use parking_lot::Mutex;

use super::StoreRegistry;
use crate::err;

const METADATA_FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
const MANIFEST_LISTS_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();
const MANIFESTS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// A manifest with more entries is read anew each time, so that the cache stays within some hundred MB.
const CACHED_ENTRIES_MAX: usize = 4096;

/// Parsed Iceberg files by location. They are immutable, so an entry is never stale, only evicted.
pub struct MetadataCache {
    metadata: Mutex<LruCache<String, Arc<TableMetadata>>>,
    lists: Mutex<LruCache<String, Arc<Vec<ManifestFile>>>>,
    manifests: Mutex<LruCache<String, Arc<Manifest>>>,
}

impl Default for MetadataCache {
    fn default() -> Self {
        Self {
            metadata: Mutex::new(LruCache::new(METADATA_FILES_MAX)),
            lists: Mutex::new(LruCache::new(MANIFEST_LISTS_MAX)),
            manifests: Mutex::new(LruCache::new(MANIFESTS_MAX)),
        }
    }
}

impl MetadataCache {
    /// Table metadata of a metadata file (plain or gzip).
    pub(crate) async fn load_metadata(&self, store: &Arc<StoreRegistry>, location: &str) -> Result<Arc<TableMetadata>> {
        if let Some(found) = self.metadata.lock().get(location) {
            return Ok(Arc::clone(found));
        }
        let metadata = TableMetadata::read_from(&store.file_io(), location).await.map_err(|e| err::iceberg_file("metadata file", location, e))?;
        let metadata = Arc::new(metadata);
        self.put_metadata(location, Arc::clone(&metadata));
        Ok(metadata)
    }

    /// Remembers metadata that was just written, so that the next load need not read it back.
    pub(crate) fn put_metadata(&self, location: &str, metadata: Arc<TableMetadata>) {
        self.metadata.lock().put(location.to_owned(), metadata);
    }

    /// Manifests of a manifest list.
    pub(crate) async fn load_manifest_list(
        &self,
        store: &Arc<StoreRegistry>,
        location: &str,
        version: FormatVersion,
    ) -> Result<Arc<Vec<ManifestFile>>> {
        if let Some(found) = self.lists.lock().get(location) {
            return Ok(Arc::clone(found));
        }
        let bytes = store.read(location).await?;
        let list = ManifestList::parse_with_version(&bytes, version).map_err(|e| err::iceberg_file("manifest list", location, e))?;
        let list = Arc::new(list.consume_entries().into_iter().collect::<Vec<_>>());
        self.lists.lock().put(location.to_owned(), Arc::clone(&list));
        Ok(list)
    }

    /// Entries of a manifest, inherited values filled in.
    pub(crate) async fn load_manifest(&self, store: &Arc<StoreRegistry>, file: &ManifestFile) -> Result<Arc<Manifest>> {
        if let Some(found) = self.manifests.lock().get(&file.manifest_path) {
            return Ok(Arc::clone(found));
        }
        let manifest = Arc::new(file.load_manifest(&store.file_io()).await.map_err(|e| err::iceberg_file("manifest", &file.manifest_path, e))?);
        if manifest.entries().len() <= CACHED_ENTRIES_MAX {
            self.manifests.lock().put(file.manifest_path.clone(), Arc::clone(&manifest));
        }
        Ok(manifest)
    }
}
