//! From planned files to a physical plan: `DataSourceExec` over Parquet, which Ballista serialises and slices by
//! file group. No operator of ours is a leaf; files whose columns have old names get a projection above.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use iceberg::spec::DataFileFormat;

use chainalytics_common::{Error, ErrorCode};

use super::evolution::FileNames;
use super::files::ScanFile;
use super::groups::{FileShape, balance};
use super::metadata_columns::MetadataColumn;
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
    /// Indices into both.
    pub projection: Option<&'a Vec<usize>>,
    pub limit: Option<usize>,
}

/// A file and, if the table ever renamed a column, the names of its columns.
pub struct NamedFile {
    pub file: ScanFile,
    pub names: Option<FileNames>,
}

/// A file and its path within its object store.
type LocatedFile = (ScanFile, object_store::path::Path);

impl ScanRequest<'_> {
    fn full_schema(&self) -> SchemaRef {
        let mut fields: Vec<FieldRef> = self.columns.iter().map(|(_, f)| Arc::clone(f)).collect();
        fields.extend(self.metadata_columns.iter().map(|column| column.field()));
        Arc::new(Schema::new(fields))
    }

    fn has_file_column(&self) -> bool {
        self.metadata_columns.contains(&MetadataColumn::File)
    }

    /// Builds the plan.
    pub fn build(&self, files: Vec<NamedFile>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = self.full_schema();
        let projected = match self.projection {
            Some(indices) => Arc::new(schema.project(indices)?),
            None => Arc::clone(&schema),
        };
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(projected)));
        }
        // One scan per object store and set of column names; nearly always there is just one.
        let mut classes: BTreeMap<(String, Option<FileNames>), Vec<LocatedFile>> = BTreeMap::new();
        for NamedFile { file, names } in files {
            if file.data_file().file_format() != DataFileFormat::Parquet {
                return Err(external(Error::new(
                    ErrorCode::TableFormat,
                    format!("data file {} is not Parquet, which is all that can be read", file.path()),
                )));
            }
            let location = self.store.resolve(file.path()).map_err(external)?;
            classes.entry((location.url.to_string(), names)).or_default().push((file, location.path));
        }
        let mut plans = Vec::with_capacity(classes.len());
        for ((url, names), files) in classes {
            let url = ObjectStoreUrl::parse(url)?;
            plans.push(match names {
                None => self.native_scan(url, &files)?,
                Some(names) => self.renamed_scan(url, &files, &names)?,
            });
        }
        match plans.len() {
            1 => Ok(plans.swap_remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    /// Files whose columns have today's names.
    fn native_scan(&self, url: ObjectStoreUrl, files: &[LocatedFile]) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns: Vec<(i32, FieldRef)> = self.columns.to_vec();
        self.source(url, files, &columns, self.projection.cloned())
    }

    /// Files whose columns have other names: read them by those and give them today's in a projection.
    fn renamed_scan(&self, url: ObjectStoreUrl, files: &[LocatedFile], names: &FileNames) -> DfResult<Arc<dyn ExecutionPlan>> {
        let present: Vec<(usize, (i32, FieldRef))> = self
            .columns
            .iter()
            .zip(names)
            .enumerate()
            .filter_map(|(i, ((id, field), name))| {
                let name = name.as_ref()?;
                Some((i, (*id, Arc::new(field.as_ref().clone().with_name(name.clone())))))
            })
            .collect();
        let position: BTreeMap<usize, usize> = present.iter().enumerate().map(|(at, (column, _))| (*column, at)).collect();
        let file_columns: Vec<(i32, FieldRef)> = present.into_iter().map(|(_, c)| c).collect();
        let schema = self.full_schema();
        let wanted: Vec<usize> = match self.projection {
            Some(indices) => indices.clone(),
            None => (0..schema.fields().len()).collect(),
        };
        // Source columns that the projection needs, in file order.
        let mut source_columns: Vec<usize> =
            wanted.iter().filter_map(|i| if *i == self.columns.len() { Some(file_columns.len()) } else { position.get(i).copied() }).collect();
        source_columns.sort_unstable();
        source_columns.dedup();
        let source = self.source(url, files, &file_columns, Some(source_columns.clone()))?;
        let exprs = wanted
            .iter()
            .map(|i| {
                let target = schema.field(*i);
                let at = if *i == self.columns.len() { Some(file_columns.len()) } else { position.get(i).copied() };
                let expr: Arc<dyn PhysicalExpr> = match at.and_then(|at| source_columns.binary_search(&at).ok()) {
                    Some(index) => Arc::new(Column::new(source.schema().field(index).name(), index)),
                    None if target.is_nullable() => {
                        let null = ScalarValue::try_from(target.data_type()).or_else(|_| Ok::<_, DataFusionError>(ScalarValue::Null))?;
                        let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(null.clone()));
                        if null.data_type() == *target.data_type() {
                            literal
                        } else {
                            Arc::new(CastExpr::new(literal, target.data_type().clone(), None))
                        }
                    }
                    None => {
                        return Err(external(Error::new(ErrorCode::TableFormat, format!("data files lack the required column '{}'", target.name()))));
                    }
                };
                Ok(ProjectionExpr { expr, alias: target.name().clone() })
            })
            .collect::<DfResult<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(exprs, source)?))
    }

    fn source(
        &self,
        url: ObjectStoreUrl,
        files: &[LocatedFile],
        columns: &[(i32, FieldRef)],
        projection: Option<Vec<usize>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let file_schema = Arc::new(Schema::new(columns.iter().map(|(_, f)| Arc::clone(f)).collect::<Vec<_>>()));
        let mut table_schema = TableSchema::builder(file_schema);
        if self.has_file_column() {
            table_schema = table_schema.with_table_partition_cols(vec![MetadataColumn::File.field()]);
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
            .with_projection_indices(projection)?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

pub(super) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
