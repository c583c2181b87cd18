use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use chainalytics_common::{Error, Result};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use iceberg::spec::{FormatVersion, Manifest, ManifestEntry, ManifestFile, ManifestList, TableMetadata};
use lru::LruCache;
use parking_lot::Mutex;
use uuid::Uuid;

use super::StoreRegistry;
use crate::err;
use crate::table::{Refs, SnapshotTexts, encode_metadata, parse_metadata, references};

const METADATA_FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
const MANIFEST_LISTS_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();
/// What all cached manifests may take, bytes; one that would take more than half of it is read anew each time.
const MANIFEST_BYTES_MAX: usize = 32 << 20;
/// What the texts of all tables' snapshots may take, bytes.
const SNAPSHOT_TEXT_BYTES_MAX: usize = 64 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A metadata file. Its refs are beside it because the library's type does not tell them.
struct Known {
    metadata: Arc<TableMetadata>,
    refs: Option<Arc<Refs>>,
}

/// Entries by key, the least recently used going first when they take more than `max` bytes together.
struct ByBytes<K: std::hash::Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    max: usize,
}

impl<K: std::hash::Hash + Eq, V> ByBytes<K, V> {
    fn new(max: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, max }
    }

    fn put(&mut self, key: K, value: V, bytes: usize) {
        if let Some((_, old)) = self.entries.put(key, (value, bytes)) {
            self.bytes -= old;
        }
        self.bytes += bytes;
        while self.bytes > self.max {
            let Some((_, (_, freed))) = self.entries.pop_lru() else { return };
            self.bytes -= freed;
        }
    }
}

/// Parsed Iceberg files by location. They are immutable, so an entry is never stale, only evicted.
pub struct MetadataCache {
    metadata: Mutex<LruCache<String, Known>>,
    lists: Mutex<LruCache<String, Arc<Vec<ManifestFile>>>>,
    manifests: Mutex<ByBytes<String, Arc<Manifest>>>,
    /// By table.
    snapshot_texts: Mutex<ByBytes<Uuid, SnapshotTexts>>,
}

impl Default for MetadataCache {
    fn default() -> Self {
        Self {
            metadata: Mutex::new(LruCache::new(METADATA_FILES_MAX)),
            lists: Mutex::new(LruCache::new(MANIFEST_LISTS_MAX)),
            manifests: Mutex::new(ByBytes::new(MANIFEST_BYTES_MAX)),
            snapshot_texts: Mutex::new(ByBytes::new(SNAPSHOT_TEXT_BYTES_MAX)),
        }
    }
}

impl MetadataCache {
    /// Table metadata of a metadata file (plain or gzip).
    pub(crate) async fn load_metadata(&self, store: &Arc<StoreRegistry>, location: &str) -> Result<Arc<TableMetadata>> {
        if let Some(found) = self.metadata.lock().get(location) {
            return Ok(Arc::clone(&found.metadata));
        }
        let failed = |why: Error| {
            let help = "restore it from a copy, or register the table by an earlier metadata file";
            let known = why.message().strip_prefix(&format!("cannot read {location}: ")).unwrap_or(why.message());
            Error::new(why.code(), format!("cannot read metadata file {location}: {known}; {help}")).with_source(why)
        };
        let text = plain(store.read(location).await.map_err(failed)?).map_err(|e| failed(err::metadata(e.to_string())))?;
        let (metadata, refs) = parse_metadata(&text).map_err(|e| failed(err::metadata(e)))?;
        let metadata = Arc::new(metadata);
        self.put_metadata_with(location, Arc::clone(&metadata), Arc::new(refs));
        Ok(metadata)
    }

    /// Remembers metadata that came without its file.
    pub(crate) fn put_metadata(&self, location: &str, metadata: Arc<TableMetadata>) {
        self.metadata.lock().put(location.to_owned(), Known { metadata, refs: None });
    }

    /// Remembers metadata that was just read or written, so that the next load need not read it.
    pub(crate) fn put_metadata_with(&self, location: &str, metadata: Arc<TableMetadata>, refs: Arc<Refs>) {
        self.metadata.lock().put(location.to_owned(), Known { metadata, refs: Some(refs) });
    }

    /// Branches and tags of the metadata at `location`.
    pub(crate) fn references(&self, location: &str, metadata: &Arc<TableMetadata>) -> Result<Arc<Refs>> {
        if let Some(Known { metadata: known, refs: Some(refs) }) = self.metadata.lock().get(location)
            && Arc::ptr_eq(known, metadata)
        {
            return Ok(Arc::clone(refs));
        }
        let refs = Arc::new(references(metadata)?);
        if let Some(known) = self.metadata.lock().get_mut(location)
            && Arc::ptr_eq(&known.metadata, metadata)
        {
            known.refs = Some(Arc::clone(&refs));
        }
        Ok(refs)
    }

    /// The content of a metadata file. What the table's previous version has in common with this one is not encoded again.
    pub(crate) fn encode(&self, metadata: &TableMetadata, refs: &Refs) -> Result<Bytes> {
        let known = {
            let mut all = self.snapshot_texts.lock();
            let known = all.entries.pop(&metadata.uuid());
            all.bytes -= known.as_ref().map_or(0, |(_, bytes)| *bytes);
            known
        };
        let mut texts = known.map(|(texts, _)| texts).unwrap_or_default();
        let text = encode_metadata(metadata, refs, &mut texts)?;
        let bytes = texts.bytes();
        self.snapshot_texts.lock().put(metadata.uuid(), texts, bytes);
        Ok(text.into())
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
        let bytes = store.read(location).await.map_err(|e| err::table_metadata("manifest list", location, e))?;
        let list = ManifestList::parse_with_version(&bytes, version).map_err(|e| err::iceberg_file("manifest list", location, e))?;
        let list = Arc::new(list.consume_entries().into_iter().collect::<Vec<_>>());
        self.lists.lock().put(location.to_owned(), Arc::clone(&list));
        Ok(list)
    }

    /// Entries of a manifest, inherited values filled in.
    pub(crate) async fn load_manifest(&self, store: &Arc<StoreRegistry>, file: &ManifestFile) -> Result<Arc<Manifest>> {
        if let Some((found, _)) = self.manifests.lock().entries.get(&file.manifest_path) {
            return Ok(Arc::clone(found));
        }
        let manifest = Arc::new(file.load_manifest(&store.file_io()).await.map_err(|e| err::iceberg_file("manifest", &file.manifest_path, e))?);
        let bytes = manifest.entries().iter().map(|entry| entry_bytes(entry)).sum();
        if bytes <= MANIFEST_BYTES_MAX / 2 {
            self.manifests.lock().put(file.manifest_path.clone(), Arc::clone(&manifest), bytes);
        }
        Ok(manifest)
    }
}

/// About what an entry takes in memory: itself, its path, and the tables of its columns' statistics, which have a power
/// of two of slots of which at most seven eighths are used.
fn entry_bytes(entry: &ManifestEntry) -> usize {
    const BOUND: usize = 96;
    let file = entry.data_file();
    let slots = |len: usize| if len == 0 { 0 } else { (len * 8 / 7 + 1).next_power_of_two().max(4) };
    let counts = [file.column_sizes(), file.value_counts(), file.null_value_counts(), file.nan_value_counts()];
    let counts: usize = counts.map(|counts| slots(counts.len()) * 17).iter().sum();
    let bounds: usize = [file.lower_bounds(), file.upper_bounds()].map(|bounds| slots(bounds.len()) * BOUND).iter().sum();
    size_of::<ManifestEntry>() + file.file_path().len() + counts + bounds
}

fn plain(bytes: Bytes) -> datafusion::error::Result<Bytes> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(bytes);
    }
    let mut text = Vec::new();
    FileCompressionType::GZIP.convert_read(Cursor::new(bytes))?.read_to_end(&mut text)?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_when_bytes_run_out() {
        let mut cache = ByBytes::new(10);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert!(cache.entries.get("a").is_some());
        cache.put("c", 3, 4);
        assert!(cache.entries.get("b").is_none());
        assert_eq!((cache.entries.len(), cache.bytes), (2, 8));
        // A new value takes the place of the old one.
        cache.put("a", 1, 6);
        assert_eq!((cache.entries.len(), cache.bytes), (2, 10));
        cache.put("d", 1, 11);
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }
}
