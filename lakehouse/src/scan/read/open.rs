//! Opens the file of a unit and gives its rows the operator's form.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{and, filter_record_batch, not};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema as ArrowSchema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use iceberg::spec::Literal;
use parquet::arrow::{RowNumber, parquet_to_arrow_schema};

use super::exec::external;
use super::filter::RowFilter;
use super::load::{Loader, load};
use super::predicate;
use super::reshape::{ById, Reshape, has_ids};
use super::spec::{Output, ReadSpec, ReadUnit};
use super::tally::Tally;
use crate::err;
use crate::scan::changes::Change;
use crate::scan::deletes::DeleteRef;
use crate::scan::metadata_columns::{Lineage, MetadataColumn, longs};
use crate::scan::provider::without_metadata;
use crate::scan::values::literal_to_scalar;
use crate::store::StoreRegistry;

/// Name of the row-number column within this operator; no table's column is called so.
const ROW_NUMBER: &str = "\u{1}row_number";

/// Opens Parquet files of the lakehouse's stores with DataFusion's reader.
pub(super) struct ParquetOpener {
    pub store: Arc<StoreRegistry>,
    pub context: Arc<TaskContext>,
}

impl ParquetOpener {
    /// Reads columns by their names in the file; one that the file lacks is null. With `row_numbers` the position of
    /// each row follows them. Row groups and pages without rows for `predicate` (over these columns) may be left out.
    pub fn open(
        &self,
        path: &str,
        size: u64,
        range: Option<(i64, i64)>,
        columns: Vec<FieldRef>,
        row_numbers: bool,
        predicate: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<(SendableRecordBatchStream, Arc<dyn ExecutionPlan>)> {
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
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let runtime = self.context.runtime_env();
        if let Ok(store) = runtime.object_store(&url) {
            let cache = runtime.cache_manager.get_file_metadata_cache();
            source = source.with_parquet_file_reader_factory(Arc::new(CachedParquetFileReaderFactory::new(store, cache)));
        }
        let mut file = partitioned_file(location.path, size);
        if let Some((start, end)) = range {
            file = file.with_range(start, end);
        }
        let config = FileScanConfigBuilder::new(url, Arc::new(source)).with_file_groups(vec![FileGroup::new(vec![file])]).build();
        let plan = DataSourceExec::from_data_source(config);
        Ok((plan.execute(0, Arc::clone(&self.context))?, plan))
    }

    /// The schema of a file, with field ids if it has them; from the footer that reading it then finds in the cache.
    async fn schema(&self, path: &str, size: u64) -> chainalytics_common::Result<ArrowSchema> {
        let location = self.store.resolve(path)?;
        let file = partitioned_file(location.path, size);
        let cache = self.context.runtime_env().cache_manager.get_file_metadata_cache();
        let metadata = DFParquetMetadata::new(location.store.as_ref(), &file.object_meta).with_file_metadata_cache(Some(cache)).fetch_metadata().await;
        let metadata = metadata.map_err(|e| err::data_file(path, e))?;
        parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None).map_err(|e| err::data_file(path, e.into()))
    }
}

fn partitioned_file(path: object_store::path::Path, size: u64) -> PartitionedFile {
    let mut file = PartitionedFile::new("", size);
    // `new` would percent-encode the path a second time.
    file.object_meta.location = path;
    file
}

/// What all units of a partition share.
pub(super) struct Reader {
    pub spec: Arc<ReadSpec>,
    /// The spec's columns.
    pub columns: Vec<FieldRef>,
    pub schema: SchemaRef,
    /// Conditions on the output.
    pub filters: Vec<Arc<dyn PhysicalExpr>>,
    pub opener: ParquetOpener,
    pub loader: Loader,
    /// What loaded delete files take.
    pub reservation: MemoryReservation,
    pub tally: Tally,
}

impl Reader {
    pub async fn open(&self, unit: ReadUnit) -> Result<SendableRecordBatchStream> {
        let deletes = self.rows_of(&unit, &unit.deletes).await.map_err(external)?;
        let among = match unit.among.is_empty() {
            true => None,
            false => Some(self.rows_of(&unit, &unit.among).await.map_err(external)?),
        };
        let (mut present, sources) = self.sources(&unit).await.map_err(external)?;
        // What the file itself says about its rows' lineage, null where it says nothing.
        let mut lineage_at = [None; 2];
        for (at, column) in lineage_at.iter_mut().zip(MetadataColumn::LINEAGE) {
            if unit.lineage.is_some() && self.spec.outputs.contains(&Output::Metadata(column)) {
                present.push(column.field(None).map_err(external)?);
                *at = Some(present.len() - 1);
            }
        }
        let wants_positions = self.spec.outputs.contains(&Output::Metadata(MetadataColumn::Position));
        let row_numbers = deletes.needs_positions() || among.as_ref().is_some_and(RowFilter::needs_positions) || wants_positions || lineage_at[0].is_some();
        let predicate = predicate::of_file(&self.filters, &self.spec.outputs, &sources, &self.columns, &present, &unit.path)?;
        let (batches, plan) = self.opener.open(&unit.path, unit.size, unit.range, present, row_numbers, predicate)?;
        let partition = match &self.spec.partition {
            Some(partition) => Some(partition.scalar(&unit.partition).map_err(external)?),
            None => None,
        };
        let shape = Shape {
            partition,
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
            among,
            change: unit.change,
        };
        let schema = Arc::clone(&self.schema);
        let tally = self.tally.of(plan);
        let rows = batches.map(move |batch| {
            // Counts when the stream goes.
            let _counting = &tally;
            let batch = batch.map_err(|e| external(err::data_file(&shape.path, e)))?;
            shape.apply(&batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    async fn rows_of(&self, unit: &ReadUnit, deletes: &[DeleteRef]) -> chainalytics_common::Result<RowFilter> {
        load(&self.loader, &self.opener, &self.reservation, unit, deletes, &self.spec, &self.columns).await
    }

    /// The columns to read from a unit's file, as the file has them, and where each of the spec's comes from.
    async fn sources(&self, unit: &ReadUnit) -> chainalytics_common::Result<(Vec<FieldRef>, Vec<Source>)> {
        let mut present = Vec::with_capacity(self.columns.len());
        let mut sources = Vec::with_capacity(self.columns.len());
        if !self.spec.by_id {
            sources.extend((0..self.columns.len()).map(|at| Source::File(at, None)));
            return Ok((self.columns.clone(), sources));
        }
        let schema = self.opener.schema(&unit.path, unit.size).await?;
        let file = schema.fields();
        let ids = ById { path: &unit.path, has_ids: has_ids(file), names: self.spec.names.as_ref() };
        for (column, field) in self.columns.iter().zip(self.spec.schema.as_struct().fields()) {
            sources.push(match ids.find(file, field).map(|at| &file[at]) {
                Some(found) if field.field_type.is_primitive() => {
                    present.push(Arc::new(column.as_ref().clone().with_name(found.name())));
                    Source::File(present.len() - 1, None)
                }
                Some(found) => {
                    let reshape = ids.reshape(&field.field_type, column.data_type(), found.data_type())?;
                    present.push(Arc::new(without_metadata(found)));
                    Source::File(present.len() - 1, Some(reshape))
                }
                None => {
                    let of_folder = unit.constants.get(&field.id).cloned();
                    let of_folder = of_folder.and_then(|json| Literal::try_from_json(json, &field.field_type).ok().flatten());
                    let value = of_folder.as_ref().or(field.initial_default.as_ref()).and_then(|d| d.as_primitive_literal());
                    let value = value.and_then(|v| literal_to_scalar(&v, column.data_type()));
                    if value.is_none() && (field.required || field.initial_default.is_some()) {
                        return Err(err::metadata(format!(
                            "data file {} lacks column '{}' of table {}, which has no value for it",
                            unit.path, field.name, self.spec.table
                        )));
                    }
                    Source::Constant(value)
                }
            });
        }
        Ok((present, sources))
    }
}

/// Where a column comes from.
pub(super) enum Source {
    /// Column of the file's batches, and how a nested one gets the table's form.
    File(usize, Option<Reshape>),
    /// The same value in every row; null without one.
    Constant(Option<ScalarValue>),
}

/// Turns batches of a file into the operator's.
struct Shape {
    /// Value of `_partition`, if it is asked for.
    partition: Option<ScalarValue>,
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
    /// Only rows that this would take out.
    among: Option<RowFilter>,
    change: Option<Change>,
}

impl Shape {
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let kept = match self.deletes.is_empty() && self.among.is_none() {
            true => None,
            false => {
                let positions = self.positions(batch)?;
                let compared = |at: usize| self.column(batch, at);
                let kept = self.deletes.kept(batch.num_rows(), positions, &compared)?;
                match &self.among {
                    None => kept,
                    Some(among) => {
                        let spared = among.kept(batch.num_rows(), positions, &compared)?;
                        let taken = match spared {
                            Some(spared) => not(&spared)?,
                            None => BooleanArray::new(BooleanBuffer::new_unset(batch.num_rows()), None),
                        };
                        Some(match kept {
                            Some(kept) => and(&kept, &taken)?,
                            None => taken,
                        })
                    }
                }
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
                Output::ChangeType | Output::ChangeOrdinal | Output::CommitSnapshot => self.change_column(*output, batch.num_rows()),
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
            MetadataColumn::Partition => match &self.partition {
                Some(value) => value.to_array_of_size(rows)?,
                None => return Err(DataFusionError::Internal("a read of _partition without its fields".to_owned())),
            },
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

    fn change_column(&self, output: Output, rows: usize) -> Result<ArrayRef> {
        let change = self.change.ok_or_else(|| DataFusionError::Internal("a read of changes without changes".to_owned()))?;
        let value = match output {
            Output::ChangeOrdinal => ScalarValue::from(change.ordinal),
            Output::CommitSnapshot => ScalarValue::from(change.snapshot_id),
            _ => ScalarValue::from(change.change_type.as_str()),
        };
        value.to_array_of_size(rows)
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
            Source::File(index, None) => Ok(Arc::clone(batch.column(*index))),
            Source::File(index, Some(reshape)) => reshape.apply(batch.column(*index)),
            Source::Constant(None) => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Source::Constant(Some(value)) => value.to_array_of_size(batch.num_rows()),
        }
    }
}
