//! Runs: one submitted execution of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ListParams, QuerySummary};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Known, nothing decided.
    Submitted,
    /// Waits for an executor (cluster) or for its driver's first report (client).
    Queued,
    Running,
    Finished,
    Failed,
    Killed,
    /// The driver vanished and nobody may restart it.
    Lost,
    /// Only in history: the log has no end, so the scheduler stopped or the run still goes on.
    Incomplete,
    #[default]
    #[serde(other)]
    Unknown,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Lost => "lost",
            Self::Incomplete => "incomplete",
            Self::Unknown => "unknown",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Killed | Self::Lost)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum DeployMode {
    /// The driver runs in the submitting process.
    #[default]
    Client,
    /// An executor launches the driver as a child process.
    Cluster,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunError {
    /// Stable error code.
    pub code: String,
    pub message: String,
    /// What a person can do about it; may be empty.
    pub remedy: String,
}

/// What the driver is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunProgress {
    /// For people, such as `reading user_events`.
    pub phase: String,
    pub done: u64,
    /// 0 = unknown.
    pub total: u64,
    /// Rows processed so far.
    pub rows: u64,
    pub updated_at_ms: i64,
    /// A JSON object of further figures, or null.
    pub metrics: Value,
}

/// One run in a list, `GET /api/v1/runs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunSummary {
    pub run_id: String,
    pub name: String,
    /// Registry name, or `sql`.
    pub job: String,
    pub user: String,
    pub deploy_mode: DeployMode,
    pub state: RunState,
    /// Launches of the driver so far.
    pub attempt: u32,
    pub submitted_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    pub progress: Option<RunProgress>,
    pub error: Option<RunError>,
    pub queries_total: u64,
}

impl RunSummary {
    /// Whether the list's filters let this run through.
    pub fn matches(&self, params: &ListParams) -> bool {
        params.wants_state(self.state.as_str())
            && params.job.as_deref().is_none_or(|job| job.is_empty() || job == self.job)
            && params.wants_text(&[&self.run_id, &self.name, &self.job, &self.user])
    }
}

/// One run, `GET /api/v1/runs/{run_id}`. The summary's fields stand beside these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunDetail {
    #[serde(flatten)]
    pub summary: RunSummary,
    pub args: Vec<String>,
    /// Secrets redacted.
    pub conf: BTreeMap<String, String>,
    pub supervise: bool,
    pub priority: i32,
    pub kill_requested: bool,
    /// Where the driver runs: an executor id in cluster mode, else the submitting host if known.
    pub driver_location: Option<String>,
    /// In the order of their registration.
    pub queries: Vec<QuerySummary>,
    /// The job's own report once finished: a JSON value, or null.
    pub report: Value,
    /// Newest last; only the most recent ones of a long stream.
    pub streaming: Vec<StreamingBatch>,
    /// Executors lost while the run was in progress.
    pub lost_executors: Vec<String>,
}

/// One committed micro-batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StreamingBatch {
    /// Name of the streaming query within the run (a topic or target table).
    pub query: String,
    pub batch: u64,
    pub ended_at_ms: i64,
    pub duration_ms: u64,
    pub input_rows: u64,
    pub written_rows: u64,
    pub dead_letter_rows: u64,
    /// Records that were waiting in the source after this batch, if known.
    pub lag_rows: Option<u64>,
    pub snapshot_id: Option<i64>,
    /// Records per second since the batch before began.
    pub input_rows_per_second: Option<f64>,
    /// Records per second of this batch's own time.
    pub processed_rows_per_second: Option<f64>,
    /// Milliseconds by phase, such as `addBatch`; without the total.
    pub phases_ms: BTreeMap<String, u64>,
    /// Bytes read from the source and written as data files.
    pub input_bytes: Option<u64>,
    pub output_bytes: Option<u64>,
    pub output_files: Option<u64>,
    /// Newest event time seen, RFC 3339.
    pub event_time_max: Option<String>,
    /// The query's watermark, RFC 3339.
    pub watermark: Option<String>,
    /// Rows or windows of state after the batch, of a query that keeps some.
    pub state_rows: Option<u64>,
    /// Records that came too late for the state.
    pub late_rows: Option<u64>,
}

impl StreamingBatch {
    /// From a driver's figures in the form of Spark's `StreamingQueryProgress` (`batchId`, `numInputRows`, `durationMs`, `sources`, `sink`).
    /// Nothing when they are of another kind.
    pub fn from_query_progress(figures: &Value, ended_at_ms: i64) -> Option<Self> {
        let batch = u64::try_from(figures.get("batchId")?.as_i64()?).ok()?;
        let input_rows = figures.get("numInputRows")?.as_u64()?;
        let mut phases_ms: BTreeMap<String, u64> = figures
            .get("durationMs")
            .and_then(Value::as_object)
            .map(|phases| phases.iter().filter_map(|(name, ms)| Some((name.clone(), ms.as_u64()?))).collect())
            .unwrap_or_default();
        let sources: Vec<&Value> = figures.get("sources").and_then(Value::as_array).map(|all| all.iter().collect()).unwrap_or_default();
        let sum = |name: &str| {
            let known: Vec<u64> = sources.iter().filter_map(|source| source.get(name)?.as_u64()).collect();
            (!known.is_empty()).then(|| known.iter().sum())
        };
        let time = |name: &str| figures.get("eventTime").and_then(|times| times.get(name)).and_then(Value::as_str).map(str::to_owned);
        let state = |name: &str| {
            let operators = figures.get("stateOperators").and_then(Value::as_array).filter(|operators| !operators.is_empty())?;
            Some(operators.iter().filter_map(|operator| operator.get(name)?.as_u64()).sum())
        };
        let sink = |name: &str| figures.get("sink").and_then(|sink| sink.get(name)).and_then(Value::as_u64);
        Some(Self {
            query: figures.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            batch,
            ended_at_ms,
            duration_ms: phases_ms.remove("triggerExecution").unwrap_or_else(|| phases_ms.values().sum()),
            input_rows,
            written_rows: sink("numOutputRows").unwrap_or_default(),
            dead_letter_rows: sink("numDeadLetterRows").unwrap_or_default(),
            lag_rows: sum("offsetsBehindLatest"),
            snapshot_id: None,
            input_rows_per_second: figures.get("inputRowsPerSecond").and_then(Value::as_f64),
            processed_rows_per_second: figures.get("processedRowsPerSecond").and_then(Value::as_f64),
            input_bytes: sum("numInputBytes"),
            output_bytes: sink("numOutputBytes"),
            output_files: sink("numOutputFiles"),
            event_time_max: time("max"),
            watermark: time("watermark"),
            state_rows: state("numRowsTotal"),
            late_rows: state("numRowsDroppedByWatermark"),
            phases_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn batches_are_read_from_the_figures_of_a_stream() {
        let figures = json!({
            "name": "kafka_to_bronze", "batchId": 7, "numInputRows": 30, "inputRowsPerSecond": 3.0, "processedRowsPerSecond": 15.5,
            "durationMs": {"addBatch": 1900, "commitOffsets": 90, "triggerExecution": 2000},
            "eventTime": {"max": "2026-01-01T00:00:00Z", "watermark": "2025-12-30T00:00:00Z"},
            "stateOperators": [{"numRowsTotal": 11, "numRowsDroppedByWatermark": 2}],
            "sources": [{"offsetsBehindLatest": 4, "numInputBytes": 10}, {"offsetsBehindLatest": 5, "numInputBytes": 20}],
            "sink": {"numOutputRows": 28, "numDeadLetterRows": 2, "numOutputFiles": 3, "numOutputBytes": 999},
        });
        let batch = StreamingBatch::from_query_progress(&figures, 5_000).unwrap();
        assert_eq!((batch.batch, batch.ended_at_ms, batch.duration_ms), (7, 5_000, 2_000));
        assert_eq!((batch.input_rows, batch.written_rows, batch.dead_letter_rows, batch.lag_rows), (30, 28, 2, Some(9)));
        assert_eq!((batch.input_bytes, batch.output_bytes, batch.output_files), (Some(30), Some(999), Some(3)));
        assert_eq!((batch.state_rows, batch.late_rows, batch.watermark.as_deref()), (Some(11), Some(2), Some("2025-12-30T00:00:00Z")));
        assert_eq!(batch.phases_ms.len(), 2, "the total is no phase");
        assert_eq!(StreamingBatch::from_query_progress(&json!({"rows": 3}), 0), None);
        assert_eq!(StreamingBatch::from_query_progress(&Value::Null, 0), None);
    }

    #[test]
    fn a_batch_of_an_older_log_is_still_read() {
        let old = json!({"query": "q", "batch": 1, "ended_at_ms": 2, "duration_ms": 3, "input_rows": 4, "written_rows": 4, "dead_letter_rows": 0, "lag_rows": null, "snapshot_id": null});
        let batch: StreamingBatch = serde_json::from_value(old).unwrap();
        assert_eq!((batch.input_rows, batch.phases_ms.len(), batch.input_rows_per_second), (4, 0, None));
    }
}
