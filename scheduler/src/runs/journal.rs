//! The run log: what happened to each run, for the history server. Never in the way: a log that cannot be written costs its events, not
//! the run.

use super::model::{DeployMode, Progress, Run, RunQuery, RunState};
use super::redact;
use chainalytics_api_types as api;
use chainalytics_common::ErrorCode;
use chainalytics_event_log::event::{ExecutorLost, KillRequested, QueryEnded, QueryRegistered, RunEnded, RunStarted, RunSubmitted};
use chainalytics_event_log::{RunEvent, RunLogWriter};
use serde_json::Value;

/// Writes run logs below the event log directory.
#[derive(Clone)]
pub struct Journal {
    writer: RunLogWriter,
    scheduler_id: String,
}

impl Journal {
    /// Writes through `writer`, which [`Journal::close`] ends.
    #[must_use]
    pub fn new(writer: RunLogWriter, scheduler_id: String) -> Self {
        Self { writer, scheduler_id }
    }

    /// A run was submitted.
    pub async fn submitted(&self, run: &Run) {
        let event = RunSubmitted {
            run_id: run.run_id.clone(),
            name: run.name.clone(),
            job: run.job.clone(),
            args: run.args.clone(),
            conf: redact::conf(&run.conf),
            user: run.user.clone(),
            deploy_mode: deploy_mode(run.deploy_mode),
            supervise: run.supervise,
            priority: run.priority,
            at_ms: run.submitted_at_ms,
            scheduler_id: self.scheduler_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.record(run, RunEvent::RunSubmitted(event)).await;
    }

    /// A transition or new progress.
    pub async fn changed(&self, before: &Run, after: &Run, now_ms: i64) {
        if before.state != RunState::Running && after.started_at_ms.is_some() && after.state == RunState::Running {
            let event = RunStarted { attempt: after.attempt, at_ms: now_ms, driver_location: after.executor_id.clone() };
            self.record(after, RunEvent::RunStarted(event)).await;
        }
        if before.kill_requested_at_ms.is_none()
            && let Some(at_ms) = after.kill_requested_at_ms
        {
            self.record(after, RunEvent::KillRequested(KillRequested { at_ms, reason: String::new() })).await;
        }
        if let Some(new) = after.progress.as_ref().filter(|progress| before.progress.as_ref() != Some(*progress)) {
            self.record(after, RunEvent::Progress(progress(new))).await;
            for batch in fresh_batches(before.progress.as_ref(), new) {
                self.record(after, RunEvent::StreamingBatch(batch)).await;
            }
        }
        if after.state.is_terminal() && !before.state.is_terminal() {
            let event = RunEnded {
                state: run_state(after.state),
                at_ms: after.ended_at_ms.unwrap_or(now_ms),
                error: after.error.as_ref().map(run_error),
                report: json(after.report_json.as_deref()),
            };
            self.record(after, RunEvent::RunEnded(event)).await;
        }
    }

    /// A query belongs to a run.
    pub async fn query_registered(&self, query: &RunQuery) {
        let event = QueryRegistered {
            job_id: query.job_id.clone(),
            attempt: query.attempt,
            label: query.label.clone(),
            statement: query.statement.clone(),
            at_ms: query.registered_at_ms,
        };
        self.writer.record_or_warn(&query.run_id, RunEvent::QueryRegistered(event)).await;
    }

    /// A query of a run ended.
    pub async fn query_ended(&self, run_id: &str, query: &api::QuerySummary, now_ms: i64) {
        let event = QueryEnded {
            job_id: query.job_id.clone(),
            state: query.state,
            validity: query.validity,
            validity_reason: query.validity_reason.clone(),
            started_at_ms: query.started_at_ms,
            ended_at_ms: query.ended_at_ms.unwrap_or(now_ms),
            output_rows: query.output_rows,
            stages_total: query.stages_total,
            stages_done: query.stages_done,
            error: query.error.clone(),
        };
        self.writer.record_or_warn(run_id, RunEvent::QueryEnded(event)).await;
    }

    /// An executor was lost that worked for a run.
    pub async fn executor_lost(&self, run_id: &str, executor_id: &str, reason: &str, now_ms: i64) {
        let event = ExecutorLost { executor_id: executor_id.to_owned(), at_ms: now_ms, reason: reason.to_owned() };
        self.writer.record_or_warn(run_id, RunEvent::ExecutorLost(event)).await;
    }

    /// Writes what is buffered.
    pub async fn close(&self) {
        self.writer.shutdown().await;
    }

    async fn record(&self, run: &Run, event: RunEvent) {
        self.writer.record_or_warn(&run.run_id, event).await;
    }
}

/// Streaming drivers report their latest committed micro-batch as the metrics of their progress, in the form of Spark's
/// `StreamingQueryProgress`, or put one or several batches under `streaming`.
#[must_use]
pub fn batches(progress: &Progress) -> Vec<api::StreamingBatch> {
    let metrics = json(Some(&progress.metrics_json));
    if let Some(batch) = api::StreamingBatch::from_query_progress(&metrics, progress.updated_at_ms) {
        return vec![batch];
    }
    let Value::Object(mut metrics) = metrics else { return Vec::new() };
    match metrics.remove("streaming") {
        Some(Value::Array(batches)) => batches.into_iter().filter_map(|batch| serde_json::from_value(batch).ok()).collect(),
        Some(batch @ Value::Object(_)) => serde_json::from_value(batch).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Batches that the progress before did not show.
#[must_use]
pub fn fresh_batches(before: Option<&Progress>, after: &Progress) -> Vec<api::StreamingBatch> {
    let known = before.map(batches).unwrap_or_default();
    batches(after).into_iter().filter(|batch| !known.iter().any(|old| old.query == batch.query && old.batch == batch.batch)).collect()
}

/// As the REST bodies have it.
#[must_use]
pub fn progress(progress: &Progress) -> api::RunProgress {
    api::RunProgress {
        phase: progress.stage.clone(),
        done: progress.done,
        total: progress.total,
        rows: progress.rows,
        updated_at_ms: progress.updated_at_ms,
        metrics: json(Some(&progress.metrics_json)),
    }
}

/// As the REST bodies have it.
#[must_use]
pub fn run_state(state: RunState) -> api::RunState {
    match state {
        RunState::Submitted => api::RunState::Submitted,
        RunState::Queued => api::RunState::Queued,
        RunState::Running => api::RunState::Running,
        RunState::Finished => api::RunState::Finished,
        RunState::Failed => api::RunState::Failed,
        RunState::Killed => api::RunState::Killed,
        RunState::Lost => api::RunState::Lost,
    }
}

/// As the REST bodies have it.
#[must_use]
pub fn deploy_mode(mode: DeployMode) -> api::DeployMode {
    match mode {
        DeployMode::Client => api::DeployMode::Client,
        DeployMode::Cluster => api::DeployMode::Cluster,
    }
}

/// As the REST bodies have it.
#[must_use]
pub fn run_error(error: &super::model::RunError) -> api::RunError {
    let known = ErrorCode::ALL.iter().find(|code| code.as_str() == error.code);
    let remedy = known.and_then(|code| code.help()).unwrap_or_default().to_owned();
    // Some drivers put the code before the message as well.
    let message = error.message.strip_prefix(&format!("[{}] ", error.code)).unwrap_or(&error.message).to_owned();
    api::RunError { code: error.code.clone(), message, remedy }
}

/// A JSON text as a value; null when it is none.
#[must_use]
pub fn json(text: Option<&str>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}
