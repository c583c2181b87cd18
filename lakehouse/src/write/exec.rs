use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, PlanProperties,
};
use futures::{StreamExt, stream};

use super::data_file::DataFileInfo;
use super::delta::RowDeltaWriter;
use super::spec::WriteSpec;
use super::writer::DataFileWriter;
use crate::store::StoreRegistry;

/// Schema of a write plan's rows: `data_file` Utf8, the JSON of one [`super::DataFileInfo`].
pub fn data_file_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("data_file", DataType::Utf8, false)])));
    Arc::clone(&SCHEMA)
}

/// Writes each input partition's rows to data files and returns one row per file. Commits nothing.
///
/// Partition `n` of the output reads partition `n` of the input, so that any share of the partitions may run in a task;
/// files are named by UUID, never by partition.
#[derive(Debug, Clone)]
pub struct IcebergWriteExec {
    input: Arc<dyn ExecutionPlan>,
    spec: WriteSpec,
    store: Arc<StoreRegistry>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Rows equal in these must come to one partition: the shuffle that the plan was made with.
    keys: Option<Vec<Arc<dyn PhysicalExpr>>>,
}

impl IcebergWriteExec {
    /// A write of `input` as `spec` says.
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: WriteSpec, store: Arc<StoreRegistry>) -> Self {
        // The optimizer takes out every shuffle that nobody says he needs.
        let keys = match (input.is::<RepartitionExec>(), input.output_partitioning()) {
            (true, Partitioning::Hash(keys, _)) => Some(keys.clone()),
            _ => None,
        };
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(data_file_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { input, spec, store, properties, metrics: ExecutionPlanMetricsSet::new(), keys }
    }

    /// What is written.
    pub fn spec(&self) -> &WriteSpec {
        &self.spec
    }

    /// Where the rows come from.
    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

impl DisplayAs for IcebergWriteExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IcebergWriteExec: table={}, compression={}", self.spec.table, self.spec.compression)
    }
}

impl ExecutionPlan for IcebergWriteExec {
    fn name(&self) -> &'static str {
        "IcebergWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let keys = self.keys.clone();
        InputDistributionRequirements::new(vec![keys.map_or(Distribution::UnspecifiedDistribution, Distribution::KeyPartitioned)])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let schema = self.input.schema();
        let keys = self.spec.sort.iter().filter_map(|key| {
            let exact = schema.index_of(&key.column).ok();
            let at = exact.or_else(|| schema.fields().iter().position(|f| f.name().eq_ignore_ascii_case(&key.column)))?;
            let options = SortOptions { descending: key.descending, nulls_first: key.nulls_first };
            Some(PhysicalSortExpr::new(Arc::new(Column::new(schema.field(at).name(), at)), options))
        });
        vec![LexOrdering::new(keys).map(OrderingRequirements::from)]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // A shuffle only to spread writing would cost more than it brings, and make more and smaller files.
        vec![false]
    }

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => {
                let new = Self::new(input, self.spec.clone(), Arc::clone(&self.store));
                Ok(Arc::new(Self { keys: self.keys.clone().or(new.keys.clone()), ..new }))
            }
            _ => Err(DataFusionError::Internal("IcebergWriteExec has exactly one input".to_owned())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let writer = match &self.spec.row_delta {
            None => DataFileWriter::new(self.spec.clone(), Arc::clone(&self.store)).map(Box::new).map(Sink::Rows),
            Some(delta) => RowDeltaWriter::new(self.spec.clone(), delta, Arc::clone(&self.store)).map(Box::new).map(Sink::Delta),
        };
        let writer = writer.map_err(external)?;
        let metrics = WriteMetrics {
            rows: MetricBuilder::new(&self.metrics).counter("rows_written", partition),
            bytes: MetricBuilder::new(&self.metrics).counter("bytes_written", partition),
            files: MetricBuilder::new(&self.metrics).counter("files_written", partition),
            elapsed_compute: MetricBuilder::new(&self.metrics).elapsed_compute(partition),
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let rows = stream::once(write_all(input, writer, metrics));
        Ok(Box::pin(RecordBatchStreamAdapter::new(data_file_schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// What the rows of an input are.
enum Sink {
    Rows(Box<DataFileWriter>),
    Delta(Box<RowDeltaWriter>),
}

impl Sink {
    async fn write(&mut self, batch: &RecordBatch) -> chainalytics_common::Result<()> {
        match self {
            Self::Rows(writer) => writer.write(batch).await,
            Self::Delta(writer) => writer.write(batch).await,
        }
    }

    async fn close(self) -> chainalytics_common::Result<Vec<DataFileInfo>> {
        match self {
            Self::Rows(writer) => writer.close().await,
            Self::Delta(writer) => writer.close().await,
        }
    }

    async fn abort(self) {
        match self {
            Self::Rows(writer) => writer.abort().await,
            Self::Delta(writer) => writer.abort().await,
        }
    }
}

struct WriteMetrics {
    rows: datafusion::physical_plan::metrics::Count,
    bytes: datafusion::physical_plan::metrics::Count,
    files: datafusion::physical_plan::metrics::Count,
    elapsed_compute: datafusion::physical_plan::metrics::Time,
    output_rows: datafusion::physical_plan::metrics::Count,
}

async fn write_all(mut input: SendableRecordBatchStream, mut writer: Sink, metrics: WriteMetrics) -> Result<RecordBatch> {
    while let Some(batch) = input.next().await {
        let written = match batch {
            Ok(batch) => {
                let _timer = metrics.elapsed_compute.timer();
                metrics.rows.add(batch.num_rows());
                writer.write(&batch).await.map_err(external)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            writer.abort().await;
            return Err(error);
        }
    }
    let timer = metrics.elapsed_compute.timer();
    let files = writer.close().await.map_err(external)?;
    drop(timer);
    let mut rows = Vec::with_capacity(files.len());
    for file in &files {
        metrics.bytes.add(usize::try_from(file.file_size_bytes).unwrap_or(usize::MAX));
        rows.push(file.to_json().map_err(external)?);
    }
    metrics.files.add(files.len());
    metrics.output_rows.add(files.len());
    Ok(RecordBatch::try_new(data_file_schema(), vec![Arc::new(StringArray::from(rows))])?)
}

fn external(error: chainalytics_common::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
