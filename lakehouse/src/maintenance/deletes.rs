//! Position delete files: many small ones of a partition to one, and those that apply to nothing any more taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chainalytics_common::{Error, Result};
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{col, in_list, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use futures::TryStreamExt;
use iceberg::spec::{DataContentType, DataFileFormat, FormatVersion};
use serde_json::Value;

use crate::commit::{CommitOptions, TableChange, Transaction};
use crate::dml::Write;
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::scan::deletes::{DeleteContent, DeleteIndex};
use crate::scan::files::{PlannedFiles, ScanFile};
use crate::scan::{FILE_COLUMN, IcebergTableProvider, POSITION_COLUMN, SnapshotSelector, with_lent};
use crate::table::Table;
use crate::write::{DELETE, DataFileInfo, DeltaTarget, IcebergWriteExec, OPERATION_COLUMN, RowDelta, WriteSpec, partition_json};

/// Column of position delete files: path of the data file.
const DELETE_PATH: &str = "file_path";
/// Column of position delete files: position in it.
const DELETE_POSITION: &str = "pos";
/// Delete files of a partition that are worth joining unless the caller says otherwise.
const MIN_INPUT_FILES_DEFAULT: usize = 5;

/// What a rewriting of delete files did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewrittenDeletes {
    pub rewritten_files: u64,
    pub added_files: u64,
    pub rewritten_bytes: u64,
    pub added_bytes: u64,
}

/// Which delete files are rewritten.
#[derive(Debug, Clone, Default)]
pub struct RewriteDeletesOptions {
    /// Only those of data files that may hold rows of all these conditions.
    pub filters: Vec<Expr>,
    /// Delete files of a partition from which on they are joined.
    pub min_input_files: Option<usize>,
    /// Joins them however few there are.
    pub rewrite_all: bool,
}

/// Joins position delete files by partition, without the rows of data files that are gone. In format v3 those that an
/// upgraded table still has become deletion vectors, of which each data file has one already.
///
/// # Errors
/// `CommitConflict` if rows are deleted meanwhile; those of queries and storage.
pub async fn rewrite_position_delete_files(write: &Write<'_>, ident: &TableIdent, options: &RewriteDeletesOptions) -> Result<RewrittenDeletes> {
    let table = write.lakehouse.catalog().load_table(ident).await?;
    let Some(base) = table.current_snapshot_id() else { return Ok(RewrittenDeletes::default()) };
    let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current)?;
    // All data files, whatever the filter: a delete file goes only with all rows that it deletes.
    let planned = provider.plan_files(write.state, &[]).await?;
    let dangling = match options.filters.is_empty() {
        true => dangling(&table, &planned)?,
        false => BTreeSet::new(),
    };
    let chosen = match options.filters.is_empty() {
        true => None,
        false => Some(partitions(&table, &provider.plan_files(write.state, &options.filters).await?)?),
    };
    let least = options.min_input_files.unwrap_or(MIN_INPUT_FILES_DEFAULT);
    let mut groups: BTreeMap<(i32, String), Vec<&ScanFile>> = BTreeMap::new();
    for file in planned.deletes.iter().filter(|file| is_position_file(file) && !dangling.contains(file.path())) {
        groups.entry(partition_key(&table, file)?).or_default().push(file);
    }
    groups.retain(|key, _| chosen.as_ref().is_none_or(|chosen| chosen.contains(key)));
    groups.retain(|_, files| options.rewrite_all || (files.len() > 1 && files.len() >= least));
    let mut done = RewrittenDeletes::default();
    let mut removed: BTreeSet<String> = BTreeSet::new();
    for file in planned.deletes.iter().filter(|file| dangling.contains(file.path())) {
        done.rewritten_files += 1;
        done.rewritten_bytes += file.data_file().file_size_in_bytes();
        removed.insert(file.path().to_owned());
    }
    let mut added = Vec::new();
    for (key, files) in groups {
        let targets = targets(&table, &planned, &key)?;
        match join(write, &table, &files, targets).await {
            Ok(written) => added.extend(written),
            Err(error) => {
                write.discard(&added).await;
                return Err(error);
            }
        }
        for file in files {
            done.rewritten_files += 1;
            done.rewritten_bytes += file.data_file().file_size_in_bytes();
            removed.insert(file.path().to_owned());
        }
    }
    if removed.is_empty() {
        return Ok(done);
    }
    done.added_files = added.len() as u64;
    done.added_bytes = added.iter().map(|file| file.file_size_bytes).sum();
    // A position names a row of one file for good, so that the new files may be as young as the commit.
    let change = TableChange::rewrite(ident.clone(), base, removed, added.clone()).keeping_sequence(false);
    match Transaction::new(write.lakehouse).add(change).commit(CommitOptions::default()).await {
        Ok(_) => Ok(done),
        Err(error) => {
            if error.code() != chainalytics_common::ErrorCode::CommitUnknown {
                write.discard(&added).await;
            }
            Err(error)
        }
    }
}

/// Takes delete files that apply to no live data file out of a table; how many.
pub(super) async fn remove_dangling_deletes(write: &Write<'_>, ident: &TableIdent) -> Result<u64> {
    let lakehouse: &Lakehouse = write.lakehouse;
    let table = lakehouse.catalog().load_table(ident).await?;
    let Some(base) = table.current_snapshot_id() else { return Ok(0) };
    let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current)?;
    let planned = provider.plan_files(write.state, &[]).await?;
    let dangling = dangling(&table, &planned)?;
    if dangling.is_empty() {
        return Ok(0);
    }
    let count = dangling.len() as u64;
    let change = TableChange::rewrite(ident.clone(), base, dangling, Vec::new());
    Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    Ok(count)
}

/// The partitions of data files.
fn partitions(table: &Table, planned: &PlannedFiles) -> Result<BTreeSet<(i32, String)>> {
    planned.data.iter().map(|file| partition_key(table, file)).collect()
}

/// Delete files that apply to none of the table's data files.
fn dangling(table: &Table, planned: &PlannedFiles) -> Result<BTreeSet<String>> {
    if table.metadata().format_version() == FormatVersion::V3 {
        return Ok(BTreeSet::new());
    }
    let index = DeleteIndex::build(&planned.deletes, table.metadata())?;
    let mut dangling: BTreeSet<String> = planned.deletes.iter().map(|file| file.path().to_owned()).collect();
    for file in &planned.data {
        for delete in index.for_file(file) {
            dangling.remove(&delete.path);
        }
    }
    Ok(dangling)
}

fn is_position_file(file: &ScanFile) -> bool {
    let data = file.data_file();
    data.content_type() == DataContentType::PositionDeletes && data.file_format() == DataFileFormat::Parquet
}

fn partition_key(table: &Table, file: &ScanFile) -> Result<(i32, String)> {
    Ok((file.spec_id, Value::Array(partition_of(table, file)?).to_string()))
}

fn partition_of(table: &Table, file: &ScanFile) -> Result<Vec<Value>> {
    let metadata = table.metadata();
    let spec = metadata.partition_spec_by_id(file.spec_id).ok_or_else(|| err::metadata(format!("no partition spec {}", file.spec_id)))?;
    let partition_type = spec.partition_type(metadata.current_schema()).map_err(err::iceberg)?;
    partition_json(file.data_file().partition(), &partition_type)
}

/// Live data files of one partition that lose rows to position delete files.
fn targets(table: &Table, planned: &PlannedFiles, key: &(i32, String)) -> Result<BTreeMap<String, DeltaTarget>> {
    let index = DeleteIndex::build(&planned.deletes, table.metadata())?;
    let mut targets = BTreeMap::new();
    for file in &planned.data {
        let deletes = index.for_file(file);
        if deletes.iter().any(|delete| delete.content == DeleteContent::Positions) && partition_key(table, file)? == *key {
            let target = DeltaTarget { spec_id: file.spec_id, partition: partition_of(table, file)?, vector: None };
            targets.insert(file.path().to_owned(), target);
        }
    }
    Ok(targets)
}

/// Reads delete files and writes their rows of `targets` to one.
async fn join(write: &Write<'_>, table: &Table, files: &[&ScanFile], targets: BTreeMap<String, DeltaTarget>) -> Result<Vec<DataFileInfo>> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let plan = read_positions(table, files, targets.keys().cloned().collect()).map_err(Error::from_datafusion)?;
    let mut spec = WriteSpec::from_table(table)?;
    let targets_json = serde_json::to_string(&targets).map_err(|e| err::internal(format!("targets: {e}")))?;
    // Format v3 takes no new position delete files: theirs become deletion vectors.
    spec.row_delta = Some(RowDelta { targets_json, vectors: table.format_version() >= 3 });
    let plan = Arc::new(IcebergWriteExec::new(plan, spec, Arc::clone(table.store())));
    let mut rows = write.executor.execute_physical(plan).await?;
    let mut written = Vec::new();
    while let Some(batch) = rows.try_next().await.map_err(Error::from_datafusion)? {
        let column = batch.column_by_name("data_file").ok_or_else(|| err::internal("no column 'data_file'"))?;
        let texts = cast(column, &DataType::Utf8).map_err(err::arrow)?;
        let texts = texts.as_string::<i32>();
        for text in (0..texts.len()).filter(|at| texts.is_valid(*at)).map(|at| texts.value(at)) {
            written.push(DataFileInfo::from_json(text)?);
        }
    }
    Ok(written)
}

/// The rows of delete files as a delta's: `_file`, `_pos`, `_operation`, in one partition.
fn read_positions(table: &Table, files: &[&ScanFile], live: Vec<String>) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::new(Schema::new(vec![Field::new(DELETE_PATH, DataType::Utf8, false), Field::new(DELETE_POSITION, DataType::Int64, false)]));
    let mut url = None;
    let mut group = Vec::with_capacity(files.len());
    for file in files {
        let at = table.store().resolve(file.path())?;
        let mut part = PartitionedFile::new("", file.data_file().file_size_in_bytes());
        part.object_meta.location = at.path;
        group.push(part);
        url.get_or_insert(at.url);
    }
    let url = url.ok_or_else(|| err::internal("no delete files"))?;
    let source = Arc::new(ParquetSource::new(schema));
    let config = FileScanConfigBuilder::new(url, source).with_file_group(FileGroup::new(group)).build();
    let scan = with_lent(DataSourceExec::from_data_source(config), table.lent_prefixes(), table.store())?;
    let columns = scan.schema();
    let path = col(DELETE_PATH, &columns)?;
    let live: Vec<Arc<dyn PhysicalExpr>> = live.into_iter().map(|path| lit(ScalarValue::Utf8(Some(path)))).collect();
    let wanted = in_list(Arc::clone(&path), live, &false, &columns)?;
    let filtered: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(wanted, scan)?);
    let expr = |expr: Arc<dyn PhysicalExpr>, alias: &str| ProjectionExpr { expr, alias: alias.to_owned() };
    let projected = ProjectionExec::try_new(
        vec![
            expr(path, FILE_COLUMN),
            expr(col(DELETE_POSITION, &columns)?, POSITION_COLUMN),
            expr(lit(ScalarValue::Int8(Some(DELETE))), OPERATION_COLUMN),
        ],
        filtered,
    )?;
    Ok(Arc::new(projected))
}
