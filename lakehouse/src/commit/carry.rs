//! Progress of streams, which lives in the summaries of the snapshots they commit (`streaming::batch`): what must not
//! get lost when snapshots are compacted, rolled back or expired.

use std::collections::BTreeMap;

use iceberg::spec::SnapshotRef;
use serde_json::{Map, Value};

use crate::table::Table;

/// Summary key: `{"topic":{"0":[start,end]}}`, the offsets that a snapshot added.
pub(crate) const OFFSETS_KEY: &str = "chainalytics.kafka.offsets";
/// Summary key: number of the stream's batch.
pub(crate) const BATCH_ID_KEY: &str = "chainalytics.batch-id";
/// Table property: `{"topic":{"0":end}}`, asked when no ancestor names a topic.
pub(crate) const END_OFFSETS_PROPERTY: &str = "chainalytics.kafka.end-offsets";

/// Newest offsets of every topic that the ancestry of `head` names; empty if none does, `None` if a value cannot be
/// read.
fn newest_offsets(table: &Table, head: Option<i64>) -> Option<Map<String, Value>> {
    let mut newest = Map::new();
    for snapshot in ancestors_of(table, head) {
        let Some(text) = snapshot.summary().additional_properties.get(OFFSETS_KEY) else { continue };
        for (topic, ranges) in serde_json::from_str::<Map<String, Value>>(text).ok()? {
            newest.entry(topic).or_insert(ranges);
        }
    }
    Some(newest)
}

fn ancestors_of(table: &Table, head: Option<i64>) -> impl Iterator<Item = &SnapshotRef> + '_ {
    let metadata = table.metadata();
    std::iter::successors(head.and_then(|id| metadata.snapshot_by_id(id)), |snapshot| {
        snapshot.parent_snapshot_id().and_then(|parent| metadata.snapshot_by_id(parent))
    })
}

/// Entries that a compaction's summary takes over, so that the stream still finds its place when everything before has
/// expired.
pub(super) fn carried_summary(table: &Table) -> BTreeMap<String, String> {
    let mut carried = BTreeMap::new();
    if let Some(offsets) = newest_offsets(table, table.current_snapshot_id()).filter(|offsets| !offsets.is_empty()) {
        carried.insert(OFFSETS_KEY.to_owned(), Value::Object(offsets).to_string());
    }
    if let Some(batch) = table.latest_summary_value(BATCH_ID_KEY) {
        carried.insert(BATCH_ID_KEY.to_owned(), batch);
    }
    carried
}

/// The property as the ancestry of `head` has it. Topics that the ancestry does not name keep what the property says
/// when `keep_others`; otherwise they go: after a roll-back the property would tell of rows that are no longer there,
/// and a stream that finds nothing stops instead of skipping them.
///
/// `None`: no stream writes this table, or a value cannot be read and is left alone.
pub(crate) fn end_offsets(table: &Table, head: Option<i64>, keep_others: bool) -> Option<String> {
    let newest = newest_offsets(table, head)?;
    let old: Map<String, Value> = match table.property(END_OFFSETS_PROPERTY) {
        Some(text) => serde_json::from_str(text).ok()?,
        None if newest.is_empty() => return None,
        None => Map::new(),
    };
    let mut ends = if keep_others { old } else { Map::new() };
    for (topic, ranges) in newest {
        let Value::Object(ranges) = ranges else { return None };
        let mut of_topic = Map::new();
        for (partition, range) in ranges {
            of_topic.insert(partition, range.get(1)?.clone());
        }
        ends.insert(topic, Value::Object(of_topic));
    }
    Some(Value::Object(ends).to_string())
}
