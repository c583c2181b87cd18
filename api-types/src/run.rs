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
}
