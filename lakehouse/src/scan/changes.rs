//! What happened between two snapshots: the rows that appends added, and the log of inserted and deleted rows.
//!
//! Source: Iceberg's `BaseIncrementalAppendScan` and `BaseIncrementalChangelogScan`, which refuse tables with delete
//! files; here rows that a snapshot's delete files took out of older files are part of the log.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, Manifest, ManifestContentType, ManifestFile, ManifestStatus, Operation, SnapshotRef, TableMetadata};
use serde::{Deserialize, Serialize};

use chainalytics_common::{Error, ErrorCode, Result};

use super::deletes::{DeleteIndex, DeleteRef};
use super::files::{RowIds, ScanFile, live_files, read_manifest_list};
use crate::store::StoreRegistry;
use crate::table::Table;

/// Column of the change log: `INSERT` or `DELETE`.
pub const CHANGE_TYPE_COLUMN: &str = "_change_type";
/// Column of the change log: number of the snapshot among those read, from zero.
pub const CHANGE_ORDINAL_COLUMN: &str = "_change_ordinal";
/// Column of the change log: the snapshot that made the change.
pub const COMMIT_SNAPSHOT_COLUMN: &str = "_commit_snapshot_id";

/// Manifests read at the same time.
const MANIFEST_READS: usize = 16;

/// Snapshots of one line of ancestors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRange {
    /// Snapshot after which the range begins; `None` begins with the oldest that is known.
    pub after: Option<i64>,
    /// Last snapshot of the range; `None` is the table's current one.
    pub until: Option<i64>,
}

/// What of a range of snapshots is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Incremental {
    /// Rows that appends added, as they were written: what other operations did is not seen.
    Appends(SnapshotRange),
    /// Inserted and deleted rows. Snapshots that only rearranged rows are left out.
    Changes(SnapshotRange),
}

impl Incremental {
    pub fn range(&self) -> SnapshotRange {
        match self {
            Self::Appends(range) | Self::Changes(range) => *range,
        }
    }

    /// Whether the columns of the change log follow the table's.
    pub fn is_log(&self) -> bool {
        matches!(self, Self::Changes(_))
    }
}

/// What a change did to its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeType {
    Insert,
    Delete,
}

impl ChangeType {
    /// The text in [`CHANGE_TYPE_COLUMN`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Delete => "DELETE",
        }
    }
}

/// Values of the change log's columns for the rows of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub change_type: ChangeType,
    pub ordinal: i32,
    pub snapshot_id: i64,
}

/// Rows of a file that one snapshot inserted or deleted.
pub struct ChangedFile {
    pub file: ScanFile,
    /// Delete files that took rows out before: those rows did not change.
    pub deletes: Vec<DeleteRef>,
    /// Only rows that these delete; empty means all.
    pub among: Vec<DeleteRef>,
    pub change: Change,
}

/// The snapshots of a range, oldest first.
///
/// # Errors
/// `SnapshotNotFound` if an end is unknown, or the beginning is no ancestor of the end.
pub fn snapshots<'m>(table: &str, metadata: &'m TableMetadata, range: SnapshotRange) -> Result<Vec<&'m SnapshotRef>> {
    let missing = |message| Error::new(ErrorCode::SnapshotNotFound, message);
    let Some(until) = range.until else { return Ok(Vec::new()) };
    let mut next = metadata.snapshot_by_id(until);
    if next.is_none() {
        return Err(missing(format!("table {table} has no snapshot {until}; it may have expired")));
    }
    let mut found = Vec::new();
    let mut reached = range.after.is_none();
    if range.after == Some(until) {
        return Ok(found);
    }
    while let Some(snapshot) = next {
        found.push(snapshot);
        let parent = snapshot.parent_snapshot_id();
        if parent.is_some() && parent == range.after {
            // It need not be known itself: its own changes are not asked for.
            reached = true;
            break;
        }
        next = parent.and_then(|id| metadata.snapshot_by_id(id));
    }
    match (reached, range.after) {
        (false, Some(after)) => Err(missing(format!(
            "snapshot {after} of table {table} is no ancestor of snapshot {until}; SELECT * FROM {table}.history lists the ancestors"
        ))),
        _ => {
            found.reverse();
            Ok(found)
        }
    }
}

/// The newest ancestor of the table's head that is not younger than `timestamp_ms`.
pub fn snapshot_as_of(table: &Table, timestamp_ms: i64) -> Option<i64> {
    table.ancestors().find(|snapshot| snapshot.timestamp_ms() <= timestamp_ms).map(|snapshot| snapshot.snapshot_id())
}

/// The files that appends of the range added.
pub async fn appended(store: &Arc<StoreRegistry>, table: &str, metadata: &TableMetadata, range: SnapshotRange) -> Result<Vec<ScanFile>> {
    let mut files = Vec::new();
    for snapshot in snapshots(table, metadata, range)?.into_iter().filter(|s| s.summary().operation == Operation::Append) {
        for (file, status) in own_entries(store, metadata, snapshot).await?.data {
            if status == ManifestStatus::Added {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// The files with changed rows, in the order of the snapshots.
pub async fn changed(store: &Arc<StoreRegistry>, table: &str, metadata: &TableMetadata, range: SnapshotRange) -> Result<Vec<ChangedFile>> {
    let mut changes = Vec::new();
    let mut ordinal = 0;
    for snapshot in snapshots(table, metadata, range)?.into_iter().filter(|s| s.summary().operation != Operation::Replace) {
        let change = |change_type| Change { change_type, ordinal, snapshot_id: snapshot.snapshot_id() };
        let own = own_entries(store, metadata, snapshot).await?;
        let added: HashSet<&str> = own.data.iter().filter(|(_, status)| *status == ManifestStatus::Added).map(|(file, _)| file.path()).collect();
        let removes = own.data.iter().any(|(_, status)| *status == ManifestStatus::Deleted);
        let before = match removes || !own.deletes.is_empty() {
            true => deletes_before(store, metadata, snapshot).await?,
            false => DeleteIndex::default(),
        };
        let new = DeleteIndex::build(&own.deletes, metadata)?;
        if !new.is_empty() {
            // Rows that the snapshot's delete files took out of older files.
            for file in live_data(store, metadata, snapshot).await? {
                let among = new.for_file(&file);
                if !among.is_empty() && !added.contains(file.path()) {
                    let deletes = before.for_file(&file);
                    changes.push(ChangedFile { file, deletes, among, change: change(ChangeType::Delete) });
                }
            }
        }
        for (file, status) in own.data {
            changes.push(match status {
                ManifestStatus::Added => {
                    let deletes = new.for_file(&file);
                    ChangedFile { file, deletes, among: Vec::new(), change: change(ChangeType::Insert) }
                }
                _ => {
                    let deletes = before.for_file(&file);
                    ChangedFile { file, deletes, among: Vec::new(), change: change(ChangeType::Delete) }
                }
            });
        }
        ordinal += 1;
    }
    Ok(changes)
}

/// What a snapshot itself added and removed.
struct OwnEntries {
    data: Vec<(ScanFile, ManifestStatus)>,
    /// Delete files that it added.
    deletes: Vec<ScanFile>,
}

async fn own_entries(store: &Arc<StoreRegistry>, metadata: &TableMetadata, snapshot: &SnapshotRef) -> Result<OwnEntries> {
    let list = read_manifest_list(store, metadata, snapshot).await?;
    let id = snapshot.snapshot_id();
    let own: Vec<ManifestFile> = list.iter().filter(|manifest| manifest.added_snapshot_id == id).cloned().collect();
    let manifests: Vec<(ManifestFile, Arc<Manifest>)> =
        futures::stream::iter(own).map(|file| loaded(store, file)).buffered(MANIFEST_READS).try_collect().await?;
    let mut entries = OwnEntries { data: Vec::new(), deletes: Vec::new() };
    for (file, manifest) in manifests {
        let mut row_ids = RowIds::of(&file);
        for entry in manifest.entries() {
            let found = ScanFile::of_entry(entry, &file, &mut row_ids);
            if entry.status() == ManifestStatus::Existing || entry.snapshot_id().is_some_and(|by| by != id) {
                continue;
            }
            match found.data_file().content_type() {
                DataContentType::Data => entries.data.push((found, entry.status())),
                _ if entry.status() == ManifestStatus::Added => entries.deletes.push(found),
                _ => {}
            }
        }
    }
    Ok(entries)
}

async fn loaded(store: &Arc<StoreRegistry>, file: ManifestFile) -> Result<(ManifestFile, Arc<Manifest>)> {
    let manifest = store.metadata_cache().load_manifest(store, &file).await?;
    Ok((file, manifest))
}

/// The delete files that were live before a snapshot.
async fn deletes_before(store: &Arc<StoreRegistry>, metadata: &TableMetadata, snapshot: &SnapshotRef) -> Result<DeleteIndex> {
    let parent = snapshot.parent_snapshot_id();
    let Some(known) = parent.and_then(|id| metadata.snapshot_by_id(id)) else {
        return match parent {
            None => Ok(DeleteIndex::default()),
            Some(id) => Err(Error::new(
                ErrorCode::SnapshotNotFound,
                format!("what snapshot {} deleted cannot be told: its parent {id} has expired", snapshot.snapshot_id()),
            )),
        };
    };
    DeleteIndex::build(&live(store, metadata, known, ManifestContentType::Deletes).await?, metadata)
}

async fn live_data(store: &Arc<StoreRegistry>, metadata: &TableMetadata, snapshot: &SnapshotRef) -> Result<Vec<ScanFile>> {
    live(store, metadata, snapshot, ManifestContentType::Data).await
}

async fn live(store: &Arc<StoreRegistry>, metadata: &TableMetadata, snapshot: &SnapshotRef, content: ManifestContentType) -> Result<Vec<ScanFile>> {
    let list = read_manifest_list(store, metadata, snapshot).await?;
    let wanted: Vec<ManifestFile> =
        list.iter().filter(|m| m.content == content && (m.has_added_files() || m.has_existing_files())).cloned().collect();
    let files: Vec<Vec<ScanFile>> =
        futures::stream::iter(wanted).map(|manifest| live_files(store, manifest)).buffered(MANIFEST_READS).try_collect().await?;
    Ok(files.into_iter().flatten().collect())
}
