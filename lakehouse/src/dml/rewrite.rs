//! Copy-on-write: finds the data files that hold rows of a condition and writes them anew without (DELETE) or with
//! changed (UPDATE) rows.
//!
//! Files are first judged by their statistics alone: some cannot hold such a row, in some every row is one. Only
//! the rest is scanned, to count matching rows per file; only files with a match and a remainder are rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, lit, not, when,
};
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

use super::align::{Casting, Matching, align};
use super::Write;
use crate::commit::{ConflictCheck, FileFilter};
use crate::scan::files::ScanFile;
use crate::scan::{FILE_COLUMN, IcebergTableProvider, ScanOptions, SnapshotSelector, is_plain, is_total};
use crate::table::Table;
use crate::write::DataFileInfo;

/// What happens to rows that satisfy the condition.
#[derive(Debug, Clone)]
pub enum RowEdit {
    Delete,
    Update(Vec<Assignment>),
}

/// `column = value`; the value may refer to the table's columns.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub column: String,
    pub value: Expr,
}

/// A prepared change: commit it with `Write::commit_rows`.
pub struct RowChange {
    /// Paths of data files to take out.
    pub removed: BTreeSet<String>,
    /// Files that replace them.
    pub added: Vec<DataFileInfo>,
    /// Rows deleted or updated.
    pub rows: u64,
    /// Snapshot that was read.
    pub base: Option<i64>,
    /// What must not have happened meanwhile.
    pub check: ConflictCheck,
}

/// Files of a table by what their statistics say about a condition.
struct Judged {
    /// May hold matching rows and others.
    open: Vec<ScanFile>,
    /// Hold matching rows only.
    whole: Vec<ScanFile>,
}

/// Prepares the change of all rows that satisfy `condition`. `alias` is the name by which the condition's columns are
/// qualified, if they are.
pub async fn rewrite_rows(
    write: &Write<'_>,
    table: &Table,
    alias: Option<TableReference>,
    condition: Expr,
    edit: RowEdit,
) -> Result<RowChange> {
    if condition.is_volatile() {
        return Err(Error::new(
            ErrorCode::SqlUnsupported,
            "the condition of a DELETE, UPDATE or overwrite must not be random: it is evaluated more than once",
        ));
    }
    let base = table.current_snapshot_id();
    let judged = judge(write, table, &condition).await?;
    let mut matches: BTreeMap<String, u64> =
        judged.whole.iter().map(|f| (f.path().to_string(), f.data_file().record_count())).collect();
    if !judged.open.is_empty() {
        let paths = judged.open.iter().map(|f| f.path().to_string()).collect();
        matches.extend(count_matches(write, table, alias.as_ref(), &condition, paths).await?);
    }
    let sizes: BTreeMap<&str, u64> =
        judged.open.iter().chain(&judged.whole).map(|f| (f.path(), f.data_file().record_count())).collect();
    let rows = matches.values().sum();
    let to_rewrite: BTreeSet<String> = matches
        .iter()
        .filter(|(path, n)| matches!(edit, RowEdit::Update(_)) || sizes.get(path.as_str()) != Some(*n))
        .map(|(path, _)| path.clone())
        .collect();
    let added = if to_rewrite.is_empty() {
        Vec::new()
    } else {
        let plan = rewrite_plan(table, alias.as_ref(), &condition, &edit, to_rewrite)?;
        let plan = align(plan, table.schema(), &table.ident().to_string(), &Matching::ByPosition, Casting::Checked)?;
        write.data_files(table, plan, true).await?
    };
    let check = conflict_check(write, table, &condition)?;
    Ok(RowChange { removed: matches.into_keys().collect(), added, rows, base, check })
}

/// Sorts the files by their statistics.
async fn judge(write: &Write<'_>, table: &Table, condition: &Expr) -> Result<Judged> {
    let provider = IcebergTableProvider::try_new(table, &SnapshotSelector::Current)?;
    let planned = provider.plan_files(write.state, &plain_terms(condition)).await?;
    if !planned.deletes.is_empty() {
        return Err(Error::new(
            ErrorCode::TableFormat,
            format!("table {} has delete files, which copy-on-write cannot rewrite yet", table.ident()),
        ));
    }
    if !is_total(condition) {
        return Ok(Judged { open: planned.data, whole: Vec::new() });
    }
    // A file where "not condition" is impossible and no column of the condition is NULL holds matching rows only.
    let condition = unnormalize_col(condition.clone());
    let columns: Vec<Column> = condition.column_refs().into_iter().cloned().collect();
    let maybe_not = provider.may_match(write.state, &[not(condition)], &planned.data)?;
    let (mut open, mut whole) = (Vec::new(), Vec::new());
    for (file, maybe_not) in planned.data.into_iter().zip(maybe_not) {
        if !maybe_not && provider.without_nulls(&file, &columns)? { whole.push(file) } else { open.push(file) }
    }
    Ok(Judged { open, whole })
}

/// Matching rows per file, of the files named.
async fn count_matches(
    write: &Write<'_>,
    table: &Table,
    alias: Option<&TableReference>,
    condition: &Expr,
    paths: BTreeSet<String>,
) -> Result<BTreeMap<String, u64>> {
    let plan = scan(table, alias, paths, true)?
        .filter(condition.clone())
        .and_then(|b| b.aggregate(vec![Expr::Column(Column::from_name(FILE_COLUMN))], vec![count(lit(1_i64)).alias("n")]))
        .and_then(LogicalPlanBuilder::build)
        .map_err(Error::from_datafusion)?;
    let mut stream = write.executor.execute_logical(plan).await?;
    let mut matches = BTreeMap::new();
    while let Some(batch) = stream.try_next().await.map_err(Error::from_datafusion)? {
        let unexpected = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, format!("rows per file: {e}"));
        let files = cast(batch.column(0), &DataType::Utf8).map_err(|e| unexpected(&e))?;
        let counts = cast(batch.column(1), &DataType::Int64).map_err(|e| unexpected(&e))?;
        for (file, n) in files.as_string::<i32>().iter().zip(counts.as_primitive::<Int64Type>()) {
            if let (Some(file), Some(n)) = (file, n) {
                *matches.entry(file.to_string()).or_default() += u64::try_from(n).unwrap_or(0);
            }
        }
    }
    Ok(matches)
}

/// The rows that take the place of those in `paths`.
fn rewrite_plan(
    table: &Table,
    alias: Option<&TableReference>,
    condition: &Expr,
    edit: &RowEdit,
    paths: BTreeSet<String>,
) -> Result<LogicalPlan> {
    let rest = || Expr::IsNotTrue(Box::new(condition.clone()));
    let builder = scan(table, alias, paths.clone(), false)?;
    let built = match edit {
        RowEdit::Delete => builder.filter(rest()).and_then(LogicalPlanBuilder::build),
        RowEdit::Update(assignments) => {
            let columns = builder.schema().columns();
            let changed = |column: &Column| {
                assignments.iter().find(|a| a.column.eq_ignore_ascii_case(&column.name)).map(|a| a.value.clone())
            };
            let keep = |column: &Column| Expr::Column(column.clone());
            if !is_plain(condition) {
                // A subquery can stand in a filter only: unchanged and changed rows apart.
                let updated: Vec<Expr> = columns
                    .iter()
                    .map(|c| changed(c).unwrap_or_else(|| keep(c)).alias(c.name.clone()))
                    .collect();
                let kept: Vec<Expr> = columns.iter().map(|c| keep(c).alias(c.name.clone())).collect();
                let updated = builder.filter(condition.clone()).and_then(|b| b.project(updated));
                let kept = scan(table, alias, paths, false)?
                    .filter(rest())
                    .and_then(|b| b.project(kept))
                    .and_then(LogicalPlanBuilder::build);
                updated.and_then(|b| b.union(kept?)).and_then(LogicalPlanBuilder::build)
            } else {
                let exprs = columns
                    .iter()
                    .map(|c| match changed(c) {
                        Some(value) => when(condition.clone(), value).otherwise(keep(c)).map(|e| e.alias(c.name.clone())),
                        None => Ok(keep(c)),
                    })
                    .collect::<std::result::Result<Vec<_>, _>>();
                exprs.and_then(|exprs| builder.project(exprs)).and_then(LogicalPlanBuilder::build)
            }
        }
    };
    built.map_err(Error::from_datafusion)
}

fn scan(
    table: &Table,
    alias: Option<&TableReference>,
    only: BTreeSet<String>,
    file_column: bool,
) -> Result<LogicalPlanBuilder> {
    let options = ScanOptions { file_column, position_column: false, only_files: Some(Arc::new(only)) };
    let provider = IcebergTableProvider::with_options(table, &SnapshotSelector::Current, options)?;
    let name = alias.cloned().unwrap_or_else(|| TableReference::bare(table.ident().name()));
    let provider: Arc<dyn TableProvider> = Arc::new(provider);
    LogicalPlanBuilder::scan(name, provider_as_source(provider), None).map_err(Error::from_datafusion)
}

/// Files that others add meanwhile conflict only if they may hold rows of the condition.
fn conflict_check(write: &Write<'_>, table: &Table, condition: &Expr) -> Result<ConflictCheck> {
    let provider = IcebergTableProvider::try_new(table, &SnapshotSelector::Current)?;
    let terms = plain_terms(condition);
    let state = write.state.clone();
    let filter: FileFilter = Arc::new(move |info: &DataFileInfo| {
        provider.info_may_match(&state, &terms, info).unwrap_or(true)
    });
    Ok(ConflictCheck::Serializable(Some(filter)))
}

/// The conjuncts that can be judged by statistics, their columns unqualified.
fn plain_terms(condition: &Expr) -> Vec<Expr> {
    split_conjunction(condition).into_iter().filter(|t| is_plain(t)).map(|t| unnormalize_col(t.clone())).collect()
}
