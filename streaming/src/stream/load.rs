use std::collections::BTreeMap;

use chainalytics_common::Result;
use chainalytics_lakehouse::Table;

use crate::batch::{
    ABSENT_KEY, ABSENT_PROPERTY, AbsentOffsets, BATCH_TIME_KEY, CommittedRange, OFFSETS_KEY, OFFSETS_PROPERTY, PartitionEnds, Progress, Standing, TOPIC_IDS_PROPERTY, chain_of, progress_of, topic_id_of,
};
use crate::err;

/// Summary key: batch of the stream that a snapshot belongs to.
pub const BATCH_ID_KEY: &str = "chainalytics.batch-id";

/// How far `table` has come with `topic`, by its own word: the newest ancestor that names the topic, else the table
/// property.
///
/// # Errors
/// `ProgressLost` for a table with rows that says neither.
pub fn table_progress(table: &Table, topic: &str) -> Result<Progress> {
    let summaries = table.ancestry().filter_map(|mut snapshot| snapshot.summary.remove(OFFSETS_KEY));
    let may_have_rows = table.row_count() != Some(0);
    progress_of(topic, summaries, table.property(OFFSETS_PROPERTY), may_have_rows)
        .map_err(|e| err::progress_lost(format!("table {}: {e}", table.ident())))
}

/// Where `table` stands with `topic`: its progress, and the id of the topic that it has read of.
///
/// # Errors
/// As [`table_progress`].
pub fn table_standing(table: &Table, topic: &str) -> Result<Standing> {
    let topic_id = topic_id_of(table.property(TOPIC_IDS_PROPERTY), topic).map_err(|e| err::progress_lost(format!("table {}: {e}", table.ident())))?;
    Ok(Standing { progress: table_progress(table, topic)?, topic_id })
}

/// What the batches of `topic` committed since `start`, by partition, newest first; see [`chain_of`](crate::batch::chain_of).
pub fn committed_ranges(table: &Table, topic: &str, start: &PartitionEnds) -> BTreeMap<i32, Vec<CommittedRange>> {
    let summaries: Vec<_> = table.ancestry().map(|snapshot| snapshot.summary).filter(|summary| summary.contains_key(OFFSETS_KEY)).collect();
    let values = summaries.iter().map(|summary| {
        let text = |key| summary.get(key).map(String::as_str);
        (text(OFFSETS_KEY), text(ABSENT_KEY), text(BATCH_TIME_KEY))
    });
    chain_of(topic, start, values)
}

/// Positions of `topic` that gave no row, over the table's life, by partition.
pub fn absent_offsets(table: &Table, topic: &str) -> BTreeMap<i32, u64> {
    AbsentOffsets::from_json(table.property(ABSENT_PROPERTY)).of(topic)
}

/// Batch of the newest ancestor that a stream wrote.
pub(super) fn last_batch_id(table: &Table) -> Option<i64> {
    table.latest_summary_value(BATCH_ID_KEY).and_then(|value| value.parse().ok())
}
