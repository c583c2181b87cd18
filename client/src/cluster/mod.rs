//! Runs queries on a cluster so that their rows can be trusted: submit, follow, fetch, let the scheduler vouch, or do it all again.

mod analyze;
mod fetch;
mod materialise;
mod planner;
mod reason;
mod retry;
mod spool;
mod submit;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ballista_core::config::BALLISTA_JOB_NAME;
use ballista_core::extension::SessionConfigHelperExt as _;
use ballista_core::serde::protobuf::KeyValuePair;
use ballista_core::serde::protobuf::execute_query_params::Query;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_engine::Engine;
use chainalytics_proto::v1::Validity;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::logical_plan::AsLogicalPlan as _;
use datafusion_proto::physical_plan::AsExecutionPlan as _;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio_util::task::TaskTracker;

pub(crate) use planner::{ClusterPlanner, runs_here};

use self::fetch::FetchError;
use self::retry::{Ended, Verdict};
use self::spool::{Budget, Spool};
use self::submit::{Fate, SchedulerClient};
use crate::run_client::RunClient;
use crate::run_context::RunContext;

/// What of a statement names its query in the pages.
const LABEL_CHARS_MAX: usize = 120;
/// Pause before a query is repeated, times the attempts so far up to [`REPEAT_BACKOFF_STEPS`].
const REPEAT_BACKOFF: Duration = Duration::from_millis(300);
const REPEAT_BACKOFF_STEPS: u32 = 5;
/// How often the scheduler is asked, while rows are fetched, whether they still count.
const VALIDITY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a success that the scheduler told of may take to be noted there, and how often it is asked.
const NOTED_TIMEOUT: Duration = Duration::from_secs(5);
const NOTED_INTERVAL: Duration = Duration::from_millis(10);

/// How the driver treats its queries.
#[derive(Clone, Debug)]
pub(crate) struct QuerySettings {
    pub(crate) max_attempts: u32,
    /// For all attempts of one query together.
    pub(crate) timeout: Option<Duration>,
    pub(crate) spool_memory_bytes: usize,
    pub(crate) spool_dir: PathBuf,
    pub(crate) max_message_bytes: usize,
}

/// The way to one cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    scheduler: SchedulerClient,
    runs: RunClient,
    session_id: String,
    settings: QuerySettings,
    run: RunContext,
    /// Numbers the statements of this session, for names.
    statements: AtomicU32,
    /// Cancellations and clean-ups under way.
    tracker: TaskTracker,
}

/// A result that counts.
struct Answer {
    /// The Ballista job that gave it.
    job_id: String,
    /// 1 = the first.
    attempt: u32,
    spools: Vec<Spool>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("session_id", &self.shared.session_id).finish_non_exhaustive()
    }
}

impl Cluster {
    pub(crate) fn new(engine: Engine, scheduler: SchedulerClient, runs: RunClient, settings: QuerySettings, run: RunContext) -> Self {
        let session_id = uuid::Uuid::now_v7().to_string();
        Self {
            shared: Arc::new(Shared {
                engine,
                scheduler,
                runs,
                session_id,
                settings,
                run,
                statements: AtomicU32::new(0),
                tracker: TaskTracker::new(),
            }),
        }
    }

    /// Runs a logical plan that was optimised with `state`'s options.
    pub(crate) async fn execute_logical(&self, plan: LogicalPlan, state: &SessionState) -> Result<SendableRecordBatchStream> {
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        fetch::into_stream(self.run_logical(plan, state).await?.spools, schema).await
    }

    async fn run_logical(&self, plan: LogicalPlan, state: &SessionState) -> Result<Answer> {
        refuse_commits(&plan)?;
        let statement = plan.display_indent().to_string();
        let plan = materialise::local_tables(plan, state).await.map_err(Error::from_datafusion)?;
        let codec = self.shared.engine.logical_codec();
        let mut bytes = Vec::new();
        LogicalPlanNode::try_from_logical_plan(&plan, codec.as_ref()).and_then(|node| node.try_encode(&mut bytes)).map_err(Error::from_datafusion)?;
        self.execute(Query::LogicalPlan(bytes), statement, state).await
    }

    /// Runs a physical plan as it is.
    pub(crate) async fn execute_physical(&self, plan: Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<SendableRecordBatchStream> {
        let statement = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
        let schema = plan.schema();
        let codec = self.shared.engine.physical_codec();
        let mut bytes = Vec::new();
        PhysicalPlanNode::try_from_physical_plan(plan, codec.as_ref())
            .and_then(|node| node.try_encode(&mut bytes))
            .map_err(Error::from_datafusion)?;
        fetch::into_stream(self.execute(Query::PhysicalPlan(bytes), statement, state).await?.spools, schema).await
    }

    /// Waits for cancellations under way, a bounded time.
    pub(crate) async fn close(&self, timeout: Duration) {
        self.shared.tracker.close();
        if tokio::time::timeout(timeout, self.shared.tracker.wait()).await.is_err() {
            tracing::warn!("some queries may not have been cancelled");
        }
    }

    async fn execute(&self, query: Query, statement: String, state: &SessionState) -> Result<Answer> {
        let label = self.label();
        let attempts = self.attempts(query, &label, &statement, state);
        let cancelled = self.shared.run.cancelled();
        tokio::select! {
            answer = within(self.shared.settings.timeout, attempts) => answer,
            () = cancelled => Err(Error::new(ErrorCode::Cancelled, "the run was asked to end".to_owned())),
        }
    }

    /// Tries until a result counts, at most so many times.
    async fn attempts(&self, query: Query, label: &str, statement: &str, state: &SessionState) -> Result<Answer> {
        let mut settings = self.session_settings(label, state);
        let max_attempts = self.shared.settings.max_attempts.max(1);
        let mut attempt = 1;
        loop {
            let mut submitted =
                submit::submit(&self.shared.scheduler, &self.shared.tracker, &self.shared.session_id, settings.clone(), query.clone()).await?;
            let job_id = submitted.job_id.clone();
            tracing::debug!(job_id, label, attempt, "query submitted");
            self.register(&job_id, attempt, label, statement).await?;

            let (ended, spools) = match submitted.wait().await? {
                Fate::Succeeded(locations) => {
                    let budget = Budget::new(self.shared.settings.spool_memory_bytes, self.shared.settings.spool_dir.clone());
                    let fetching = fetch::fetch(locations, &budget, self.shared.settings.max_message_bytes);
                    let fetched = tokio::select! {
                        fetched = fetching => fetched,
                        // A frozen executor accepts connections and answers nothing: its lease tells.
                        message = self.until_invalid(&job_id) => Err(FetchError::Lost(message)),
                    };
                    match fetched {
                        Ok(spools) => (Ended::Fetched, spools),
                        Err(FetchError::Lost(message)) => (Ended::FetchFailed(message), vec![]),
                        Err(FetchError::Local(error)) => {
                            submitted.clean();
                            return Err(error);
                        }
                    }
                }
                Fate::Failed(message) => (Ended::Failed(message), vec![]),
                Fate::Forgotten => (Ended::Forgotten, vec![]),
            };
            let (validity, detail) = self.validity(&ended, &job_id).await?;
            submitted.clean();
            match retry::judge(&ended, validity, &detail, attempt, max_attempts) {
                Verdict::Accept => return Ok(Answer { job_id, attempt, spools }),
                Verdict::Fail(error)
                    if error.code() == ErrorCode::ResourcesExhausted
                        && matches!(query, Query::LogicalPlan(_))
                        && retry::without_hash_joins(&mut settings) =>
                {
                    tracing::warn!(job_id, label, attempt, %error, "running a query again with joins that spill");
                    attempt += 1;
                }
                Verdict::Fail(error) => return Err(error),
                Verdict::Repeat(reason) => {
                    tracing::warn!(job_id, label, attempt, reason, "running a query again from its start");
                    // The scheduler may notice the loss only now; asked again at once it would send tasks to the same executor.
                    tokio::time::sleep(REPEAT_BACKOFF * attempt.min(REPEAT_BACKOFF_STEPS)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Ends when the scheduler says that the query's result does not count; with the reason.
    async fn until_invalid(&self, job_id: &str) -> String {
        loop {
            tokio::time::sleep(VALIDITY_INTERVAL).await;
            match self.shared.runs.validate_query(job_id).await {
                // The scheduler tells of the success before it has noted it.
                Ok(answer) if !answer.valid && answer.reason() == Validity::NotSuccessful => {}
                Ok(answer) if !answer.valid => return format!("{} {}", answer.reason().label(), answer.detail),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// What the scheduler says about the result. Without an answer nothing counts.
    async fn validity(&self, ended: &Ended, job_id: &str) -> Result<(Validity, String)> {
        if *ended == Ended::Forgotten {
            return Ok((Validity::Unknown, String::new()));
        }
        // The scheduler tells of the success before it has noted it: ask again for a while.
        let deadline = tokio::time::Instant::now() + NOTED_TIMEOUT;
        let mut answer = self.shared.runs.validate_query(job_id).await?;
        while matches!(ended, Ended::Fetched) && !answer.valid && answer.reason() == Validity::NotSuccessful && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(NOTED_INTERVAL).await;
            answer = self.shared.runs.validate_query(job_id).await?;
        }
        let reason = answer.reason();
        // `valid` is what counts; a reason from a newer scheduler may be unknown here.
        let validity = if answer.valid {
            Validity::Ok
        } else if reason == Validity::Ok {
            Validity::Unknown
        } else {
            reason
        };
        Ok((validity, answer.detail))
    }

    async fn register(&self, job_id: &str, attempt: u32, label: &str, statement: &str) -> Result<()> {
        let Some(run_id) = self.shared.run.run_id() else { return Ok(()) };
        if self.shared.runs.register_query(run_id, job_id, attempt, label, statement).await? {
            return Err(Error::new(ErrorCode::Cancelled, "the run was asked to end".to_owned()));
        }
        Ok(())
    }

    fn label(&self) -> String {
        let number = self.shared.statements.fetch_add(1, Ordering::Relaxed) + 1;
        let step = self.shared.run.step_label();
        match (self.shared.run.name(), step) {
            (Some(name), Some(step)) => format!("{name}: {step} #{number}"),
            (Some(name), None) => format!("{name} #{number}"),
            (None, _) => match self.shared.run.statement() {
                Some(statement) => statement_label(&statement),
                None => format!("query #{number}"),
            },
        }
    }

    fn session_settings(&self, label: &str, state: &SessionState) -> Vec<KeyValuePair> {
        let mut settings = state.config().to_key_value_pairs();
        settings.retain(|pair| pair.key != BALLISTA_JOB_NAME);
        settings.push(KeyValuePair { key: BALLISTA_JOB_NAME.to_owned(), value: Some(label.to_owned()) });
        settings
    }
}

/// The beginning of a statement on one line.
fn statement_label(statement: &str) -> String {
    let line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LABEL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout {
        None => work.await,
        Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorCode::Timeout, format!("the query did not end within query.timeout ({timeout:?}); it was cancelled")))
        }),
    }
}

/// No plan that executors run may commit: statements that change tables are planned in the driver, which alone commits.
fn refuse_commits(plan: &LogicalPlan) -> Result<()> {
    match plan {
        LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) => {
            Err(Error::new(ErrorCode::Internal, format!("a {} statement cannot be sent to a cluster; it is the driver's to plan", plan.display())))
        }
        _ => Ok(()),
    }
}
