//! A session: the catalog, the planner and whoever runs the plans, in this process or on a cluster.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chainalytics_common::{Config, Error, ErrorCode, Master, Result, keys};
use chainalytics_engine::Engine;
use chainalytics_engine::options::MAX_MESSAGE_BYTES;
use chainalytics_lakehouse::commit::TableOutcome;
use chainalytics_lakehouse::dml::{WriteMode, WriteOptions, write_dataframe};
use chainalytics_lakehouse::exec::QueryExecutor;
use chainalytics_lakehouse::scan::{name_damaged_file, naming_damaged_files};
use chainalytics_lakehouse::sql::{self, LakehouseCatalogProvider, StatementResult};
use chainalytics_lakehouse::{Lakehouse, StoreRegistry, TableIdent};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;

use crate::cluster::{Cluster, ClusterPlanner, QuerySettings};
use crate::connect;
use crate::local;
use crate::run_client::RunClient;
use crate::run_context::RunContext;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The way to the tables and to whoever runs plans over them. Cheap to clone; clones share the run context.
///
/// Its futures are boxed: as plain async functions their types nest the whole planner, which the compiler then proves to be `Send` again in every
/// crate that awaits them.
#[derive(Clone)]
pub struct Session {
    config: Arc<Config>,
    lakehouse: Lakehouse,
    ctx: SessionContext,
    cluster: Option<Cluster>,
    runs: Option<RunClient>,
    run: RunContext,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("cluster", &self.cluster).field("run", &self.run).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens the lakehouse and, for a cluster, connects to its scheduler.
    ///
    /// # Errors
    /// `SchedulerUnreachable`, `Config`, whatever keeps the catalog from opening.
    pub async fn connect(config: Arc<Config>, master: Master) -> Result<Self> {
        Self::connect_for(config, master, RunContext::default()).await
    }

    /// As [`Session::connect`], for a run that the scheduler knows.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_for(config: Arc<Config>, master: Master, run: RunContext) -> Result<Self> {
        // First what fails fastest and most often.
        let channel = match &master {
            Master::Cluster(url) => Some((connect::connect(url).await?, url.clone())),
            Master::Local(_) => None,
        };
        let lakehouse = Lakehouse::open(&config).await?;
        let engine = Engine::with_store(Arc::clone(&config), Arc::clone(lakehouse.store()))?;
        let (state, cluster, runs) = match (&master, channel) {
            (Master::Cluster(_), Some((channel, url))) => {
                let settings = query_settings(&config);
                let scheduler = ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient::new(channel.clone())
                    .max_encoding_message_size(settings.max_message_bytes)
                    .max_decoding_message_size(settings.max_message_bytes);
                let runs = RunClient::new(channel, &url);
                let cluster = Cluster::new(engine.clone(), scheduler, runs.clone(), settings, run.clone());
                let planner = ClusterPlanner::new(cluster.clone(), engine.query_planner());
                (engine.planning_state(Arc::new(planner))?, Some(cluster), Some(runs))
            }
            (Master::Local(threads), _) => (engine.local_state(*threads)?, None, None),
            (Master::Cluster(url), None) => return Err(Error::internal(format!("no connection to {url}"))),
        };
        let ctx = SessionContext::new_with_state(state);
        LakehouseCatalogProvider::register(lakehouse.clone(), &ctx, &config.get(&keys::CATALOG_NAME)).refresh().await?;
        Ok(Self { config, lakehouse, ctx, cluster, runs, run })
    }

    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    #[must_use]
    pub fn lakehouse(&self) -> &Lakehouse {
        &self.lakehouse
    }

    /// DataFusion's context with the lakehouse as its default catalog. Its data frames run where this session's queries run.
    #[must_use]
    pub fn ctx(&self) -> &SessionContext {
        &self.ctx
    }

    #[must_use]
    pub fn store(&self) -> &Arc<StoreRegistry> {
        self.lakehouse.store()
    }

    #[must_use]
    pub fn run(&self) -> &RunContext {
        &self.run
    }

    /// The run service; none with `--master local[N]`.
    #[must_use]
    pub fn runs(&self) -> Option<&RunClient> {
        self.runs.as_ref()
    }

    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Runs one SQL statement, queries and statements that change tables alike.
    ///
    /// # Errors
    /// Of the statement: its code tells syntax, missing tables, conflicts, lost executors apart.
    pub fn sql<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<StatementResult>> {
        Box::pin(async move {
            let options = self.write_options(self.run.next_step());
            self.run.set_statement(statement);
            sql::execute(&self.ctx, &self.lakehouse, self, statement, options).await
        })
    }

    /// Plans a query, time travel included, without running it.
    ///
    /// # Errors
    /// Syntax errors, missing tables and columns.
    pub fn dataframe<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<DataFrame>> {
        Box::pin(async move {
            self.run.set_statement(query);
            let plan = sql::plan_query(&self.ctx, &self.lakehouse, query).await?;
            Ok(DataFrame::new(self.ctx.state(), plan))
        })
    }

    /// A table of the lakehouse as a data frame, at its newest snapshot.
    ///
    /// # Errors
    /// Missing table.
    pub fn table<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<DataFrame>> {
        Box::pin(async move { self.ctx.table(name).await.map_err(Error::from_datafusion) })
    }

    /// Writes the rows of `frame` to `table` and commits. A `step` that this run committed before is found done and not written again.
    ///
    /// # Errors
    /// Missing table, schema mismatch, conflict, lost executors.
    pub fn write<'a>(&'a self, frame: DataFrame, table: &'a TableIdent, mode: WriteMode, step: &'a str) -> BoxFuture<'a, Result<TableOutcome>> {
        Box::pin(async move {
            self.run.set_step(Some(step));
            let outcome = write_dataframe(&self.lakehouse, self, frame, table, mode, &self.write_options(step.to_owned())).await;
            self.run.set_step(None);
            outcome
        })
    }

    /// Waits, for at most three seconds, until queries that were let go are cancelled. Call it before the process ends.
    pub async fn close(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.close(CLOSE_TIMEOUT).await;
        }
    }
}

#[async_trait]
impl QueryExecutor for Session {
    async fn execute_logical(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        let state = self.ctx.state();
        match &self.cluster {
            Some(cluster) => {
                let plan = state.optimize(&plan).map_err(Error::from_datafusion)?;
                if crate::cluster::runs_here(&plan).map_err(Error::from_datafusion)? {
                    return local::execute(&plan, &state).await;
                }
                match cluster.execute_logical(plan.clone(), &state).await {
                    Err(error) if error.code() == ErrorCode::QueryFailed => {
                        let physical = state.create_physical_plan(&plan).await.map_err(Error::from_datafusion);
                        Err(self.naming_files(error, physical).await)
                    }
                    done => done,
                }
            }
            None => local::execute(&plan, &state).await,
        }
    }

    async fn execute_physical(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        match &self.cluster {
            Some(cluster) => match cluster.execute_physical(Arc::clone(&plan), &self.ctx.state()).await {
                Err(error) if error.code() == ErrorCode::QueryFailed => Err(self.naming_files(error, Ok(plan)).await),
                done => done,
            },
            None => {
                let context = self.ctx.task_ctx();
                let rows = execute_stream(Arc::clone(&plan), Arc::clone(&context)).map_err(Error::from_datafusion)?;
                Ok(naming_damaged_files(rows, plan, context))
            }
        }
    }
}

impl Session {
    /// The error of a query that executors could not finish; if it is about a data file that it does not name, one that does.
    async fn naming_files(&self, error: Error, plan: Result<Arc<dyn ExecutionPlan>>) -> Error {
        match plan {
            Ok(plan) => Error::from_datafusion(name_damaged_file(error.into(), &plan, &self.ctx.task_ctx()).await),
            Err(_) => error,
        }
    }

    /// Options that tie a commit to this run and `step`, so that a repeated step finds itself done. Without a run commits are free.
    #[must_use]
    pub fn write_options(&self, step: impl Into<String>) -> WriteOptions {
        self.run.run_id().map_or_else(WriteOptions::default, |run_id| WriteOptions::step(run_id, step))
    }
}

fn query_settings(config: &Config) -> QuerySettings {
    let timeout = config.get(&keys::QUERY_TIMEOUT);
    QuerySettings {
        max_attempts: config.get(&keys::QUERY_MAX_ATTEMPTS),
        timeout: (!timeout.is_zero()).then_some(timeout),
        spool_memory_bytes: usize::try_from(config.get(&keys::QUERY_SPOOL_MEMORY).as_u64()).unwrap_or(usize::MAX),
        spool_dir: config.data_dir().join("tmp"),
        max_message_bytes: MAX_MESSAGE_BYTES,
    }
}
