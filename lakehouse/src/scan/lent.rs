//! Lent credentials on their way to the executors: they stand above a scan, whatever its kind, and are handed to the
//! stores of each process that decodes or runs it.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::sort_expr::PhysicalSortExpr;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SortOrderPushdownResult};

use super::build::external;
use crate::store::{LentCredentials, StoreRegistry};

/// Passes rows on as they come; everything that optimizers do to its input they may do through it.
#[derive(Debug, Clone)]
pub(crate) struct LentCredentialsExec {
    input: Arc<dyn ExecutionPlan>,
    credentials: Arc<[LentCredentials]>,
    store: Arc<StoreRegistry>,
}

/// `scan` with the credentials that were lent at these prefixes, if any were.
///
/// # Errors
/// `Unsupported` for more prefixes than a plan may carry.
pub(crate) fn with_lent(
    scan: Arc<dyn ExecutionPlan>,
    prefixes: &[String],
    store: &Arc<StoreRegistry>,
) -> chainalytics_common::Result<Arc<dyn ExecutionPlan>> {
    let credentials = store.lent_at(prefixes)?;
    if credentials.is_empty() || scan.is::<EmptyExec>() {
        return Ok(scan);
    }
    Ok(Arc::new(LentCredentialsExec::try_new(scan, credentials.into(), Arc::clone(store))?))
}

impl LentCredentialsExec {
    /// Hands the credentials to the stores at once: whoever decodes the operator runs it.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, credentials: Arc<[LentCredentials]>, store: Arc<StoreRegistry>) -> chainalytics_common::Result<Self> {
        let exec = Self { input, credentials, store };
        exec.lend()?;
        Ok(exec)
    }

    pub fn credentials(&self) -> &[LentCredentials] {
        &self.credentials
    }

    fn lend(&self) -> chainalytics_common::Result<()> {
        self.credentials.iter().try_for_each(|credentials| self.store.lend(credentials))
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, ..self.clone() })
    }
}

impl DisplayAs for LentCredentialsExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<&str> = self.credentials.iter().map(LentCredentials::prefix).collect();
        write!(f, "LentCredentialsExec: prefixes=[{}]", prefixes.join(", "))
    }
}

impl ExecutionPlan for LentCredentialsExec {
    fn name(&self) -> &'static str {
        "LentCredentialsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(self.over(input)),
            _ => Err(DataFusionError::Internal("LentCredentialsExec has exactly one input".to_owned())),
        }
    }

    fn repartitioned(&self, partitions: usize, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(self.input.repartitioned(partitions, config)?.map(|input| self.over(input)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.lend().map_err(external)?;
        self.input.execute(partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let known = inputs.first().cloned();
        Ok(known.unwrap_or_else(|| Arc::new(Statistics::new_unknown(&self.schema()))))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        self.input.with_fetch(limit).map(|input| self.over(input))
    }

    fn fetch(&self) -> Option<usize> {
        self.input.fetch()
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(self.input.try_swapping_with_projection(projection)?.map(|input| self.over(input)))
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        Ok(match self.input.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact { inner: self.over(inner) },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact { inner: self.over(inner) },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }
}
