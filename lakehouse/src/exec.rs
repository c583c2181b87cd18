//! Who runs plans: the cluster's client in a deployed system, a `SessionContext` in local mode and tests.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result as DfResult;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::{SessionConfig, SessionContext};

use chainalytics_common::{Error, Result};

use crate::lakehouse::Lakehouse;
use crate::scan::naming_damaged_files;
use crate::sql::LakehouseCatalogProvider;
use crate::store::StoreRegistry;
use crate::write::IcebergWritePlanner;

/// Runs a plan and returns its rows.
///
/// The rows of a distributed query count only if no executor that worked on it was lost meanwhile, so that an
/// implementation returns the stream only once the query is known to be valid: whoever holds the stream may
/// commit what it says.
#[async_trait]
pub trait QueryExecutor: Send + Sync {
    /// Runs a logical plan (analysed or not; it is optimised here or by the scheduler).
    async fn execute_logical(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream>;
    /// Runs a physical plan as it is.
    async fn execute_physical(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream>;
}

/// Runs plans in this process on the slots of a `SessionContext`.
#[derive(Clone)]
pub struct LocalExecutor {
    ctx: SessionContext,
}

impl LocalExecutor {
    /// `ctx` must be able to plan the extension nodes of the plans it is given and know the lakehouse's stores.
    pub fn new(ctx: SessionContext) -> Self {
        Self { ctx }
    }

    /// A context that reads and writes `lakehouse`, registered as its default catalog under `catalog`.
    pub fn open(lakehouse: &Lakehouse, catalog: &str, config: SessionConfig) -> Result<Self> {
        let config = config.with_default_catalog_and_schema(catalog, lakehouse.default_namespace());
        let store: Arc<dyn ObjectStoreRegistry> = Arc::clone(lakehouse.store()) as _;
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(store).build_arc().map_err(Error::from_datafusion)?;
        let state = SessionStateBuilder::new()
            .with_config(config.with_create_default_catalog_and_schema(false).with_information_schema(true))
            .with_runtime_env(runtime)
            .with_default_features()
            .with_query_planner(Arc::new(LocalPlanner { store: Arc::clone(lakehouse.store()) }))
            .build();
        let ctx = SessionContext::new_with_state(state);
        LakehouseCatalogProvider::register(lakehouse.clone(), &ctx, catalog);
        Ok(Self { ctx })
    }

    pub fn ctx(&self) -> &SessionContext {
        &self.ctx
    }
}

#[async_trait]
impl QueryExecutor for LocalExecutor {
    async fn execute_logical(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        let plan = self.ctx.state().create_physical_plan(&plan).await.map_err(Error::from_datafusion)?;
        self.execute_physical(plan).await
    }

    async fn execute_physical(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        let context = self.ctx.task_ctx();
        let rows = execute_stream(Arc::clone(&plan), Arc::clone(&context)).map_err(Error::from_datafusion)?;
        Ok(naming_damaged_files(rows, plan, context))
    }
}

/// DataFusion's planner with the lakehouse's nodes.
#[derive(Debug)]
struct LocalPlanner {
    store: Arc<StoreRegistry>,
}

#[async_trait]
impl QueryPlanner for LocalPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> DfResult<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(IcebergWritePlanner::new(Arc::clone(&self.store)))])
            .create_physical_plan(plan, session)
            .await
    }
}
