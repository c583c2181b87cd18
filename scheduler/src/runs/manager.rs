//! Runs in motion: takes what happens, lets [`states`] decide, keeps it ([`RunStore`], journal), and does what follows.
//!
//! Order per event, under one lock: decide, write to the store, publish. Only then effects are carried out, so that a scheduler that dies
//! in between finds on its return what it had decided, and does it again: every effect is idempotent.

use super::journal::{self, Journal};
use super::logs::DriverLogs;
use super::model::{DeployMode, Progress, Run, RunError, RunQuery, RunState};
use super::states::{self, At, Effect, Event, Limits};
use super::store::{Filter, RunStore, StoreError};
use crate::clock::now_ms;
use crate::executors::directory::Directory;
use crate::guard::Guard;
use chainalytics_common::{Error, ErrorCode};
use chainalytics_proto::v1;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Latest queries of a run that are answered with it.
pub const QUERIES_PER_RUN_MAX: u32 = 1_000;
/// Latest micro-batches shown of a run in progress.
const BATCHES_MAX: usize = 50;
/// Longest statement kept.
const STATEMENT_CHARS_MAX: usize = 100_000;

/// Times and bounds, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// A driver that is silent for longer is gone.
    pub driver_timeout: Duration,
    /// An executor that has not started a driver for longer is not going to.
    pub launch_timeout: Duration,
    /// Between asking a driver to end and giving it up.
    pub kill_grace: Duration,
    /// How often drivers report.
    pub report_interval: Duration,
    /// Ended runs that are remembered.
    pub runs_kept: u32,
    /// Drivers on one executor at a time.
    pub drivers_per_executor_max: usize,
    /// See [`Limits`].
    pub limits: Limits,
}

/// What a caller did wrong, or what went wrong here.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// No such run.
    #[error("run {0} is not known to this scheduler")]
    UnknownRun(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A log failed.
    #[error("driver log: {0}")]
    Log(#[from] std::io::Error),
}

impl RunsError {
    /// The platform's code for it.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownRun(_) => ErrorCode::NotFound,
            Self::Invalid(_) => ErrorCode::InvalidArgument,
            Self::Store(_) => ErrorCode::Internal,
            Self::Log(_) => ErrorCode::Io,
        }
    }
}

impl From<RunsError> for tonic::Status {
    fn from(error: RunsError) -> Self {
        // The platform's code stands in front of the message, where `Error::parse` finds it again.
        let message = Error::new(error.code(), error.to_string()).to_string();
        match error {
            RunsError::UnknownRun(_) => Self::not_found(message),
            RunsError::Invalid(_) => Self::invalid_argument(message),
            RunsError::Store(_) | RunsError::Log(_) => Self::internal(message),
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, RunsError>;

/// Shared handle; cheap to clone.
#[derive(Clone)]
pub struct Runs {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: RunStore,
    journal: Journal,
    pub(super) logs: DriverLogs,
    pub(super) guard: Guard,
    pub(super) directory: Directory,
    pub(super) options: RunOptions,
    /// Runs that have not ended.
    pub(super) open: Mutex<HashMap<String, Open>>,
}

pub(super) struct Open {
    pub(super) run: Run,
    pub(super) last_heard: Instant,
    /// The executor of the attempt before, to be avoided by the next.
    pub(super) avoid: Option<String>,
    /// Latest micro-batches of a streaming driver, newest last.
    batches: VecDeque<chainalytics_api_types::StreamingBatch>,
}

impl Runs {
    /// Opens what an earlier scheduler left. Drivers get one time-out to be heard of again.
    pub async fn recover(
        store: RunStore,
        journal: Journal,
        logs: DriverLogs,
        guard: Guard,
        directory: Directory,
        options: RunOptions,
    ) -> Result<Self> {
        let now = Instant::now();
        let open: HashMap<String, Open> = store
            .open_runs()
            .await?
            .into_iter()
            .map(|run| (run.run_id.clone(), Open { run, last_heard: now, avoid: None, batches: VecDeque::new() }))
            .collect();
        if !open.is_empty() {
            tracing::info!(runs = open.len(), "runs of an earlier scheduler are taken up");
        }
        let runs = Self { inner: Arc::new(Inner { store, journal, logs, guard, directory, options, open: Mutex::new(open) }) };
        let submitted: Vec<String> = {
            let open = runs.inner.open.lock().await;
            open.values().filter(|o| o.run.state == RunState::Submitted).map(|o| o.run.run_id.clone()).collect()
        };
        for run_id in submitted {
            runs.happen(&run_id, &Event::Accepted).await?;
        }
        Ok(runs)
    }

    /// Submits a run; the same id twice is the same run. Answers whether it is new.
    pub async fn submit(&self, request: v1::SubmitRunRequest) -> Result<(Run, bool)> {
        let deploy_mode = match request.deploy_mode() {
            v1::DeployMode::Cluster => DeployMode::Cluster,
            v1::DeployMode::Client | v1::DeployMode::Unspecified => DeployMode::Client,
        };
        if uuid::Uuid::parse_str(&request.run_id).is_err() {
            return Err(RunsError::Invalid(format!("run id '{}' is not a UUID", request.run_id)));
        }
        if request.job.is_empty() {
            return Err(RunsError::Invalid("a run names its job".to_owned()));
        }
        let run = Run {
            name: if request.name.is_empty() { request.job.clone() } else { request.name },
            run_id: request.run_id,
            job: request.job,
            args: request.args,
            conf: request.conf.into_iter().collect(),
            deploy_mode,
            supervise: request.supervise,
            user: request.user,
            priority: request.priority,
            state: RunState::Submitted,
            attempt: 0,
            failures: 0,
            submitted_at_ms: now_ms(),
            started_at_ms: None,
            ended_at_ms: None,
            error: None,
            progress: None,
            executor_id: None,
            placed_at_ms: None,
            kill_requested_at_ms: None,
            report_json: None,
        };
        let run_id = run.run_id.clone();
        let created = {
            let mut open = self.inner.open.lock().await;
            let created = self.inner.store.insert(&run).await?;
            if created {
                self.inner.journal.submitted(&run).await;
                open.insert(run_id.clone(), Open { run, last_heard: Instant::now(), avoid: None, batches: VecDeque::new() });
            }
            created
        };
        if created {
            self.happen(&run_id, &Event::Accepted).await?;
            tracing::info!(run_id, "run submitted");
        }
        Ok((self.get(&run_id).await?, created))
    }

    /// One run.
    pub async fn get(&self, run_id: &str) -> Result<Run> {
        if let Some(entry) = self.inner.open.lock().await.get(run_id) {
            return Ok(entry.run.clone());
        }
        self.inner.store.get(run_id).await?.ok_or_else(|| RunsError::UnknownRun(run_id.to_owned()))
    }

    /// Is there such a run?
    pub async fn exists(&self, run_id: &str) -> Result<bool> {
        match self.get(run_id).await {
            Ok(_) => Ok(true),
            Err(RunsError::UnknownRun(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Newest first, with the number of all that match.
    pub async fn list(&self, filter: &Filter) -> Result<(Vec<Run>, u64)> {
        Ok(self.inner.store.list(filter).await?)
    }

    /// Latest micro-batches of a run in progress, newest last.
    pub async fn recent_batches(&self, run_id: &str) -> Vec<chainalytics_api_types::StreamingBatch> {
        let open = self.inner.open.lock().await;
        open.get(run_id).map(|entry| entry.batches.iter().cloned().collect()).unwrap_or_default()
    }

    /// The run log.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// The store, for what is only read.
    #[must_use]
    pub fn store(&self) -> &RunStore {
        &self.inner.store
    }

    /// The drivers' logs.
    #[must_use]
    pub fn logs(&self) -> &DriverLogs {
        &self.inner.logs
    }

    /// The times and bounds in force.
    #[must_use]
    pub fn options(&self) -> &RunOptions {
        &self.inner.options
    }

    /// Asks for the end of a run.
    pub async fn kill(&self, run_id: &str, reason: &str) -> Result<Run> {
        let before = self.get(run_id).await?;
        if !before.state.is_terminal() {
            tracing::info!(run_id, reason, "kill requested");
        }
        self.happen(run_id, &Event::KillRequested).await?;
        self.get(run_id).await
    }

    /// A driver reports.
    pub async fn report(&self, request: v1::ReportRunRequest) -> Result<v1::ReportRunResponse> {
        let run = self.get(&request.run_id).await?;
        let state = request.state();
        let superseded = (request.attempt != 0 && request.attempt < run.attempt)
            || (run.deploy_mode == DeployMode::Cluster && run.executor_id.is_none() && !run.state.is_terminal());
        if superseded {
            return Ok(self.answer(&run, true));
        }
        let progress = request.progress.map(|progress| Progress {
            stage: progress.stage,
            done: progress.done,
            total: progress.total,
            rows: progress.rows,
            metrics_json: progress.metrics_json,
            updated_at_ms: now_ms(),
        });
        let event = match state {
            v1::RunState::Finished => Event::Finished { report_json: (!request.report_json.is_empty()).then_some(request.report_json), progress },
            v1::RunState::Failed => Event::Failed {
                error: match request.error {
                    Some(error) => RunError { code: error.code, message: error.message },
                    None => RunError { code: ErrorCode::RunFailed.as_str().to_owned(), message: "the driver gave no reason".to_owned() },
                },
            },
            v1::RunState::Killed => Event::Stopped,
            v1::RunState::Unspecified | v1::RunState::Running => Event::Heartbeat { progress },
            v1::RunState::Submitted | v1::RunState::Queued | v1::RunState::Lost => {
                return Err(RunsError::Invalid(format!("a driver cannot report the state '{}'", state.label())));
            }
        };
        self.heard_of(&request.run_id).await;
        self.happen(&request.run_id, &event).await?;
        let run = self.get(&request.run_id).await?;
        // A driver that reports its own end is not superseded by it; one that works on although its run has ended is.
        let still_working = matches!(event, Event::Heartbeat { .. });
        Ok(self.answer(&run, still_working && run.state.is_terminal()))
    }

    fn answer(&self, run: &Run, superseded: bool) -> v1::ReportRunResponse {
        v1::ReportRunResponse {
            kill_requested: run.kill_requested_at_ms.is_some(),
            superseded,
            report_interval_ms: u64::try_from(self.inner.options.report_interval.as_millis()).unwrap_or(1_000),
            state: v1::RunState::from(run.state).into(),
        }
    }

    /// A query belongs to a run. Answers whether the run was asked to end (then the query is cancelled).
    pub async fn register_query(&self, request: v1::RegisterQueryRequest) -> Result<bool> {
        let run = self.get(&request.run_id).await?;
        let query = RunQuery {
            job_id: request.job_id,
            run_id: request.run_id,
            attempt: request.attempt.max(1),
            label: request.label,
            statement: request.statement.chars().take(STATEMENT_CHARS_MAX).collect(),
            registered_at_ms: now_ms(),
        };
        if self.inner.store.insert_query(&query).await? {
            self.inner.journal.query_registered(&query).await;
        }
        self.inner.guard.query_registered(&query.job_id);
        let ending = run.kill_requested_at_ms.is_some() || run.state.is_terminal();
        if ending {
            self.inner.guard.cancel_query(&query.job_id, "its run was asked to end").await;
        }
        Ok(ending)
    }

    /// An executor tells of a driver that it launched.
    pub async fn driver_status(&self, request: v1::DriverStatusRequest) -> Result<()> {
        let run = self.get(&request.run_id).await?;
        // Not compared with the executor's id: that one may have come back under a new id, with the driver still at work.
        if request.attempt != run.attempt || run.executor_id.is_none() {
            return Ok(());
        }
        let event = match request.status {
            Some(v1::driver_status_request::Status::Started(_)) => Event::Heartbeat { progress: None },
            Some(v1::driver_status_request::Status::Exited(exited)) => {
                Event::Exited { code: exited.code, signal: exited.signal, stderr_tail: exited.stderr_tail }
            }
            Some(v1::driver_status_request::Status::LaunchFailed(failed)) => Event::LaunchFailed { message: failed.message },
            None => return Err(RunsError::Invalid("a driver status without a status".to_owned())),
        };
        self.heard_of(&request.run_id).await;
        self.happen(&request.run_id, &event).await
    }

    /// The drivers that an executor's ping lists are alive, or must be ended when nobody wants them.
    pub async fn executor_pinged(&self, executor_id: &str, drivers: &[v1::RunningDriver]) {
        for driver in drivers {
            let current = match self.get(&driver.run_id).await {
                Ok(run) => !run.state.is_terminal() && run.attempt == driver.attempt && run.executor_id.is_some(),
                // Not ours: another data directory, or wiped. Its driver finds out by itself.
                Err(RunsError::UnknownRun(_)) => continue,
                Err(error) => {
                    tracing::warn!(run_id = driver.run_id, %error, "could not read a run");
                    continue;
                }
            };
            if current {
                self.heard_of(&driver.run_id).await;
                if let Err(error) = self.happen(&driver.run_id, &Event::Heartbeat { progress: None }).await {
                    tracing::warn!(run_id = driver.run_id, %error, "could not note a driver's heartbeat");
                }
            } else {
                self.order_kill(executor_id, &driver.run_id, driver.attempt);
            }
        }
    }

    /// After everything else has ended: writes what is buffered and closes the store.
    pub async fn close(&self) {
        self.inner.journal.close().await;
        self.inner.store.close().await;
    }

    /// Something happened to a run: decide, keep, publish, act.
    pub(super) async fn happen(&self, run_id: &str, event: &Event) -> Result<()> {
        let (run, effects) = {
            let mut open = self.inner.open.lock().await;
            let Some(entry) = open.get_mut(run_id) else { return Ok(()) };
            let at = At { now_ms: now_ms(), limits: self.inner.options.limits };
            let Some((next, effects)) = states::apply(&entry.run, event, at) else { return Ok(()) };
            self.inner.store.update(&next).await?;
            self.inner.journal.changed(&entry.run, &next, at.now_ms).await;
            note_batches(entry, &next);
            if next.state != entry.run.state {
                tracing::info!(run_id, from = entry.run.state.label(), to = next.state.label(), "run");
            }
            if next.executor_id.is_none() && entry.run.executor_id.is_some() {
                entry.avoid = entry.run.executor_id.clone();
            }
            entry.run = next.clone();
            if next.state.is_terminal() {
                open.remove(run_id);
            }
            (next, effects)
        };
        for effect in effects {
            match effect {
                Effect::Launch { executor_id } => self.order_launch(&executor_id, &run),
                Effect::KillDriver { executor_id, attempt } => self.order_kill(&executor_id, run_id, attempt),
                Effect::CancelQueries => self.cancel_queries(run_id).await?,
            }
        }
        Ok(())
    }

    pub(super) fn order_launch(&self, executor_id: &str, run: &Run) {
        let launch = v1::LaunchDriver {
            run_id: run.run_id.clone(),
            attempt: run.attempt,
            job: run.job.clone(),
            args: run.args.clone(),
            conf: run.conf.clone().into_iter().collect(),
            name: run.name.clone(),
            user: run.user.clone(),
        };
        // Not sent: the tick repeats it, or gives the executor up.
        self.inner.directory.send(executor_id, v1::command::Command::LaunchDriver(launch));
    }

    fn order_kill(&self, executor_id: &str, run_id: &str, attempt: u32) {
        let grace_ms = u64::try_from(self.inner.options.kill_grace.as_millis() / 2).unwrap_or(5_000);
        let kill = v1::KillDriver { run_id: run_id.to_owned(), attempt, grace_ms };
        self.inner.directory.send(executor_id, v1::command::Command::KillDriver(kill));
    }

    async fn cancel_queries(&self, run_id: &str) -> Result<()> {
        for query in self.inner.store.queries_of(run_id, QUERIES_PER_RUN_MAX).await? {
            self.inner.guard.cancel_query(&query.job_id, "its run has ended or was asked to").await;
        }
        Ok(())
    }
}

fn note_batches(entry: &mut Open, next: &Run) {
    let Some(progress) = &next.progress else { return };
    entry.batches.extend(journal::fresh_batches(entry.run.progress.as_ref(), progress));
    while entry.batches.len() > BATCHES_MAX {
        entry.batches.pop_front();
    }
}
