//! Writing tables from plans. The query part runs wherever the executor runs it and returns data files; only the
//! driver commits, here.
//!
//! Path of the data: `align` (columns and types) → `distribute` (few files per partition) → `IcebergWriteNode` run by
//! the executor → `commit::Transaction`. `rewrite` changes rows of existing files (delete, update).

mod align;
mod distribute;
mod merge;
mod places;
mod reads;
mod rewrite;
mod target;

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::Column;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Partitioning};
use datafusion::prelude::DataFrame;
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

pub(crate) use align::fit;
pub use align::{Casting, Matching, align};
pub(crate) use distribute::Purpose;
pub use distribute::by_partition;
pub use merge::{Insertion, Merge, MergeAction, MergeClause, merge_rows};
pub use places::{RowPlaces, delete_places};
pub use rewrite::{Assignment, RowEdit, rewrite_rows};
pub(crate) use target::lineage_columns;
pub use target::{RowChange, RowMode, RowOperation};

use crate::commit::{CommitOptions, RUN_ID_KEY, STEP_KEY, TableChange, TableOutcome, Transaction};
use crate::exec::QueryExecutor;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::scan::FILE_COLUMN;
use crate::settings::{self, SessionSettings};
use crate::table::Table;
use crate::write::{DataFileInfo, IcebergWriteNode, RowDelta, WriteSpec};

/// Run, step and summary entries of a write; with run and step it happens at most once.
pub type WriteOptions = CommitOptions;

/// Table property: `true` lets writes by name (DataFrames, `INSERT … BY NAME`) add columns that the table lacks.
pub const ACCEPT_ANY_SCHEMA: &str = "write.spark.accept-any-schema";

/// What a write does with the rows that the table already has.
#[derive(Debug, Clone)]
pub enum WriteMode {
    /// Keeps them.
    Append,
    /// Replaces all of them.
    OverwriteAll,
    /// Replaces those of every partition that the new rows fall into.
    OverwritePartitions,
    /// Replaces those that satisfy a condition over the table's columns.
    OverwriteFilter(Expr),
}

/// Writes a DataFrame into a table and commits it.
///
/// Columns are matched by name, letter case ignored. Missing optional columns become NULL. Types are widened only.
///
/// # Errors
/// `TableNotFound`; `SchemaMismatch` for columns that do not fit; those of the query and of the commit.
pub async fn write_dataframe(
    lakehouse: &Lakehouse,
    executor: &dyn QueryExecutor,
    df: DataFrame,
    table: &TableIdent,
    mode: WriteMode,
    options: &WriteOptions,
) -> Result<TableOutcome> {
    let (state, plan) = df.into_parts();
    let write = Write { lakehouse, executor, state: &state, options };
    let table = SessionSettings::of(&state).for_writes(crate::sql::load_table(lakehouse, table).await?)?;
    write.plan(&table, plan, &Matching::ByName, Casting::Lossless, mode).await
}

/// What every write needs.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub lakehouse: &'a Lakehouse,
    pub executor: &'a dyn QueryExecutor,
    pub state: &'a SessionState,
    pub options: &'a WriteOptions,
}

impl Write<'_> {
    /// Writes the rows of `plan` into `table` and commits.
    pub async fn plan(&self, table: &Table, plan: LogicalPlan, matching: &Matching, casting: Casting, mode: WriteMode) -> Result<TableOutcome> {
        if let Some(done) = committed_step(table, self.options) {
            return Ok(done);
        }
        let widened = self.widened(table, &plan, matching, casting).await?;
        let table = widened.as_ref().unwrap_or(table);
        let name = table.ident().to_string();
        let plan = align(plan, table.schema(), &name, matching, casting)?;
        let base = table.current_snapshot_id();
        let purpose = if matches!(mode, WriteMode::Append) { Purpose::Append } else { Purpose::Overwrite };
        let mut added = self.data_files(table, plan, purpose).await?;
        let ident = table.ident().clone();
        let change = match mode {
            WriteMode::Append => TableChange::append(ident, added.clone()),
            WriteMode::OverwriteAll => TableChange::replace_all(ident, added.clone()),
            WriteMode::OverwritePartitions => TableChange::replace_partitions(ident, added.clone()),
            WriteMode::OverwriteFilter(filter) => {
                let replaced = match rewrite_rows(self, table, None, filter, RowEdit::Delete).await {
                    Ok(replaced) => replaced,
                    Err(error) => {
                        self.discard(&added).await;
                        return Err(error);
                    }
                };
                added.extend(replaced.added);
                TableChange::overwrite(ident, base, replaced.removed, added.clone(), replaced.check)
            }
        };
        self.commit(table, change, &added).await
    }

    /// The table with the columns that the rows have and it lacks, if its property [`ACCEPT_ANY_SCHEMA`] asks for them.
    /// They are added before the rows, once it is known that the other columns fit.
    async fn widened(&self, table: &Table, plan: &LogicalPlan, matching: &Matching, casting: Casting) -> Result<Option<Table>> {
        let settings = SessionSettings::of(self.state);
        let asked = settings.get(settings::MERGE_SCHEMA).or(table.property(ACCEPT_ANY_SCHEMA));
        let accepts = asked.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if !accepts || *matching != Matching::ByName {
            return Ok(None);
        }
        let known = table.schema().fields();
        let new: Vec<FieldRef> = plan
            .schema()
            .fields()
            .iter()
            .filter(|field| !known.iter().any(|k| k.name().eq_ignore_ascii_case(field.name())))
            .map(|field| Arc::new(Field::new(field.name(), field.data_type().clone(), true)))
            .collect();
        if new.is_empty() {
            return Ok(None);
        }
        if table.branch().is_some() {
            return Err(Error::new(ErrorCode::SqlUnsupported, "not supported: new columns by a write to a branch: the schema is the table's"));
        }
        let fields: Vec<FieldRef> = known.iter().chain(&new).cloned().collect();
        align(plan.clone(), &Arc::new(Schema::new(fields)), &table.ident().to_string(), matching, casting)?;
        let change = TableChange::metadata(table.ident().clone()).add_columns(new);
        Transaction::new(self.lakehouse).add(change).commit(CommitOptions::default()).await?;
        crate::sql::load_table(self.lakehouse, table.ident()).await.map(Some)
    }

    /// Commits a prepared change of rows.
    pub async fn commit_rows(&self, table: &Table, change: RowChange) -> Result<TableOutcome> {
        let RowChange { removed, added, base, check, .. } = change;
        let table_change = TableChange::overwrite(table.ident().clone(), base, removed, added.clone(), check);
        self.commit(table, table_change, &added).await
    }

    /// Runs the writing part of a plan whose columns are the table's, and returns the files written.
    pub(crate) async fn data_files(&self, table: &Table, plan: LogicalPlan, purpose: Purpose) -> Result<Vec<DataFileInfo>> {
        let plan = self.distribute(plan, table, purpose).await?;
        let spec = write_spec(table, &plan)?.in_table_order(table);
        self.run_write(plan, spec).await
    }

    /// Runs the writing part of a plan whose rows are a delta (see [`RowDelta`]). `moves_rows`: new rows
    /// come with it, for this purpose.
    pub(crate) async fn delta_files(&self, table: &Table, plan: LogicalPlan, delta: RowDelta, moves_rows: Option<Purpose>) -> Result<Vec<DataFileInfo>> {
        let partitions = self.state.config().target_partitions();
        let plan = if delta.vectors && partitions > 1 {
            // One vector per data file.
            let file = Expr::Column(Column::from_name(FILE_COLUMN));
            LogicalPlanBuilder::from(plan)
                .repartition(Partitioning::Hash(vec![file], partitions))
                .and_then(LogicalPlanBuilder::build)
                .map_err(Error::from_datafusion)?
        } else if let Some(purpose) = moves_rows {
            self.distribute(plan, table, purpose).await?
        } else {
            plan
        };
        let spec = WriteSpec { row_delta: Some(delta), ..write_spec(table, &plan)? };
        self.run_write(plan, spec).await
    }

    async fn run_write(&self, plan: LogicalPlan, mut spec: WriteSpec) -> Result<Vec<DataFileInfo>> {
        let settings = SessionSettings::of(self.state);
        if let Some(codec) = settings.get(settings::COMPRESSION_CODEC) {
            // A level goes with its codec.
            (spec.compression, spec.compression_level) = (codec.to_ascii_lowercase(), None);
        }
        if let Some(level) = settings.get(settings::COMPRESSION_LEVEL) {
            spec.compression_level = level.parse().map(Some).map_err(|_| {
                Error::new(ErrorCode::InvalidArgument, format!("{} is '{level}', it must be a number", settings::COMPRESSION_LEVEL))
            })?;
        }
        let node = IcebergWriteNode::try_new(plan, spec).map_err(Error::from_datafusion)?;
        let plan = node.into_plan();
        let mut rows = self.executor.execute_logical(plan).await?;
        let mut files = Vec::new();
        while let Some(batch) = rows.try_next().await.map_err(Error::from_datafusion)? {
            let Some(column) = batch.column_by_name("data_file") else {
                return Err(Error::new(ErrorCode::Internal, "the write plan returned no column 'data_file'"));
            };
            let texts = cast(column, &DataType::Utf8).map_err(|e| Error::new(ErrorCode::Internal, format!("data file rows: {e}")))?;
            let texts = texts.as_string::<i32>();
            for text in (0..texts.len()).filter(|i| texts.is_valid(*i)).map(|i| texts.value(i)) {
                files.push(DataFileInfo::from_json(text)?);
            }
        }
        Ok(files)
    }

    async fn commit(&self, table: &Table, change: TableChange, added: &[DataFileInfo]) -> Result<TableOutcome> {
        let ident = table.ident().clone();
        let settings = SessionSettings::of(self.state);
        let committed = match settings.staged_as(table) {
            Ok(None) => Transaction::new(self.lakehouse).add(change.to_branch(table.branch())).commit(self.options.clone()).await,
            Ok(Some(wap_id)) => Transaction::new(self.lakehouse).add(change.staged(wap_id)).commit(self.options.clone()).await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(outcome) => outcome
                .table(&ident)
                .cloned()
                .ok_or_else(|| Error::new(ErrorCode::Internal, format!("the commit of table {ident} reported no outcome"))),
            Err(error) => {
                // After an unknown outcome the files may be the table's.
                if error.code() != ErrorCode::CommitUnknown {
                    self.discard(added).await;
                }
                Err(error)
            }
        }
    }

    /// Removes files that will not be committed.
    pub(crate) async fn discard(&self, files: &[DataFileInfo]) {
        self.lakehouse.discard_files(files).await;
    }
}

/// How the rows of a plan are written; with their lineage if they bring one.
fn write_spec(table: &Table, plan: &LogicalPlan) -> Result<WriteSpec> {
    let spec = WriteSpec::from_table(table)?;
    let moved = target::lineage_columns(table).iter().any(|column| plan.schema().has_column_with_unqualified_name(column.name()));
    if moved { spec.with_lineage() } else { Ok(spec) }
}

/// The outcome of this run and step if the table already has it.
pub fn committed_step(table: &Table, options: &WriteOptions) -> Option<TableOutcome> {
    let (run, step) = (options.run_id.as_ref()?, options.step.as_ref()?);
    let snapshot = table.committed_or_staged(|summary| summary.get(RUN_ID_KEY) == Some(run) && summary.get(STEP_KEY) == Some(step))?;
    Some(TableOutcome {
        ident: table.ident().clone(),
        already_committed: true,
        snapshot_id: Some(snapshot.snapshot_id),
        metadata_location: table.metadata_location().to_owned(),
        added_rows: snapshot.count("added-records"),
        added_files: snapshot.count("added-data-files"),
        removed_rows: snapshot.count("deleted-records"),
        removed_files: snapshot.count("deleted-data-files"),
    })
}
