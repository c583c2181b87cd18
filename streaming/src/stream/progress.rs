use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::PartitionEnds;

/// One batch, in the form of Spark's `StreamingQueryProgress`, whose names it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamingQueryProgress {
    /// The query's id: stays the same over restarts.
    pub id: String,
    /// Run.
    pub run_id: String,
    /// Name of the query.
    pub name: String,
    /// Start of the batch, RFC 3339.
    pub timestamp: String,
    /// Batch; counts on over restarts.
    pub batch_id: i64,
    /// Milliseconds that the batch took.
    pub batch_duration: u64,
    /// Records read.
    pub num_input_rows: u64,
    /// Records per second since the batch before began.
    pub input_rows_per_second: f64,
    /// Records per second of this batch's own time.
    pub processed_rows_per_second: f64,
    /// Milliseconds by phase: `latestOffset`, `queryPlanning`, `addBatch`, `commitOffsets`, `triggerExecution` (all).
    pub duration_ms: BTreeMap<String, u64>,
    /// Event times, RFC 3339: `min` and `max` of this batch, `watermark` of the query so far.
    pub event_time: BTreeMap<String, String>,
    /// State of windows and joins; empty for a query that keeps none.
    pub state_operators: Vec<StateOperatorProgress>,
    /// One per topic.
    pub sources: Vec<SourceProgress>,
    /// What was written.
    pub sink: SinkProgress,
}

/// One operator's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StateOperatorProgress {
    /// Operator, by Spark's name: `stateStoreSave`, `symmetricHashJoin`, `dedupeWithinWatermark`, `sessionWindowStateStoreSave`.
    pub operator_name: String,
    /// Rows (or windows) of state after the batch.
    pub num_rows_total: u64,
    /// Those that the batch added or changed.
    pub num_rows_updated: u64,
    /// Those that the watermark removed.
    pub num_rows_removed: u64,
    /// Input rows that came too late.
    pub num_rows_dropped_by_watermark: u64,
    /// Further figures.
    pub custom_metrics: BTreeMap<String, u64>,
}

/// One topic's part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceProgress {
    /// `KafkaV2[Subscribe[topic]]`.
    pub description: String,
    /// Topic.
    pub topic: String,
    /// Its id, if the brokers tell one.
    pub topic_id: Option<String>,
    /// Offsets at which the batch began, by topic and partition.
    pub start_offset: BTreeMap<String, PartitionEnds>,
    /// Offsets at which it ended.
    pub end_offset: BTreeMap<String, PartitionEnds>,
    /// End of the log when the batch was planned.
    pub latest_offset: BTreeMap<String, PartitionEnds>,
    /// `avgOffsetsBehindLatest`, `maxOffsetsBehindLatest`, `minOffsetsBehindLatest` over the partitions.
    pub metrics: BTreeMap<String, String>,
    /// Positions left in the log after this batch, by partition.
    pub lag: BTreeMap<i32, u64>,
    /// Sum of `lag`.
    pub offsets_behind_latest: u64,
    /// Records read.
    pub num_input_rows: u64,
    /// Records per second since the batch before began.
    pub input_rows_per_second: f64,
    /// Records per second of this batch's own time.
    pub processed_rows_per_second: f64,
    /// Bytes of keys and values read.
    pub num_input_bytes: u64,
    /// Positions without a record: control records, aborted and compacted ones. Completeness does not count them.
    pub hole_offsets: u64,
    /// Positions that retention removed before they were read (`fail-on-data-loss` off).
    pub lost_offsets: u64,
}

/// What the commit made visible.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SinkProgress {
    /// `Iceberg[tables]`.
    pub description: String,
    /// Rows in the bronze tables.
    pub num_output_rows: u64,
    /// Rows in the dead-letter table.
    pub num_dead_letter_rows: u64,
    /// Dead letters by code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records that were dropped as the query was told to.
    pub num_skipped_rows: u64,
    /// Those, by code.
    pub skipped: BTreeMap<String, u64>,
    /// Data files.
    pub num_output_files: u64,
    /// Bytes of data files.
    pub num_output_bytes: u64,
    /// Snapshot of each table that changed.
    pub snapshot_ids: BTreeMap<String, i64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_sparks() {
        let json =
            serde_json::to_value(StreamingQueryProgress { sources: vec![SourceProgress::default()], ..StreamingQueryProgress::default() }).unwrap();
        for name in
            ["id", "runId", "eventTime", "sink", "batchId", "numInputRows", "inputRowsPerSecond", "processedRowsPerSecond", "durationMs", "sources"]
        {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert!(json["sources"][0].get("startOffset").is_some());
        let back: StreamingQueryProgress = serde_json::from_value(json).unwrap();
        assert_eq!(back.sources.len(), 1);
    }
}
