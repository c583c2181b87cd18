//! What the scheduler knows of a run.

use chainalytics_proto::v1;
use std::collections::BTreeMap;

/// Where a run stands. Transitions: [`super::states`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RunState {
    /// Known, nothing decided.
    Submitted,
    /// Waits for an executor (cluster) or for its driver's first report (client).
    Queued,
    /// Its driver works.
    Running,
    /// Done.
    Finished,
    /// Its driver failed.
    Failed,
    /// Ended on request.
    Killed,
    /// Its driver vanished and nobody may restart it.
    Lost,
}

impl RunState {
    /// Every state, in the order of a run's life.
    pub const ALL: [Self; 7] = [Self::Submitted, Self::Queued, Self::Running, Self::Finished, Self::Failed, Self::Killed, Self::Lost];

    /// Stable name: in the store, in logs, in REST bodies.
    #[must_use]
    pub fn label(self) -> &'static str {
        v1::RunState::from(self).label()
    }

    /// The inverse of [`RunState::label`].
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.label() == label)
    }

    /// A run never leaves these.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Killed | Self::Lost)
    }
}

impl From<RunState> for v1::RunState {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Submitted => Self::Submitted,
            RunState::Queued => Self::Queued,
            RunState::Running => Self::Running,
            RunState::Finished => Self::Finished,
            RunState::Failed => Self::Failed,
            RunState::Killed => Self::Killed,
            RunState::Lost => Self::Lost,
        }
    }
}

/// Where the driver runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployMode {
    /// In the submitting process.
    Client,
    /// As a child process of an executor.
    Cluster,
}

impl DeployMode {
    /// Stable name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Cluster => "cluster",
        }
    }

    /// The inverse of [`DeployMode::label`]; anything unknown is `client`.
    #[must_use]
    pub fn from_label(label: &str) -> Self {
        if label == "cluster" { Self::Cluster } else { Self::Client }
    }
}

/// Why a run did not finish.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunError {
    /// Stable code, as in `chainalytics_common::ErrorCode`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The driver's own account of its work.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// What it is doing.
    pub stage: String,
    /// Units of work done.
    pub done: u64,
    /// Units in all, 0 = unknown.
    pub total: u64,
    /// Rows processed.
    pub rows: u64,
    /// A JSON object, or empty.
    pub metrics_json: String,
    /// When it was reported, ms since the epoch.
    pub updated_at_ms: i64,
}

/// One run. Times are ms since the Unix epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub run_id: String,
    pub name: String,
    pub job: String,
    pub args: Vec<String>,
    /// In the clear: a cluster driver needs its secrets. Redacted wherever it leaves the scheduler.
    pub conf: BTreeMap<String, String>,
    pub deploy_mode: DeployMode,
    pub supervise: bool,
    pub user: String,
    pub priority: i32,
    pub state: RunState,
    /// Launches of the driver so far; reports of an earlier one are refused.
    pub attempt: u32,
    /// Attempts that ended in failure or silence; bounds supervision.
    pub failures: u32,
    pub submitted_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    pub error: Option<RunError>,
    pub progress: Option<Progress>,
    /// Cluster mode: the executor that was told to launch the current attempt.
    pub executor_id: Option<String>,
    /// When the launch was ordered.
    pub placed_at_ms: Option<i64>,
    pub kill_requested_at_ms: Option<i64>,
    /// With `Finished`: the job's report.
    pub report_json: Option<String>,
}

impl Run {
    /// The run as it is sent to clients, secrets redacted; queries are added by the caller.
    #[must_use]
    pub fn to_proto(&self) -> v1::Run {
        v1::Run {
            run_id: self.run_id.clone(),
            name: self.name.clone(),
            job: self.job.clone(),
            args: self.args.clone(),
            conf: super::redact::conf(&self.conf).into_iter().collect(),
            deploy_mode: match self.deploy_mode {
                DeployMode::Client => v1::DeployMode::Client.into(),
                DeployMode::Cluster => v1::DeployMode::Cluster.into(),
            },
            supervise: self.supervise,
            user: self.user.clone(),
            priority: self.priority,
            state: v1::RunState::from(self.state).into(),
            attempt: self.attempt,
            submitted_at_ms: self.submitted_at_ms,
            started_at_ms: self.started_at_ms.unwrap_or_default(),
            ended_at_ms: self.ended_at_ms.unwrap_or_default(),
            error: self.error.as_ref().map(|error| v1::RunError { code: error.code.clone(), message: error.message.clone() }),
            progress: self.progress.as_ref().map(|progress| v1::Progress {
                stage: progress.stage.clone(),
                done: progress.done,
                total: progress.total,
                rows: progress.rows,
                metrics_json: progress.metrics_json.clone(),
            }),
            driver_executor_id: self.executor_id.clone().unwrap_or_default(),
            kill_requested: self.kill_requested_at_ms.is_some(),
            queries: Vec::new(),
        }
    }
}

/// A Ballista job that belongs to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunQuery {
    pub job_id: String,
    pub run_id: String,
    /// 1 = first try of this statement.
    pub attempt: u32,
    pub label: String,
    pub statement: String,
    pub registered_at_ms: i64,
}

impl RunQuery {
    /// As sent to clients.
    #[must_use]
    pub fn to_proto(&self) -> v1::RunQuery {
        v1::RunQuery {
            job_id: self.job_id.clone(),
            attempt: self.attempt,
            label: self.label.clone(),
            statement: self.statement.clone(),
            registered_at_ms: self.registered_at_ms,
        }
    }
}
