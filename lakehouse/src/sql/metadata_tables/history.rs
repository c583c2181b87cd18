//! `snapshots`, `history`, `refs`, `metadata_log_entries`: what the metadata file itself says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{MapBuilder, RecordBatch, StringBuilder};

use chainalytics_common::Result;

use super::columns::{arrow_error, batch, flags, ints, longs, named, texts, times};
use crate::table::Table;

pub fn snapshots(table: &Table) -> Result<RecordBatch> {
    let all = table.snapshots();
    let mut summary = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for snapshot in &all {
        let sorted: BTreeMap<&String, &String> = snapshot.summary.iter().collect();
        for (key, value) in sorted {
            summary.keys().append_value(key);
            summary.values().append_value(value);
        }
        summary.append(true).map_err(arrow_error)?;
    }
    batch(vec![
        named("committed_at", times(all.iter().map(|s| Some(s.timestamp_ms)))),
        named("snapshot_id", longs(all.iter().map(|s| Some(s.snapshot_id)))),
        named("parent_id", longs(all.iter().map(|s| s.parent_id))),
        named("operation", texts(all.iter().map(|s| Some(s.operation.clone())))),
        named("manifest_list", texts(all.iter().map(|s| Some(s.manifest_list.clone())))),
        named("summary", Arc::new(summary.finish())),
    ])
}

pub fn history(table: &Table) -> Result<RecordBatch> {
    let metadata = table.metadata();
    let ancestors: HashSet<i64> = table.ancestry().map(|s| s.snapshot_id).collect();
    let log = metadata.history();
    let parent = |id: i64| metadata.snapshot_by_id(id).and_then(|s| s.parent_snapshot_id());
    batch(vec![
        named("made_current_at", times(log.iter().map(|l| Some(l.timestamp_ms())))),
        named("snapshot_id", longs(log.iter().map(|l| Some(l.snapshot_id)))),
        named("parent_id", longs(log.iter().map(|l| parent(l.snapshot_id)))),
        named("is_current_ancestor", flags(log.iter().map(|l| Some(ancestors.contains(&l.snapshot_id))))),
    ])
}

pub fn refs(table: &Table) -> Result<RecordBatch> {
    let refs = table.refs()?;
    let kind = |is_branch: bool| if is_branch { "BRANCH" } else { "TAG" };
    batch(vec![
        named("name", texts(refs.iter().map(|r| Some(r.name.clone())))),
        named("type", texts(refs.iter().map(|r| Some(kind(r.is_branch).to_owned())))),
        named("snapshot_id", longs(refs.iter().map(|r| Some(r.snapshot_id)))),
        named("max_reference_age_in_ms", longs(refs.iter().map(|r| r.max_ref_age_ms))),
        named("min_snapshots_to_keep", ints(refs.iter().map(|r| r.min_snapshots_to_keep))),
        named("max_snapshot_age_in_ms", longs(refs.iter().map(|r| r.max_snapshot_age_ms))),
    ])
}

/// The metadata files that the table still knows, the current one last, each with the snapshot current at its time.
pub fn metadata_log_entries(table: &Table) -> Result<RecordBatch> {
    let metadata = table.metadata();
    let mut log: Vec<(i64, String)> = metadata.metadata_log().iter().map(|entry| (entry.timestamp_ms, entry.metadata_file.clone())).collect();
    log.push((metadata.last_updated_ms(), table.metadata_location().to_owned()));
    let snapshot = |at: i64| table.snapshot_id_at(at).and_then(|id| metadata.snapshot_by_id(id));
    batch(vec![
        named("timestamp", times(log.iter().map(|(at, _)| Some(*at)))),
        named("file", texts(log.iter().map(|(_, file)| Some(file.clone())))),
        named("latest_snapshot_id", longs(log.iter().map(|(at, _)| snapshot(*at).map(|s| s.snapshot_id())))),
        named("latest_schema_id", ints(log.iter().map(|(at, _)| snapshot(*at).and_then(|s| s.schema_id())))),
        named("latest_sequence_number", longs(log.iter().map(|(at, _)| snapshot(*at).map(|s| s.sequence_number())))),
    ])
}
