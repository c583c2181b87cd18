//! Makes `DataFrame::collect` and its like run on the cluster: a logical plan becomes one operator that sends it there.
//!
//! What only this process can answer is planned here: `information_schema`, EXPLAIN (without ANALYZE), and plans that read no table at all.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::planner::scans_only_information_schema;
use chainalytics_engine::ChainQueryPlanner;
use chainalytics_lakehouse::scan::IcebergTableProvider;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream::{self, TryStreamExt as _};

use super::Cluster;

/// Plans for a cluster.
pub(crate) struct ClusterPlanner {
    cluster: Cluster,
    local: ChainQueryPlanner,
}

impl ClusterPlanner {
    pub(crate) fn new(cluster: Cluster, local: ChainQueryPlanner) -> Self {
        Self { cluster, local }
    }
}

impl fmt::Debug for ClusterPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterPlanner").finish_non_exhaustive()
    }
}

#[async_trait]
impl QueryPlanner for ClusterPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let analyzed = match plan {
            LogicalPlan::Analyze(analyze) => Some(analyze.input.as_ref()),
            _ => None,
        };
        if runs_here(analyzed.unwrap_or(plan))? {
            return self.local.create_physical_plan(plan, session).await;
        }
        let state = session
            .as_any()
            .downcast_ref::<SessionState>()
            .ok_or_else(|| DataFusionError::Internal("a cluster plans only for its own sessions".to_owned()))?;
        Ok(Arc::new(ClusterQueryExec::new(self.cluster.clone(), plan.clone(), state.clone())))
    }
}

/// True for plans that this process runs by itself: explanations, and whatever reads nothing that executors could read too.
pub(crate) fn runs_here(plan: &LogicalPlan) -> Result<bool> {
    if matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) | LogicalPlan::Statement(_)) {
        return Ok(true);
    }
    if scans_only_information_schema(plan)? {
        return Ok(true);
    }
    let mut needs_cluster = false;
    plan.apply_with_subqueries(|node| {
        needs_cluster |= match node {
            LogicalPlan::TableScan(scan) => source_as_provider(&scan.source).is_ok_and(|p| p.is::<IcebergTableProvider>() || p.is::<ListingTable>()),
            node => matches!(node, LogicalPlan::Extension(_) | LogicalPlan::Copy(_)),
        };
        Ok(if needs_cluster { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(!needs_cluster)
}

/// Sends a logical plan to the cluster when executed; one partition.
struct ClusterQueryExec {
    cluster: Cluster,
    plan: LogicalPlan,
    state: SessionState,
    properties: Arc<PlanProperties>,
}

impl ClusterQueryExec {
    fn new(cluster: Cluster, plan: LogicalPlan, state: SessionState) -> Self {
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { cluster, plan, state, properties }
    }
}

impl fmt::Debug for ClusterQueryExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterQueryExec").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl DisplayAs for ClusterQueryExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(f, "ClusterQueryExec: {}", self.plan.display()),
            DisplayFormatType::TreeRender => Ok(()),
        }
    }
}

impl ExecutionPlan for ClusterQueryExec {
    fn name(&self) -> &str {
        "ClusterQueryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!("ClusterQueryExec has no partition {partition}")));
        }
        let (cluster, plan, state, schema) = (self.cluster.clone(), self.plan.clone(), self.state.clone(), self.schema());
        let rows = stream::once(async move {
            match plan {
                LogicalPlan::Analyze(analyze) => {
                    let told = cluster.analyze(Arc::unwrap_or_clone(analyze.input), Arc::clone(&schema), &state).await;
                    told.map(|batch| -> SendableRecordBatchStream {
                        Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(std::future::ready(Ok(batch)))))
                    })
                }
                plan => cluster.execute_logical(plan, &state).await,
            }
            .map_err(|error| DataFusionError::External(Box::new(error)))
        })
        .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
