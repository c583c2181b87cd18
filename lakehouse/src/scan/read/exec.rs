use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::conjunction_opt;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use super::load::Loader;
use super::open::{ParquetOpener, Reader};
use super::predicate;
use super::spec::{ReadSpec, from_batch};
use super::tally::Tally;
use crate::store::StoreRegistry;

/// Parquet pages decode to a few times their stored size.
const DECODED_PER_STORED_BYTE: u64 = 3;

/// Reads the units of its input (see `unit_source`) and gives the rows that are not deleted.
///
/// Partition `n` of the output reads the units of partition `n` of the input, so that any share of the partitions may
/// run in a task.
#[derive(Debug, Clone)]
pub struct IcebergReadExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<ReadSpec>,
    store: Arc<StoreRegistry>,
    /// Conditions on the output that the operators above check again: row groups and pages that cannot satisfy them are
    /// skipped. Those of a join or a top-k become known while the query runs.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl IcebergReadExec {
    /// A read of the units that `input` gives.
    pub(crate) fn try_new(input: Arc<dyn ExecutionPlan>, spec: Arc<ReadSpec>, store: Arc<StoreRegistry>) -> chainalytics_common::Result<Self> {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(spec.output_schema()?),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { input, spec, store, filters: Vec::new(), properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The spec as it crosses the wire, with the conditions that can.
    pub(crate) fn to_wire(&self) -> ReadSpec {
        let mut spec = self.spec.as_ref().clone();
        spec.filter = predicate::encode(&self.filters).or(spec.filter);
        spec
    }

    fn with_spec(&self, spec: ReadSpec) -> Self {
        Self { spec: Arc::new(spec), metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }
    }
}

impl DisplayAs for IcebergReadExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<String> = self.schema().fields().iter().map(|field| field.name().clone()).collect();
        write!(f, "IcebergReadExec: table={}, columns=[{}]", self.spec.table, columns.join(", "))?;
        if let Some(predicate) = conjunction_opt(self.filters.iter().cloned()) {
            write!(f, ", predicate={predicate}")?;
        }
        match self.spec.fetch {
            Some(fetch) => write!(f, ", limit={fetch}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for IcebergReadExec {
    fn name(&self) -> &'static str {
        "IcebergReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // The units were grouped by the planner.
        vec![false]
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        let mut next = TreeNodeRecursion::Continue;
        for filter in &self.filters {
            next = next.visit_sibling(|| f(filter))?;
        }
        Ok(next)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => {
                let read = Self::try_new(input, Arc::clone(&self.spec), Arc::clone(&self.store)).map_err(external)?;
                Ok(Arc::new(Self { filters: self.filters.clone(), ..read }))
            }
            _ => Err(DataFusionError::Internal("IcebergReadExec has exactly one input".to_owned())),
        }
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        // The input has units, not rows.
        Ok(FilterDescription::all_unsupported(&parent_filters, &self.children()))
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let new: Vec<_> = result.parent_filters.iter().map(|f| Arc::clone(&f.filter)).filter(|f| !self.filters.contains(f)).collect();
        let propagation = FilterPushdownPropagation::all_unsupported(result);
        if new.is_empty() {
            return Ok(propagation);
        }
        let filters = self.filters.iter().cloned().chain(new).collect();
        Ok(propagation.with_updated_node(Arc::new(Self { filters, ..self.clone() })))
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.with_spec(ReadSpec { fetch, ..self.spec.as_ref().clone() })))
    }

    fn fetch(&self) -> Option<usize> {
        self.spec.fetch
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let reservation = MemoryConsumer::new("IcebergReadExec").register(context.memory_pool());
        let mut filters = self.filters.clone();
        if let (true, Some(bytes)) = (filters.is_empty(), &self.spec.filter) {
            filters.push(predicate::decode(bytes, &self.schema(), &context)?);
        }
        let reader = Arc::new(Reader {
            spec: Arc::clone(&self.spec),
            columns: self.spec.columns().map_err(external)?,
            schema: self.schema(),
            filters,
            opener: ParquetOpener { store: Arc::clone(&self.store), context },
            loader: Loader::default(),
            reservation,
            tally: Tally::new(&self.metrics, partition),
        });
        let mut left = self.spec.fetch;
        let rows = input
            .map(|batch| batch.and_then(|batch| from_batch(&batch).map_err(external)))
            .map_ok(|units| stream::iter(units.into_iter().map(Ok::<_, DataFusionError>)))
            .try_flatten()
            .and_then(move |unit| {
                let reader = Arc::clone(&reader);
                async move { reader.open(unit).await }
            })
            .try_flatten()
            .scan((), move |(), batch| std::future::ready(limited(batch, &mut left)))
            .inspect(move |batch| {
                if let Ok(batch) = batch {
                    metrics.record_output(batch.num_rows());
                }
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        let parts = match args.partition() {
            Some(_) => self.properties.partitioning.partition_count().max(1) as u64,
            None => 1,
        };
        let count = |n: u64| usize::try_from(n / parts).unwrap_or(usize::MAX);
        let exact = self.spec.undeleted && self.spec.fetch.is_none() && self.filters.is_empty() && args.partition().is_none();
        statistics.num_rows = if exact { Precision::Exact(count(self.spec.rows)) } else { Precision::Inexact(count(self.spec.rows)) };
        statistics.total_byte_size = Precision::Inexact(count(self.spec.bytes.saturating_mul(DECODED_PER_STORED_BYTE)));
        Ok(Arc::new(statistics))
    }
}

/// A batch cut to the rows that are still wanted; `None` ends the stream.
fn limited(batch: Result<RecordBatch>, left: &mut Option<usize>) -> Option<Result<RecordBatch>> {
    let (Some(rows), Ok(found)) = (left.as_mut(), &batch) else { return Some(batch) };
    if *rows == 0 {
        return None;
    }
    let taken = found.num_rows().min(*rows);
    *rows -= taken;
    Some(Ok(found.slice(0, taken)))
}

pub(super) fn external(error: chainalytics_common::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
