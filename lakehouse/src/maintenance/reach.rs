//! Which files a set of snapshots refers to.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use chainalytics_common::Result;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataContentType, Manifest, ManifestFile, TableMetadata};

use crate::err;
use crate::store::StoreRegistry;

/// Manifests and manifest lists read at once.
const READS: usize = 16;
/// Metadata files followed back through their logs at most.
const METADATA_FILES_MAX: usize = 100_000;

/// Manifests of snapshots by path, and the lists that name them.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub lists: BTreeSet<String>,
    pub manifests: BTreeMap<String, ManifestFile>,
}

/// Reads the manifest lists of `snapshots`. With `tolerant` a list that cannot be read is logged and left out, which is
/// right only for what is to be thrown away.
pub(super) async fn reach(
    store: &Arc<StoreRegistry>,
    metadata: &TableMetadata,
    snapshots: impl Iterator<Item = i64>,
    tolerant: bool,
) -> Result<Reach> {
    let version = metadata.format_version();
    let lists: BTreeSet<String> = snapshots
        .filter_map(|id| metadata.snapshot_by_id(id))
        .map(|snapshot| snapshot.manifest_list().to_owned())
        .filter(|list| !list.is_empty())
        .collect();
    let read: Vec<Arc<Vec<ManifestFile>>> = stream::iter(lists.iter().cloned())
        .map(|list| async move {
            match store.metadata_cache().load_manifest_list(store, &list, version).await {
                Err(error) if tolerant => {
                    tracing::warn!(list, %error, "the manifest list of an expired snapshot cannot be read");
                    Ok(Arc::default())
                }
                other => other,
            }
        })
        .buffered(READS)
        .try_collect()
        .await?;
    let mut manifests = BTreeMap::new();
    for file in read.iter().flat_map(|list| list.iter()) {
        manifests.entry(file.manifest_path.clone()).or_insert_with(|| file.clone());
    }
    Ok(Reach { lists, manifests })
}

/// Calls `visit` with every manifest, several being read at once. With `tolerant` one that cannot be read is left out.
pub(super) async fn for_each_manifest(
    store: &Arc<StoreRegistry>,
    manifests: Vec<ManifestFile>,
    tolerant: bool,
    mut visit: impl FnMut(&Manifest),
) -> Result<()> {
    let mut reads = stream::iter(manifests)
        .map(|file| async move {
            match store.metadata_cache().load_manifest(store, &file).await {
                Ok(manifest) => Ok(Some(manifest)),
                Err(error) if tolerant => {
                    tracing::warn!(manifest = file.manifest_path, %error, "an expired manifest cannot be read");
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(READS);
    while let Some(manifest) = reads.try_next().await? {
        if let Some(manifest) = manifest {
            visit(&manifest);
        }
    }
    Ok(())
}

/// Live files of manifests by path.
pub(super) async fn live_files(
    store: &Arc<StoreRegistry>,
    manifests: Vec<ManifestFile>,
    tolerant: bool,
) -> Result<BTreeMap<String, DataContentType>> {
    let mut files = BTreeMap::new();
    for_each_manifest(store, manifests, tolerant, |manifest| {
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            files.insert(entry.file_path().to_owned(), entry.content_type());
        }
    })
    .await?;
    Ok(files)
}

/// Statistics files of the snapshots that metadata knows.
pub(super) fn statistics(metadata: &TableMetadata) -> HashSet<String> {
    let statistics = metadata.statistics_iter().map(|file| file.statistics_path.clone());
    statistics.chain(metadata.partition_statistics_iter().map(|file| file.statistics_path.clone())).collect()
}

/// Every file that a table refers to, whatever its snapshots: data and delete files (removed ones too, as long as a
/// manifest names them), manifests, manifest lists, statistics, and metadata files back through their logs.
pub(super) async fn everything(store: &Arc<StoreRegistry>, metadata: &TableMetadata, metadata_location: &str) -> Result<HashSet<String>> {
    let all = reach(store, metadata, metadata.snapshots().map(|snapshot| snapshot.snapshot_id()), false).await?;
    let mut files: HashSet<String> = all.manifests.keys().cloned().collect();
    for_each_manifest(store, all.manifests.into_values().collect(), false, |manifest| {
        files.extend(manifest.entries().iter().map(|entry| entry.file_path().to_owned()));
    })
    .await?;
    files.extend(all.lists);
    files.extend(statistics(metadata));
    files.extend(metadata_files(store, metadata, metadata_location).await?);
    Ok(files)
}

/// The current metadata file and those before it, as far back as their logs lead.
async fn metadata_files(store: &Arc<StoreRegistry>, metadata: &TableMetadata, location: &str) -> Result<BTreeSet<String>> {
    let log_of = |metadata: &TableMetadata| -> Vec<String> { metadata.metadata_log().iter().map(|log| log.metadata_file.clone()).collect() };
    let mut files = BTreeSet::from([location.to_owned()]);
    let mut log = log_of(metadata);
    loop {
        let oldest = log.first().cloned();
        let before = files.len();
        files.extend(log);
        // The oldest of a log knows what was dropped from it.
        let Some(oldest) = oldest.filter(|_| files.len() > before) else { return Ok(files) };
        if files.len() > METADATA_FILES_MAX {
            return Err(err::metadata(format!("more than {METADATA_FILES_MAX} metadata files belong to one table")));
        }
        if !store.exists(&oldest).await? {
            return Ok(files);
        }
        log = log_of(store.metadata_cache().load_metadata(store, &oldest).await?.as_ref());
    }
}
