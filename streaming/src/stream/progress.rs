use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::PartitionEnds;

/// One batch, with the names of Spark's `StreamingQueryProgress` where they fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryProgress {
    /// Name of the query.
    pub name: String,
    /// Run.
    pub run_id: String,
    /// Batch; counts on over restarts.
    pub batch_id: i64,
    /// Start of the batch, RFC 3339.
    pub timestamp: String,
    /// Records read.
    pub num_input_rows: u64,
    /// Records per second since the batch before began.
    pub input_rows_per_second: f64,
    /// Records per second of this batch's own time.
    pub processed_rows_per_second: f64,
    /// Milliseconds by phase: `latestOffset`, `queryPlanning`, `addBatch`, `commitOffsets`, `triggerExecution` (all).
    pub duration_ms: BTreeMap<String, u64>,
    /// Event times seen, RFC 3339: `min`, `max`; empty if none was.
    pub event_time: BTreeMap<String, String>,
    /// One per topic.
    pub sources: Vec<SourceProgress>,
    /// What was written.
    pub sink: SinkProgress,
}

/// One topic's part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProgress {
    /// `KafkaV2[topic]`.
    pub description: String,
    /// Topic.
    pub topic: String,
    /// Offsets at which the batch began, by partition.
    pub start_offset: PartitionEnds,
    /// Offsets at which it ended.
    pub end_offset: PartitionEnds,
    /// End of the log when the batch was planned.
    pub latest_offset: PartitionEnds,
    /// Positions left in the log after this batch, by partition.
    pub lag: BTreeMap<i32, u64>,
    /// Sum of `lag`.
    pub offsets_behind_latest: u64,
    /// Records read.
    pub num_input_rows: u64,
    /// Bytes of keys and values read.
    pub num_input_bytes: u64,
    /// Positions that retention removed before they were read (`fail-on-data-loss` off).
    pub lost_offsets: u64,
}

/// What the commit made visible.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkProgress {
    /// `Iceberg[tables]`.
    pub description: String,
    /// Rows in the bronze tables.
    pub num_output_rows: u64,
    /// Rows in the dead-letter table.
    pub num_dead_letter_rows: u64,
    /// Dead letters by code.
    pub dead_letters: BTreeMap<String, u64>,
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
        let json = serde_json::to_value(StreamingQueryProgress {
            sources: vec![SourceProgress::default()],
            ..StreamingQueryProgress::default()
        })
        .unwrap();
        for name in ["batchId", "numInputRows", "inputRowsPerSecond", "processedRowsPerSecond", "durationMs", "sources"]
        {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert!(json["sources"][0].get("startOffset").is_some());
        let back: StreamingQueryProgress = serde_json::from_value(json).unwrap();
        assert_eq!(back.sources.len(), 1);
    }
}
