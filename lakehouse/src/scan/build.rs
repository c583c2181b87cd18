//! From planned files to a physical plan: `DataSourceExec` over Parquet, which Ballista serialises and slices by
//! file group. No operator of ours is a leaf.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use iceberg::spec::DataFileFormat;

use chainalytics_common::{Error, ErrorCode};

use super::changes::{CHANGE_ORDINAL_COLUMN, CHANGE_TYPE_COLUMN, COMMIT_SNAPSHOT_COLUMN};
use super::files::ScanFile;
use super::groups::{FileShape, balance};
use super::metadata_columns::MetadataColumn;
use super::partition_column::PartitionColumn;
use super::statistics::{StatColumn, file_statistics, scan_statistics};
use crate::store::StoreRegistry;

/// Above this number of files a plan carries only row counts per file, so that it stays small enough to ship.
const FILES_WITH_STATISTICS: usize = 2_000;

/// What to scan and how.
pub struct ScanRequest<'a> {
    pub state: &'a dyn Session,
    pub store: &'a Arc<StoreRegistry>,
    /// The table's columns (without `_file`), in order, with their field ids.
    pub columns: &'a [(i32, FieldRef)],
    /// Columns that follow the table's. Scans of files may ask for `_file` alone here.
    pub metadata_columns: &'a [MetadataColumn],
    /// The fields of `_partition`, if it is one of them.
    pub partition: Option<&'a PartitionColumn>,
    /// Whether the columns of a change log follow. Only scans of no file may ask for them here.
    pub change_columns: bool,
    /// Indices into all of them.
    pub projection: Option<&'a Vec<usize>>,
    pub limit: Option<usize>,
}

/// A file and its path within its object store.
type LocatedFile = (ScanFile, object_store::path::Path);

impl ScanRequest<'_> {
    fn full_schema(&self) -> Result<SchemaRef, Error> {
        let mut fields: Vec<FieldRef> = self.columns.iter().map(|(_, f)| Arc::clone(f)).collect();
        for column in self.metadata_columns {
            fields.push(column.field(self.partition)?);
        }
        if self.change_columns {
            fields.extend(change_fields());
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    fn has_file_column(&self) -> bool {
        self.metadata_columns.contains(&MetadataColumn::File)
    }

    /// Builds the plan.
    pub fn build(&self, files: Vec<ScanFile>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = self.full_schema().map_err(external)?;
        let projected = match self.projection {
            Some(indices) => Arc::new(schema.project(indices)?),
            None => Arc::clone(&schema),
        };
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(projected)));
        }
        // One scan per object store; nearly always there is just one.
        let mut classes: BTreeMap<String, Vec<LocatedFile>> = BTreeMap::new();
        for file in files {
            if file.data_file().file_format() != DataFileFormat::Parquet {
                return Err(external(Error::new(
                    ErrorCode::TableFormat,
                    format!("data file {} is not Parquet, which is all that can be read", file.path()),
                )));
            }
            let location = self.store.resolve(file.path()).map_err(external)?;
            classes.entry(location.url.to_string()).or_default().push((file, location.path));
        }
        let mut plans = Vec::with_capacity(classes.len());
        for (url, files) in classes {
            plans.push(self.source(ObjectStoreUrl::parse(url)?, &files)?);
        }
        match plans.len() {
            1 => Ok(plans.swap_remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    fn source(&self, url: ObjectStoreUrl, files: &[LocatedFile]) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = self.columns;
        let file_schema = Arc::new(Schema::new(columns.iter().map(|(_, f)| Arc::clone(f)).collect::<Vec<_>>()));
        let mut table_schema = TableSchema::builder(file_schema);
        if self.has_file_column() {
            table_schema = table_schema.with_table_partition_cols(vec![MetadataColumn::File.field(None).map_err(external)?]);
        }
        let global = self.state.config_options().execution.parquet.clone();
        let options = TableParquetOptions { global, ..TableParquetOptions::default() };
        let mut source = ParquetSource::new(table_schema.build()).with_table_parquet_options(options);
        let runtime = self.state.runtime_env();
        if let Ok(store) = runtime.object_store(&url) {
            let cache = runtime.cache_manager.get_file_metadata_cache();
            source = source.with_parquet_file_reader_factory(Arc::new(CachedParquetFileReaderFactory::new(store, cache)));
        }

        let data: Vec<ScanFile> = files.iter().map(|(f, _)| f.clone()).collect();
        let mut stat_columns: Vec<StatColumn> =
            columns.iter().map(|(id, f)| StatColumn { id: Some(*id), data_type: f.data_type().clone() }).collect();
        let bare = data.len() > FILES_WITH_STATISTICS;
        let per_file: Vec<StatColumn> =
            stat_columns.iter().map(|c| StatColumn { id: c.id.filter(|_| !bare), data_type: c.data_type.clone() }).collect();
        let partitioned: Vec<PartitionedFile> = files
            .iter()
            .map(|(file, path)| {
                let mut partitioned = PartitionedFile::new("", file.data_file().file_size_in_bytes());
                // `new` would percent-encode the path a second time.
                partitioned.object_meta.location = path.clone();
                if self.has_file_column() {
                    partitioned.partition_values = vec![ScalarValue::Utf8(Some(file.path().to_string()))];
                }
                partitioned.with_statistics(Arc::new(file_statistics(file, &per_file)))
            })
            .collect();
        let shapes: Vec<FileShape<'_>> = data
            .iter()
            .map(|f| FileShape { bytes: f.data_file().file_size_in_bytes(), split_offsets: f.data_file().split_offsets().unwrap_or(&[]) })
            .collect();
        let target = self.state.config().target_partitions();
        let groups: Vec<FileGroup> = balance(&shapes, target)
            .into_iter()
            .map(|pieces| {
                let files = pieces.into_iter().map(|piece| {
                    let file = partitioned[piece.file].clone();
                    match piece.range {
                        Some((start, end)) => file.with_range(start, end),
                        None => file,
                    }
                });
                FileGroup::new(files.collect())
            })
            .collect();
        if self.has_file_column() {
            stat_columns.push(StatColumn { id: None, data_type: DataType::Utf8 });
        }
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(scan_statistics(&data, &stat_columns))
            .with_limit(self.limit)
            .with_projection_indices(self.projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The columns of a change log, behind the table's.
pub(super) fn change_fields() -> [FieldRef; 3] {
    [
        Arc::new(Field::new(CHANGE_TYPE_COLUMN, DataType::Utf8, false)),
        Arc::new(Field::new(CHANGE_ORDINAL_COLUMN, DataType::Int32, false)),
        Arc::new(Field::new(COMMIT_SNAPSHOT_COLUMN, DataType::Int64, false)),
    ]
}

pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
