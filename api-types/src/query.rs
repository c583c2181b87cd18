//! Queries: Ballista jobs that runs issue, with their stages and tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ListParams, PlanEdge, PlanNode};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum QueryState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    #[default]
    #[serde(other)]
    Unknown,
}

impl QueryState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Whether a query's rows may be used. A query that lost an executor or had a stage retried never counts, even if it "succeeded".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    Valid,
    ExecutorLost,
    StageRetried,
    /// Failed, was cancelled, or still runs.
    NotSuccessful,
    /// Nobody has judged it.
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// Inputs are not complete.
    Waiting,
    /// May start as soon as slots are free.
    Ready,
    Running,
    Succeeded,
    Failed,
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Running,
    Succeeded,
    Failed,
    #[default]
    #[serde(other)]
    Unknown,
}

/// One query in a list, `GET /api/v1/queries`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct QuerySummary {
    /// Ballista's job id.
    pub job_id: String,
    /// Absent for a query that no run registered (such as one of a plain Ballista client).
    pub run_id: Option<String>,
    pub label: String,
    pub state: QueryState,
    /// 1 = first try of this statement.
    pub attempt: u32,
    pub validity: Validity,
    pub validity_reason: Option<String>,
    pub submitted_at_ms: Option<i64>,
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    pub stages_total: u32,
    pub stages_done: u32,
    /// Rows of the result, once known.
    pub output_rows: Option<u64>,
    pub error: Option<String>,
}

impl QuerySummary {
    /// Whether the list's filters let this query through.
    pub fn matches(&self, params: &ListParams) -> bool {
        let wanted_run = params.run_id.as_deref().filter(|run_id| !run_id.is_empty());
        params.wants_state(self.state.as_str())
            && wanted_run.is_none_or(|run_id| self.run_id.as_deref() == Some(run_id))
            && params.wants_text(&[&self.job_id, &self.label, self.run_id.as_deref().unwrap_or_default()])
    }
}

/// One query, `GET /api/v1/queries/{job_id}`. The summary's fields stand beside these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct QueryDetail {
    #[serde(flatten)]
    pub summary: QuerySummary,
    /// SQL text or a description of the data frame; secrets redacted.
    pub statement: String,
    /// By stage id.
    pub stages: Vec<StageDetail>,
    pub edges: Vec<PlanEdge>,
    pub logical_plan: Option<String>,
    pub physical_plan: Option<String>,
    /// Session configuration of the query, secrets redacted.
    pub config: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StageDetail {
    pub stage_id: u32,
    pub state: StageState,
    /// 0 = first. Anything above makes the query's result invalid.
    pub attempt: u32,
    pub partitions: u32,
    pub input_rows: u64,
    pub output_rows: u64,
    /// From the first task's start to the last one's end.
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    pub tasks: Vec<TaskDetail>,
    pub operators: Option<PlanNode>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct TaskDetail {
    pub task_id: u32,
    pub executor_id: Option<String>,
    pub state: TaskState,
    /// Global partition numbers that this task worked on.
    pub partitions: Vec<u32>,
    pub scheduled_at_ms: Option<i64>,
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    pub duration_ms: u64,
    pub input_rows: u64,
    pub output_rows: u64,
    /// Bytes written to shuffle files, where known.
    pub output_bytes: Option<u64>,
    pub error: Option<String>,
}
