use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema as ArrowSchema, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::Literal;
use parquet::arrow::RowNumber;

use super::filter::RowFilter;
use super::load::{Loader, load};
use super::spec::{Output, ReadSpec, ReadUnit, from_batch};
use crate::err;
use crate::scan::metadata_columns::{Lineage, MetadataColumn, longs};
use crate::scan::values::literal_to_scalar;
use crate::store::StoreRegistry;

/// Name of the row-number column within this operator; no table's column is called so.
const ROW_NUMBER: &str = "\u{1}row_number";
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
        Ok(Self { input, spec, store, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    pub(crate) fn spec(&self) -> &ReadSpec {
        &self.spec
    }
}

impl DisplayAs for IcebergReadExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<String> = self.schema().fields().iter().map(|field| field.name().clone()).collect();
        write!(f, "IcebergReadExec: table={}, columns=[{}]", self.spec.table, columns.join(", "))
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

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::try_new(input, Arc::clone(&self.spec), Arc::clone(&self.store)).map_err(external)?)),
            _ => Err(DataFusionError::Internal("IcebergReadExec has exactly one input".to_owned())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let reservation = MemoryConsumer::new("IcebergReadExec").register(context.memory_pool());
        let reader = Arc::new(Reader {
            spec: Arc::clone(&self.spec),
            columns: self.spec.columns().map_err(external)?,
            schema: self.schema(),
            opener: ParquetOpener { store: Arc::clone(&self.store), context },
            loader: Loader::default(),
            reservation,
        });
        let rows = input
            .map(|batch| batch.and_then(|batch| from_batch(&batch).map_err(external)))
            .map_ok(|units| stream::iter(units.into_iter().map(Ok::<_, DataFusionError>)))
            .try_flatten()
            .and_then(move |unit| {
                let reader = Arc::clone(&reader);
                async move { reader.open(unit).await }
            })
            .try_flatten()
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
        statistics.num_rows = Precision::Inexact(count(self.spec.rows));
        statistics.total_byte_size = Precision::Inexact(count(self.spec.bytes.saturating_mul(DECODED_PER_STORED_BYTE)));
        Ok(Arc::new(statistics))
    }
}

/// Opens Parquet files of the lakehouse's stores with DataFusion's reader.
pub(super) struct ParquetOpener {
    pub store: Arc<StoreRegistry>,
    pub context: Arc<TaskContext>,
}

impl ParquetOpener {
    /// Reads columns by their names in the file; one that the file lacks is null. With `row_numbers` the position of
    /// each row follows them.
    pub fn open(
        &self,
        path: &str,
        size: u64,
        range: Option<(i64, i64)>,
        columns: Vec<FieldRef>,
        row_numbers: bool,
    ) -> Result<SendableRecordBatchStream> {
        let location = self.store.resolve(path).map_err(external)?;
        let url = ObjectStoreUrl::parse(&location.url)?;
        let mut schema = TableSchema::builder(Arc::new(ArrowSchema::new(columns)));
        if row_numbers {
            let field = Field::new(ROW_NUMBER, DataType::Int64, false).with_extension_type(RowNumber);
            schema = schema.with_virtual_columns(vec![Arc::new(field) as FieldRef]);
        }
        let global = self.context.session_config().options().execution.parquet.clone();
        let options = TableParquetOptions { global, ..TableParquetOptions::default() };
        let mut source = ParquetSource::new(schema.build()).with_table_parquet_options(options);
        let runtime = self.context.runtime_env();
        if let Ok(store) = runtime.object_store(&url) {
            let cache = runtime.cache_manager.get_file_metadata_cache();
            source = source.with_parquet_file_reader_factory(Arc::new(CachedParquetFileReaderFactory::new(store, cache)));
        }
        let mut file = PartitionedFile::new("", size);
        // `new` would percent-encode the path a second time.
        file.object_meta.location = location.path;
        if let Some((start, end)) = range {
            file = file.with_range(start, end);
        }
        let config = FileScanConfigBuilder::new(url, Arc::new(source)).with_file_groups(vec![FileGroup::new(vec![file])]).build();
        DataSourceExec::from_data_source(config).execute(0, Arc::clone(&self.context))
    }
}

struct Reader {
    spec: Arc<ReadSpec>,
    /// The spec's columns.
    columns: Vec<FieldRef>,
    schema: SchemaRef,
    opener: ParquetOpener,
    loader: Loader,
    /// What loaded delete files take.
    reservation: MemoryReservation,
}

impl Reader {
    async fn open(&self, unit: ReadUnit) -> Result<SendableRecordBatchStream> {
        let deletes = load(&self.loader, &self.opener, &self.reservation, &unit, &self.spec, &self.columns).await.map_err(external)?;
        // The spec's columns that the file has, by its own names, and where each is found in the file's batches.
        let mut present = Vec::with_capacity(self.columns.len());
        let mut sources = Vec::with_capacity(self.columns.len());
        for (at, (column, field)) in self.columns.iter().zip(self.spec.schema.as_struct().fields()).enumerate() {
            let name = match &unit.names {
                None => Some(column.name().clone()),
                Some(names) => names.get(at).cloned().flatten(),
            };
            sources.push(match name {
                Some(name) => {
                    present.push(Arc::new(column.as_ref().clone().with_name(name)));
                    Source::File(present.len() - 1)
                }
                None => {
                    let of_folder = unit.constants.get(&field.id).cloned();
                    let of_folder = of_folder.and_then(|json| Literal::try_from_json(json, &field.field_type).ok().flatten());
                    let value = of_folder.as_ref().or(field.initial_default.as_ref()).and_then(|d| d.as_primitive_literal());
                    let value = value.and_then(|v| literal_to_scalar(&v, column.data_type()));
                    if value.is_none() && (field.required || field.initial_default.is_some()) {
                        return Err(external(err::metadata(format!(
                            "data file {} lacks column '{}' of table {}, which has no value for it",
                            unit.path, field.name, self.spec.table
                        ))));
                    }
                    Source::Constant(value)
                }
            });
        }
        // What the file itself says about its rows' lineage, null where it says nothing.
        let mut lineage_at = [None; 2];
        for (at, column) in lineage_at.iter_mut().zip(MetadataColumn::LINEAGE) {
            if unit.lineage.is_some() && self.spec.outputs.contains(&Output::Metadata(column)) {
                present.push(column.field());
                *at = Some(present.len() - 1);
            }
        }
        let wants_positions = self.spec.outputs.contains(&Output::Metadata(MetadataColumn::Position));
        let row_numbers = deletes.needs_positions() || wants_positions || lineage_at[0].is_some();
        let batches = self.opener.open(&unit.path, unit.size, unit.range, present, row_numbers)?;
        let shape = Shape {
            sources,
            columns: self.columns.clone(),
            outputs: self.spec.outputs.clone(),
            schema: Arc::clone(&self.schema),
            path: unit.path,
            spec_id: unit.spec_id,
            lineage: unit.lineage,
            lineage_at,
            row_numbers,
            deletes,
        };
        let schema = Arc::clone(&self.schema);
        let rows = batches.map(move |batch| shape.apply(&batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Where a column comes from.
enum Source {
    /// Column of the file's batches.
    File(usize),
    /// The same value in every row; null without one.
    Constant(Option<datafusion::common::ScalarValue>),
}

/// Turns batches of a file into the operator's.
struct Shape {
    sources: Vec<Source>,
    columns: Vec<FieldRef>,
    outputs: Vec<Output>,
    schema: SchemaRef,
    path: String,
    spec_id: i32,
    lineage: Option<Lineage>,
    /// Where batches have the stored lineage: row id, last update.
    lineage_at: [Option<usize>; 2],
    row_numbers: bool,
    deletes: RowFilter,
}

impl Shape {
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let kept = match self.deletes.is_empty() {
            true => None,
            false => {
                let positions = self.positions(batch)?;
                let compared = |at: usize| self.column(batch, at);
                self.deletes.kept(batch.num_rows(), positions, &compared)?
            }
        };
        let batch = match kept {
            Some(kept) => &filter_record_batch(batch, &kept)?,
            None => batch,
        };
        let columns = self
            .outputs
            .iter()
            .map(|output| match output {
                Output::Column(at) => self.column(batch, *at),
                Output::Metadata(column) => self.metadata(batch, *column),
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn metadata(&self, batch: &RecordBatch, column: MetadataColumn) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let stored = |at: usize| self.lineage_at[at].and_then(|at| longs(batch.column(at)));
        let positions = || self.positions(batch)?.ok_or_else(|| DataFusionError::Internal("a read of positions without row numbers".to_owned()));
        Ok(match column {
            MetadataColumn::File => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.path, rows))),
            MetadataColumn::Position => Arc::new(positions()?.clone()),
            MetadataColumn::SpecId => Arc::new(Int32Array::from_value(self.spec_id, rows)),
            MetadataColumn::RowId => match (self.lineage, stored(0)) {
                (Some(lineage), Some(stored)) => lineage.row_ids(stored, positions()?),
                _ => new_null_array(&DataType::Int64, rows),
            },
            MetadataColumn::LastUpdated => match (self.lineage, stored(1)) {
                (Some(lineage), Some(stored)) => lineage.last_updated(stored),
                _ => new_null_array(&DataType::Int64, rows),
            },
        })
    }

    fn positions<'a>(&self, batch: &'a RecordBatch) -> Result<Option<&'a Int64Array>> {
        if !self.row_numbers {
            return Ok(None);
        }
        let column = batch.columns().last().and_then(|c| c.as_primitive_opt::<Int64Type>());
        column.map(Some).ok_or_else(|| DataFusionError::Internal("row numbers are missing".to_owned()))
    }

    fn column(&self, batch: &RecordBatch, at: usize) -> Result<ArrayRef> {
        let field = &self.columns[at];
        match &self.sources[at] {
            Source::File(index) => Ok(Arc::clone(batch.column(*index))),
            Source::Constant(None) => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Source::Constant(Some(value)) => value.to_array_of_size(batch.num_rows()),
        }
    }
}

pub(super) fn external(error: chainalytics_common::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
