//! DELETE and UPDATE. Files are first judged by their statistics alone: some cannot hold a row of the condition, in some
//! every row is one. A file all of whose rows are deleted goes without being read.
//!
//! Copy-on-write counts the matching rows per file of the rest; files with a match and a remainder are written anew.
//! Merge-on-read reads them once and writes which rows went, with what came in their place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, TableReference};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit, when};
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

use super::Write;
use super::align::{Casting, fit};
use super::distribute::Purpose;
use super::target::{Judged, Places, RowChange, RowMode, RowOperation, delta, judge, moved_lineage, plain_terms, scan};
use crate::commit::ConflictCheck;
use crate::scan::deletes::DeleteContent;
use crate::scan::{FILE_COLUMN, POSITION_COLUMN, is_plain};
use crate::table::Table;
use crate::write::{DELETE, DataFileInfo, FileContent, OPERATION_COLUMN, UPDATE};

/// What happens to rows that satisfy the condition.
#[derive(Debug, Clone)]
pub enum RowEdit {
    Delete,
    Update(Vec<Assignment>),
}

impl RowEdit {
    fn operation(&self) -> RowOperation {
        match self {
            Self::Delete => RowOperation::Delete,
            Self::Update(_) => RowOperation::Update,
        }
    }

    /// What the rows that stay or change are written for.
    fn purpose(&self) -> Purpose {
        match self {
            Self::Delete => Purpose::Delete,
            Self::Update(_) => Purpose::Update,
        }
    }
}

/// `column = value`; the value may refer to the table's columns.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub column: String,
    pub value: Expr,
}

/// Prepares the change of all rows that satisfy `condition`. `alias` is the name by which the condition's columns are
/// qualified, if they are.
pub async fn rewrite_rows(write: &Write<'_>, table: &Table, alias: Option<TableReference>, condition: Expr, edit: RowEdit) -> Result<RowChange> {
    if condition.is_volatile() {
        return Err(Error::new(
            ErrorCode::SqlUnsupported,
            "the condition of a DELETE, UPDATE or overwrite must not be random: it is evaluated more than once",
        ));
    }
    let alias = alias.unwrap_or_else(|| TableReference::bare(table.ident().name()));
    let condition = with_named_subqueries(condition)?;
    let operation = edit.operation();
    let mode = operation.mode(table)?;
    let judged = judge(write, table, &condition).await?;
    let mut reads_itself = super::reads::expr_reads(&condition, table)?;
    if let RowEdit::Update(assignments) = &edit {
        for assignment in assignments {
            reads_itself |= super::reads::expr_reads(&assignment.value, table)?;
        }
    }
    let check = operation.check(write, table, plain_terms(&condition), reads_itself)?;
    let base = table.current_snapshot_id();
    let job = Job { write, table, alias, condition, edit };
    let mut change = match mode {
        RowMode::CopyOnWrite => job.copy_on_write(judged).await?,
        RowMode::MergeOnRead { vectors } => job.merge_on_read(judged, vectors).await?,
    };
    change.base = base;
    change.check = check;
    Ok(change)
}

struct Job<'a> {
    write: &'a Write<'a>,
    table: &'a Table,
    alias: TableReference,
    condition: Expr,
    edit: RowEdit,
}

impl Job<'_> {
    fn change(&self) -> RowChange {
        RowChange { removed: BTreeSet::new(), added: Vec::new(), rows: 0, base: None, check: ConflictCheck::Snapshot }
    }

    async fn copy_on_write(&self, judged: Judged) -> Result<RowChange> {
        let mut change = self.change();
        let mut matches: BTreeMap<String, u64> = judged.whole.iter().map(|f| (f.path().to_string(), f.data_file().record_count())).collect();
        if !judged.open.is_empty() {
            let paths = judged.open.iter().map(|f| f.path().to_string()).collect();
            matches.extend(self.count_matches(paths).await?);
        }
        let sizes: BTreeMap<&str, u64> = judged.files().map(|f| (f.path(), f.data_file().record_count())).collect();
        change.rows = matches.values().sum();
        let to_rewrite: BTreeSet<String> = matches
            .iter()
            .filter(|(path, n)| matches!(self.edit, RowEdit::Update(_)) || sizes.get(path.as_str()) != Some(*n))
            .map(|(path, _)| path.clone())
            .collect();
        for plan in self.rewrite_plans(to_rewrite)? {
            match self.write.data_files(self.table, plan, self.edit.purpose()).await {
                Ok(files) => change.added.extend(files),
                Err(error) => {
                    self.write.discard(&change.added).await;
                    return Err(error);
                }
            }
        }
        change.removed = matches.into_keys().collect();
        Ok(change)
    }

    async fn merge_on_read(&self, judged: Judged, vectors: bool) -> Result<RowChange> {
        let mut change = self.change();
        let update = matches!(self.edit, RowEdit::Update(_));
        if !update {
            change.removed = judged.whole.iter().map(|f| f.path().to_string()).collect();
            change.rows = judged.whole.iter().map(|f| f.data_file().record_count()).sum();
        }
        let read: Vec<_> = judged.open.iter().chain(judged.whole.iter().filter(|_| update)).collect();
        if read.is_empty() {
            return Ok(change);
        }
        let delta = delta(self.table, &read, &judged.deletes, vectors)?;
        let paths = read.iter().map(|f| f.path().to_string()).collect();
        let plan = self.delta_plan(paths)?;
        change.added = self.write.delta_files(self.table, plan, delta, update.then_some(Purpose::Update)).await?;
        let (deleted, replaced) = deleted_rows(&change.added, &judged);
        change.rows += deleted.saturating_sub(replaced);
        Ok(change)
    }

    /// Matching rows per file, of the files named.
    async fn count_matches(&self, paths: BTreeSet<String>) -> Result<BTreeMap<String, u64>> {
        let file = Expr::Column(Column::from_name(FILE_COLUMN));
        let plan = scan(self.table, &self.alias, Some(paths), Places::File)?
            .filter(self.condition.clone())
            .and_then(|b| b.aggregate(vec![file], vec![count(lit(1_i64)).alias("n")]))
            .and_then(LogicalPlanBuilder::build)
            .map_err(Error::from_datafusion)?;
        let mut stream = self.write.executor.execute_logical(plan).await?;
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

    /// The rows that take the place of those in `paths`; two plans where changed and unchanged rows must be read apart.
    fn rewrite_plans(&self, paths: BTreeSet<String>) -> Result<Vec<LogicalPlan>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let rest = || Expr::IsNotTrue(Box::new(self.condition.clone()));
        let rows = || scan(self.table, &self.alias, Some(paths.clone()), Places::Lineage);
        let built = |b: datafusion::common::Result<LogicalPlanBuilder>| b.and_then(LogicalPlanBuilder::build).map_err(Error::from_datafusion);
        let RowEdit::Update(assignments) = &self.edit else {
            let builder = rows()?;
            let all = self.columns(&builder, &[], lit(false))?;
            return Ok(vec![built(builder.filter(rest()).and_then(|b| b.project(all)))?]);
        };
        if !is_plain(&self.condition) {
            // A subquery can stand in a filter only.
            let builder = rows()?;
            let (changed, kept) = (self.columns(&builder, assignments, lit(true))?, self.columns(&builder, &[], lit(false))?);
            let changed = built(builder.filter(self.condition.clone()).and_then(|b| b.project(changed)))?;
            let kept = built(rows()?.filter(rest()).and_then(|b| b.project(kept)))?;
            return Ok(vec![changed, kept]);
        }
        let builder = rows()?;
        let (new, old) = (self.values(&builder, assignments)?, self.values(&builder, &[])?);
        let mut exprs = Vec::with_capacity(new.len());
        for (field, (new, old)) in self.table.schema().fields().iter().zip(new.into_iter().zip(old)) {
            let value = if new == old { Ok(old) } else { when(self.condition.clone(), new).otherwise(old) };
            exprs.push(value.map_err(Error::from_datafusion)?.alias(field.name()));
        }
        exprs.extend(moved_lineage(self.table, &self.alias, self.condition.clone())?);
        Ok(vec![built(builder.project(exprs))?])
    }

    /// The rows of a delta.
    fn delta_plan(&self, paths: BTreeSet<String>) -> Result<LogicalPlan> {
        let builder = scan(self.table, &self.alias, Some(paths), Places::RowAndLineage)?;
        let (mut exprs, code) = match &self.edit {
            RowEdit::Delete => (Vec::new(), DELETE),
            RowEdit::Update(assignments) => (self.columns(&builder, assignments, lit(true))?, UPDATE),
        };
        exprs.push(Expr::Column(Column::new(Some(self.alias.clone()), FILE_COLUMN)).alias(FILE_COLUMN));
        exprs.push(Expr::Column(Column::new(Some(self.alias.clone()), POSITION_COLUMN)).alias(POSITION_COLUMN));
        exprs.push(lit(code).alias(OPERATION_COLUMN));
        builder.filter(self.condition.clone()).and_then(|b| b.project(exprs)).and_then(LogicalPlanBuilder::build).map_err(Error::from_datafusion)
    }

    /// The table's columns with assigned values, in the table's types, and the lineage of rows that are `changed`.
    fn columns(&self, builder: &LogicalPlanBuilder, assignments: &[Assignment], changed: Expr) -> Result<Vec<Expr>> {
        let fields = self.table.schema().fields().iter();
        let mut columns: Vec<Expr> = self.values(builder, assignments)?.into_iter().zip(fields).map(|(value, field)| value.alias(field.name())).collect();
        columns.extend(moved_lineage(self.table, &self.alias, changed)?);
        Ok(columns)
    }

    fn values(&self, builder: &LogicalPlanBuilder, assignments: &[Assignment]) -> Result<Vec<Expr>> {
        let name = self.table.ident().to_string();
        self.table
            .schema()
            .fields()
            .iter()
            .map(|field| {
                let assigned = assignments.iter().find(|a| a.column.eq_ignore_ascii_case(field.name()));
                match assigned {
                    Some(assignment) => fit(assignment.value.clone(), builder.schema(), field, &name, Casting::Checked),
                    None => Ok(Expr::Column(Column::new(Some(self.alias.clone()), field.name()))),
                }
            })
            .collect()
    }
}

/// Gives computed columns of `IN (SELECT max(x) …)` plain names: the optimizer fails on the negation of one without.
fn with_named_subqueries(condition: Expr) -> Result<Expr> {
    let named = condition.transform_up(|expr| match expr {
        Expr::InSubquery(mut within) if within.subquery.subquery.schema().fields().iter().any(|field| field.name().contains('(')) => {
            let plan = within.subquery.subquery.as_ref().clone();
            let value = plan.schema().columns().into_iter().map(|column| Expr::Column(column).alias("value"));
            let columns: Vec<Expr> = value.take(1).collect();
            within.subquery.subquery = Arc::new(LogicalPlanBuilder::from(plan).project(columns)?.build()?);
            Ok(Transformed::yes(Expr::InSubquery(within)))
        }
        expr => Ok(Transformed::no(expr)),
    });
    Ok(named.map_err(Error::from_datafusion)?.data)
}

/// Rows in delete files, and how many of them were deleted before (a new deletion vector holds the old one's rows).
fn deleted_rows(added: &[DataFileInfo], judged: &Judged) -> (u64, u64) {
    let deletes = added.iter().filter(|file| file.content == FileContent::PositionDeletes);
    let old = |file: &DataFileInfo| {
        let vector = judged.deletes.vector_of(file.referenced_data_file.as_deref()?)?;
        match vector.content {
            DeleteContent::Vector { rows, .. } => Some(rows),
            _ => None,
        }
    };
    deletes.fold((0, 0), |(all, before), file| (all + file.record_count, before + old(file).unwrap_or(0)))
}
