use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::stream;

use chainalytics_lakehouse::StoreRegistry;

use super::report::{TaskReport, report_schema};
use super::spec::IngestSpec;
use super::task::{self, TaskMetrics};
use crate::decode::CHUNK_BYTES_MAX;

/// Chunks of a task at a time: two waiting, one being read, one being decoded.
const CHUNKS_HELD: usize = 4;

/// Reads the units of its input from Kafka, decodes them and writes them to data files; emits the rows of
/// [`report_schema`]. Commits nothing.
///
/// Partition `n` of the output handles partition `n` of the input, so that any share of the partitions may run in a
/// task; nothing is named by partition.
#[derive(Debug, Clone)]
pub struct KafkaToIcebergExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<IngestSpec>,
    store: Arc<StoreRegistry>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl KafkaToIcebergExec {
    /// An ingest of the units that `input` gives (see `unit_source`).
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<IngestSpec>, store: Arc<StoreRegistry>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(report_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { input, spec, store, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// What is done.
    pub fn spec(&self) -> &Arc<IngestSpec> {
        &self.spec
    }
}

impl DisplayAs for KafkaToIcebergExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics: Vec<&str> = self.spec.topics.iter().map(|sink| sink.topic.as_str()).collect();
        write!(f, "KafkaToIcebergExec: topics=[{}], batch={}", topics.join(", "), self.spec.batch_id)
    }
}

impl ExecutionPlan for KafkaToIcebergExec {
    fn name(&self) -> &'static str {
        "KafkaToIcebergExec"
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

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, Arc::clone(&self.spec), Arc::clone(&self.store)))),
            _ => Err(DataFusionError::Internal("KafkaToIcebergExec has exactly one input".to_owned())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new("KafkaToIcebergExec").register(context.memory_pool());
        // Known beforehand and not to be spilled, so that it is announced rather than asked for.
        reservation.grow(CHUNKS_HELD * CHUNK_BYTES_MAX + self.spec.kafka.queue_kilobytes as usize * 1024);
        let input = self.input.execute(partition, context)?;
        let counter = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let time = |name: &'static str| MetricBuilder::new(&self.metrics).subset_time(name, partition);
        let metrics = TaskMetrics {
            records: counter("records_read"),
            bytes: counter("bytes_read"),
            rejected: counter("dead_letters"),
            files: counter("files_written"),
            decode: time("decode_time"),
            write: time("write_time"),
        };
        let output_rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let (spec, store) = (Arc::clone(&self.spec), Arc::clone(&self.store));
        let rows = stream::once(async move {
            let report = task::run(spec, store, input, metrics).await;
            drop(reservation);
            let report = report.unwrap_or_else(|error| TaskReport::failed(&error));
            let rows = report.to_batch().map_err(|error| DataFusionError::External(Box::new(error)))?;
            output_rows.add(rows.num_rows());
            Ok(rows)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(report_schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
