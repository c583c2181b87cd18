//! Turns logical plans into physical ones, our own nodes included.

use std::sync::Arc;

use async_trait::async_trait;
use chainalytics_lakehouse::StoreRegistry;
use chainalytics_lakehouse::write::IcebergWritePlanner;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use crate::uniform_leaves::uniform_leaves;

/// DataFusion's planner with the extension planners of the lakehouse (Iceberg writes).
pub struct ChainQueryPlanner {
    inner: DefaultPhysicalPlanner,
}

impl std::fmt::Debug for ChainQueryPlanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainQueryPlanner").finish_non_exhaustive()
    }
}

impl ChainQueryPlanner {
    /// `store` is what written files go through.
    #[must_use]
    pub fn new(store: Arc<StoreRegistry>) -> Self {
        Self { inner: DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(IcebergWritePlanner::new(store))]) }
    }
}

#[async_trait]
impl QueryPlanner for ChainQueryPlanner {
    async fn create_physical_plan(&self, logical_plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        uniform_leaves(self.inner.create_physical_plan(logical_plan, session).await?)
    }
}
