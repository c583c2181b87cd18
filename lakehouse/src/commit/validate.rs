use std::collections::{BTreeSet, HashMap, HashSet};

use chainalytics_common::Result;
use iceberg::spec::{DataContentType, DataFile, Datum, ManifestContentType, ManifestStatus, Operation, PrimitiveLiteral};

use super::change::{ConflictCheck, Decision, FileChange, TableChange};
use super::manifests::load_all;
use super::{CommitOptions, RUN_ID_KEY, STEP_KEY};
use crate::err;
use crate::scan::deletes::DELETE_FILE_PATH_ID;
use crate::table::{SnapshotInfo, Table};
use crate::write::{DataFileInfo, FileContent};

/// Result of looking at a freshly loaded table, before anything is written.
pub(super) enum Verdict {
    Build,
    AlreadyCommitted(Option<SnapshotInfo>),
}

/// Decides whether `change` may be built on `table`.
///
/// # Errors
/// `CommitConflict` for good: another attempt would only find the same.
pub(super) async fn validate(table: &Table, change: &TableChange, options: &CommitOptions) -> Result<Verdict> {
    if let Some(done) = snapshot_of_step(table, options) {
        return Ok(Verdict::AlreadyCommitted(Some(done)));
    }
    if let Some(validator) = &change.validate {
        match validator(table)? {
            Decision::Commit => {}
            Decision::AlreadyCommitted => return Ok(Verdict::AlreadyCommitted(table.current_snapshot())),
            Decision::Conflict(reason) => return Err(err::conflict(format!("table {}: {reason}", table.ident()))),
        }
    }
    if let Some(expected) = change.expected_snapshot
        && expected != table.current_snapshot_id()
    {
        return Err(err::conflict(format!(
            "table {}: the current snapshot is {:?}, not {expected:?} as when this was planned",
            table.ident(),
            table.current_snapshot_id()
        )));
    }
    match &change.files {
        Some(FileChange::Overwrite { base, check, removed, added }) => {
            // Rows that another commit deleted must not come back in a new file, nor by a deletion vector that takes the place of one with them.
            let moves_rows = added.iter().any(|file| file.content == FileContent::Data) && !change.referenced.is_empty();
            let replaces_vectors = added.iter().any(|file| file.content_offset.is_some());
            let mut rewritten = removed.clone();
            if moves_rows || replaces_vectors {
                rewritten.extend(change.referenced.iter().cloned());
            }
            refuse_unseen(table, *base, check, &rewritten).await?;
            if table.current_snapshot_id() != *base {
                refuse_gone(table, &change.referenced).await?;
            }
        }
        Some(FileChange::Rewrite { base, removed, keep_sequence, .. }) => {
            refuse_deleted(table, Some(*base), removed, *keep_sequence).await?;
        }
        _ => {}
    }
    Ok(Verdict::Build)
}

/// The ancestor, or staged snapshot, that this (run, step) committed, if it did.
fn snapshot_of_step(table: &Table, options: &CommitOptions) -> Option<SnapshotInfo> {
    let (run_id, step) = (options.run_id.as_ref()?, options.step.as_ref()?);
    table.committed_or_staged(|summary| summary.get(RUN_ID_KEY) == Some(run_id) && summary.get(STEP_KEY) == Some(step))
}

/// Fails if a snapshot after `base` deleted rows of the files that a change writes anew.
///
/// Equality deletes that arrived meanwhile keep applying if the rewritten files keep the base's sequence number. A
/// position delete names a file and would miss its rows in the new one.
async fn refuse_deleted(table: &Table, base: Option<i64>, rewritten: &BTreeSet<String>, keeps_sequence: bool) -> Result<()> {
    let newer = since(table, base)?;
    let Some(current) = table.current_snapshot_id().filter(|_| !newer.is_empty()) else { return Ok(()) };
    let manifests = table.manifests(current).await?;
    let candidates: Vec<_> = manifests
        .iter()
        .filter(|file| file.content == ManifestContentType::Deletes && newer_than_base(table, file.added_snapshot_id, base))
        .cloned()
        .collect();
    for manifest in load_all(table, &candidates).await? {
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            let unseen = entry.snapshot_id.is_some_and(|id| newer.contains(&id));
            if unseen && touches(entry.data_file(), rewritten, keeps_sequence) {
                return Err(err::conflict(format!("table {}: another commit deleted rows of files that this change writes anew", table.ident())));
            }
        }
    }
    Ok(())
}

/// Whether a delete file may delete rows of one of these data files.
fn touches(delete: &DataFile, paths: &BTreeSet<String>, keeps_sequence: bool) -> bool {
    if delete.content_type() == DataContentType::EqualityDeletes {
        return !keeps_sequence;
    }
    if let Some(target) = delete.referenced_data_file() {
        return paths.contains(&target);
    }
    let bound = |bounds: &HashMap<i32, Datum>| match bounds.get(&DELETE_FILE_PATH_ID)?.literal() {
        PrimitiveLiteral::String(path) => Some(path.clone()),
        _ => None,
    };
    match (bound(delete.lower_bounds()), bound(delete.upper_bounds())) {
        (Some(low), Some(high)) => paths.range(low..=high).next().is_some(),
        _ => true,
    }
}

/// Snapshots after `base`, if one of them changed rows. Those that moved rows count too then: what was added or deleted
/// since may stand in their files.
fn since(table: &Table, base: Option<i64>) -> Result<HashSet<i64>> {
    let mut newer = HashSet::new();
    let (mut reached, mut changed) = (base.is_none(), false);
    for snapshot in table.ancestors() {
        if Some(snapshot.snapshot_id()) == base {
            reached = true;
            break;
        }
        // A compaction moves rows and adds none.
        changed |= snapshot.summary().operation != Operation::Replace;
        newer.insert(snapshot.snapshot_id());
    }
    match reached {
        true if changed => Ok(newer),
        true => Ok(HashSet::new()),
        false => {
            Err(err::conflict(format!("table {}: the snapshot this was planned on ({base:?}) is no ancestor of the current one", table.ident())))
        }
    }
}

/// Fails if a snapshot after `base` added files which the change ought to have seen.
async fn refuse_unseen(table: &Table, base: Option<i64>, check: &ConflictCheck, rewritten: &BTreeSet<String>) -> Result<()> {
    let metadata = table.metadata();
    if table.current_snapshot_id() == base {
        return Ok(());
    }
    let newer = since(table, base)?;
    if matches!(check, ConflictCheck::Unchanged) && !newer.is_empty() {
        return Err(err::conflict(format!("table {}: another commit changed rows of the table that this change has read", table.ident())));
    }
    let Some(current) = table.current_snapshot_id() else { return Ok(()) };
    let manifests = table.manifests(current).await?;
    let is_new = |id: i64| newer.contains(&id);
    if !rewritten.is_empty() {
        refuse_deleted(table, base, rewritten, false).await?;
    }
    let ConflictCheck::Serializable(filter) = check else { return Ok(()) };
    // Merging can move an added file into a younger manifest, never into one that is older than the file.
    let candidates: Vec<_> = manifests
        .iter()
        .filter(|file| file.content == ManifestContentType::Data && newer_than_base(table, file.added_snapshot_id, base))
        .cloned()
        .collect();
    for (file, manifest) in candidates.iter().zip(load_all(table, &candidates).await?) {
        let spec = metadata
            .partition_spec_by_id(file.partition_spec_id)
            .ok_or_else(|| err::metadata(format!("no partition spec {}", file.partition_spec_id)))?;
        let partition_type = spec.partition_type(&manifest.metadata().schema).map_err(err::iceberg)?;
        for entry in manifest.entries() {
            let unseen = entry.status() != ManifestStatus::Deleted && entry.snapshot_id.is_some_and(is_new);
            if !unseen {
                continue;
            }
            let info = DataFileInfo::from_iceberg(&entry.data_file, file.partition_spec_id, &partition_type)?;
            if filter.as_ref().is_none_or(|filter| filter(&info)) {
                return Err(err::conflict(format!("table {}: another commit added {} which this change has not seen", table.ident(), info.path)));
            }
        }
    }
    Ok(())
}

/// Fails if a data file that new delete files refer to is not live any more.
async fn refuse_gone(table: &Table, referenced: &BTreeSet<String>) -> Result<()> {
    let mut gone: BTreeSet<&str> = referenced.iter().map(String::as_str).collect();
    let manifests = match table.current_snapshot_id() {
        Some(current) if !gone.is_empty() => table.manifests(current).await?,
        _ => return Ok(()),
    };
    for file in manifests.iter().filter(|file| file.content == ManifestContentType::Data) {
        for entry in table.manifest(file).await?.entries().iter().filter(|entry| entry.is_alive()) {
            gone.remove(entry.file_path());
        }
    }
    match gone.first() {
        None => Ok(()),
        Some(path) => Err(err::conflict(format!("table {}: {path} was removed by another commit", table.ident()))),
    }
}

/// Whether a manifest was written after the base snapshot.
fn newer_than_base(table: &Table, added_snapshot_id: i64, base: Option<i64>) -> bool {
    let sequence_of = |id: i64| table.metadata().snapshot_by_id(id).map(|snapshot| snapshot.sequence_number());
    match (base.and_then(sequence_of), sequence_of(added_snapshot_id)) {
        (Some(base), Some(added)) => added > base,
        // A snapshot that metadata no longer knows is older than anything it does know.
        (Some(_), None) => false,
        (None, _) => true,
    }
}
