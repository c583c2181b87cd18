//! From a snapshot to the files to read: manifest list → manifests kept by their partition summaries → live
//! entries kept by partition values and column bounds.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::pruning::PruningStatistics;
use datafusion::physical_optimizer::pruning::PruningPredicate;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{
    DataContentType, DataFile, ManifestContentType, ManifestEntry, ManifestEntryRef, ManifestFile, ManifestStatus, Snapshot, TableMetadata,
};

use chainalytics_common::{Error, ErrorCode, Result};

use super::metadata_columns::Lineage;
use super::pruning::{FileStatistics, ManifestStatistics, ScanColumns};
use crate::store::StoreRegistry;

/// Manifests read at the same time by one planning.
const MANIFEST_READS: usize = 16;

/// A live entry of a manifest, its inherited values filled in.
#[derive(Debug, Clone)]
pub struct ScanFile {
    entry: ManifestEntryRef,
    /// Data sequence number: decides which delete files apply.
    pub sequence_number: i64,
    pub spec_id: i32,
    /// Row id of its first row, inherited or its own (spec, "First Row ID Inheritance"). Data files of format v3 only.
    pub first_row_id: Option<i64>,
}

impl ScanFile {
    /// A file that no manifest has yet.
    pub fn new(data_file: DataFile, spec_id: i32) -> Self {
        let entry = ManifestEntry::builder().status(ManifestStatus::Added).data_file(data_file).build();
        Self { entry: Arc::new(entry), sequence_number: 0, spec_id, first_row_id: None }
    }

    /// An entry of a manifest, its inherited values filled in. Entries come in the manifest's order.
    pub fn of_entry(entry: &ManifestEntryRef, manifest: &ManifestFile, row_ids: &mut RowIds) -> Self {
        Self {
            entry: Arc::clone(entry),
            sequence_number: entry.sequence_number().unwrap_or(manifest.sequence_number),
            spec_id: manifest.partition_spec_id,
            first_row_id: row_ids.next(entry),
        }
    }

    pub fn data_file(&self) -> &DataFile {
        self.entry.data_file()
    }

    pub fn path(&self) -> &str {
        self.entry.file_path()
    }

    /// What its rows inherit; `None` if they have no row ids.
    pub fn lineage(&self) -> Option<Lineage> {
        self.first_row_id.map(|first_row_id| Lineage { first_row_id, sequence_number: self.sequence_number })
    }
}

/// First row ids of a manifest's data files: a live one without its own takes the manifest's next (spec, "First Row ID
/// Inheritance").
pub struct RowIds {
    next: Option<i64>,
}

impl RowIds {
    pub fn of(file: &ManifestFile) -> Self {
        Self { next: file.first_row_id.and_then(|id| i64::try_from(id).ok()) }
    }

    /// That of the next entry; entries come in the manifest's order.
    pub fn next(&mut self, entry: &ManifestEntry) -> Option<i64> {
        let data = entry.data_file();
        match (data.content_type(), data.first_row_id()) {
            (DataContentType::Data, None) if entry.is_alive() => {
                let first = self.next;
                self.next = first.map(|id| id.saturating_add_unsigned(data.record_count()));
                first
            }
            (DataContentType::Data, known) => known,
            _ => None,
        }
    }
}

/// The outcome of planning a snapshot's files.
#[derive(Debug, Default)]
pub struct PlannedFiles {
    pub data: Vec<ScanFile>,
    /// Position deletes, equality deletes and deletion vectors that are live in the snapshot.
    pub deletes: Vec<ScanFile>,
    pub manifests_total: usize,
    pub manifests_read: usize,
    pub files_pruned: usize,
}

/// Plans the files of `snapshot` whose rows may satisfy `predicate`; `only` further limits them to named paths.
pub async fn plan_files(
    store: &Arc<StoreRegistry>,
    metadata: &TableMetadata,
    snapshot: &Snapshot,
    columns: &ScanColumns,
    predicate: Option<&PruningPredicate>,
    only: Option<&HashSet<String>>,
) -> Result<PlannedFiles> {
    let manifests = read_manifest_list(store, metadata, snapshot).await?;
    let manifests_total = manifests.len();
    let live: Vec<ManifestFile> = manifests.iter().filter(|m| m.has_added_files() || m.has_existing_files()).cloned().collect();
    let kept = prune(predicate, &ManifestStatistics { columns, manifests: &live });
    let wanted: Vec<ManifestFile> = live
        .into_iter()
        .zip(kept)
        // Delete files are few and decide whether an answer is right: never skip them by summary.
        .filter_map(|(m, keep)| (keep || m.content == ManifestContentType::Deletes).then_some(m))
        .collect();
    let mut planned = PlannedFiles { manifests_total, manifests_read: wanted.len(), ..PlannedFiles::default() };
    let files: Vec<Vec<ScanFile>> =
        futures::stream::iter(wanted).map(|manifest| live_files(store, manifest)).buffered(MANIFEST_READS).try_collect().await?;
    let mut data = Vec::new();
    for file in files.into_iter().flatten() {
        match file.data_file().content_type() {
            DataContentType::Data if only.is_none_or(|only| only.contains(file.path())) => data.push(file),
            DataContentType::Data => planned.files_pruned += 1,
            _ => planned.deletes.push(file),
        }
    }
    let kept = prune(predicate, &FileStatistics { columns, files: &data });
    for (file, keep) in data.into_iter().zip(kept) {
        if keep { planned.data.push(file) } else { planned.files_pruned += 1 }
    }
    Ok(planned)
}

/// Evaluates the predicate over the containers; anything that cannot be judged is kept.
pub(super) fn prune(predicate: Option<&PruningPredicate>, statistics: &dyn PruningStatistics) -> Vec<bool> {
    let count = statistics.num_containers();
    match predicate {
        Some(predicate) if count > 0 => predicate.prune(statistics).unwrap_or_else(|error| {
            tracing::debug!(%error, "pruning by statistics failed, every file is kept");
            vec![true; count]
        }),
        _ => vec![true; count],
    }
}

/// The manifests of a snapshot, data and deletes.
pub async fn read_manifest_list(store: &Arc<StoreRegistry>, metadata: &TableMetadata, snapshot: &Snapshot) -> Result<Arc<Vec<ManifestFile>>> {
    if snapshot.manifest_list().is_empty() {
        return Err(Error::new(
            ErrorCode::TableFormat,
            format!("snapshot {} has no manifest list (format v1 with inline manifests)", snapshot.snapshot_id()),
        ));
    }
    store.metadata_cache().load_manifest_list(store, snapshot.manifest_list(), metadata.format_version()).await
}

/// The entries of a manifest that are live (added or existing).
pub async fn live_files(store: &Arc<StoreRegistry>, file: ManifestFile) -> Result<Vec<ScanFile>> {
    let manifest = store.metadata_cache().load_manifest(store, &file).await?;
    let mut row_ids = RowIds::of(&file);
    Ok(manifest
        .entries()
        .iter()
        .filter(|entry| entry.is_alive())
        .map(|entry| ScanFile::of_entry(entry, &file, &mut row_ids))
        .collect())
}
