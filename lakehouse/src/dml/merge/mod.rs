//! MERGE INTO. Target and source are joined up to three times, each time with as few of the target's files and columns
//! as possible:
//!
//! 1. `matches`: which files hold rows that are updated or deleted, and whether one is matched more than once;
//! 2. `changed`: what takes the place of those rows (merge-on-read) or of their files (copy-on-write);
//! 3. `inserted`: source rows without a match.
//!
//! No plan has a UNION or an outer join that keeps its build side: both are unsafe in a distributed query.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Column, DFSchema, JoinType, ScalarValue, TableReference};
use datafusion::functions_aggregate::expr_fn::{count, max, sum};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, case, col, lit, when};
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

use self::source::{has_unique_keys, hold, is_volatile, key_range};
use super::Write;
use super::align::{Casting, fit};
use super::distribute::Purpose;
use super::rewrite::Assignment;
use super::target::{Judged, Places, RowChange, RowMode, RowOperation, delta, judge, moved_lineage, plain_terms, scan};
use crate::scan::values::literal_to_scalar;
use crate::scan::{FILE_COLUMN, POSITION_COLUMN, is_plain};
use crate::table::Table;
use crate::table::arrow_schema::write_default;
use crate::write::{DELETE, OPERATION_COLUMN, UPDATE};

/// Column of joined rows: which clause acts, [`KEEP`] for none.
const ACTION: &str = "\u{1}action";
/// Column of source rows: true.
const PRESENT: &str = "\u{1}present";
const KEEP: i32 = 0;
/// Actions of `NOT MATCHED BY SOURCE` begin above this, those of `MATCHED` at 1.
const BY_SOURCE: i32 = 1_000;

/// What a clause does with the target's row.
#[derive(Debug, Clone)]
pub enum MergeAction {
    Update(Vec<Assignment>),
    Delete,
}

/// `WHEN MATCHED [AND condition] THEN …` or `WHEN NOT MATCHED BY SOURCE [AND condition] THEN …`
#[derive(Debug, Clone)]
pub struct MergeClause {
    pub condition: Option<Expr>,
    pub action: MergeAction,
}

/// `WHEN NOT MATCHED [AND condition] THEN INSERT …`
#[derive(Debug, Clone)]
pub struct Insertion {
    pub condition: Option<Expr>,
    /// Columns and their values; the others become NULL.
    pub values: Vec<Assignment>,
}

/// A MERGE. Expressions qualify columns by the two aliases.
#[derive(Debug, Clone)]
pub struct Merge {
    /// Name of the target in expressions.
    pub target: TableReference,
    /// Name of the source in expressions.
    pub source: TableReference,
    /// Rows of the source.
    pub rows: LogicalPlan,
    pub on: Expr,
    pub matched: Vec<MergeClause>,
    pub by_source: Vec<MergeClause>,
    pub inserted: Vec<Insertion>,
}

/// Prepares a MERGE into `table`.
///
/// # Errors
/// `MergeCardinality` if several source rows match a target row that a clause may change; `SchemaMismatch`;
/// `SqlUnsupported` for random conditions and subqueries in clauses.
pub async fn merge_rows(write: &Write<'_>, table: &Table, mut merge: Merge) -> Result<RowChange> {
    merge.validate()?;
    let reads_itself = super::reads::plan_reads(&merge.rows, table)?;
    if is_volatile(&merge.rows)? {
        merge.rows = hold(write, merge.rows).await?;
    }
    let mode = RowOperation::Merge.mode(table)?;
    let range = key_range(write, table, &merge).await?;
    let own_terms: Vec<Expr> = merge.target_terms().into_iter().chain(range.clone()).collect();
    // Every row that this depends on satisfies these; with NOT MATCHED BY SOURCE it depends on all.
    let seen = if merge.by_source.is_empty() { own_terms.iter().flat_map(plain_terms).collect() } else { Vec::new() };
    let change = RowChange {
        removed: BTreeSet::new(),
        added: Vec::new(),
        rows: 0,
        base: table.current_snapshot_id(),
        check: RowOperation::Merge.check(write, table, seen, reads_itself)?,
    };
    let mut job = Job { write, table, merge, range, matching: None, change };
    match job.run(mode).await {
        Ok(()) => Ok(job.change),
        Err(error) => {
            write.discard(&job.change.added).await;
            Err(error)
        }
    }
}

impl Merge {
    fn validate(&self) -> Result<()> {
        let clauses = self.matched.iter().chain(&self.by_source);
        let conditions = clauses.filter_map(|c| c.condition.as_ref()).chain(self.inserted.iter().filter_map(|c| c.condition.as_ref()));
        for condition in conditions.chain([&self.on]) {
            if !is_plain(condition) {
                return Err(Error::new(
                    ErrorCode::SqlUnsupported,
                    format!("not supported: a subquery or random value in a condition of MERGE: {condition}"),
                ));
            }
        }
        Ok(())
    }

    /// Conjuncts of ON that speak of the target alone.
    fn target_terms(&self) -> Vec<Expr> {
        let own = |e: &&Expr| !e.column_refs().is_empty() && e.column_refs().iter().all(|c| c.relation.as_ref() == Some(&self.target));
        split_conjunction(&self.on).into_iter().filter(own).cloned().collect()
    }

    /// Whether a target row that is matched twice is an error: not if all that can happen to it is to be deleted.
    fn checks_cardinality(&self) -> bool {
        !matches!(self.matched.as_slice(), [] | [MergeClause { condition: None, action: MergeAction::Delete }, ..])
    }

    /// The source's rows under their alias, with [`PRESENT`].
    fn source_rows(&self) -> Result<LogicalPlanBuilder> {
        let mut exprs: Vec<Expr> = self.rows.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.push(lit(true).alias(PRESENT));
        let rows = LogicalPlanBuilder::from(self.rows.clone()).project(exprs).and_then(|b| b.alias(self.source.clone()));
        rows.map_err(Error::from_datafusion)
    }
}

/// The number of the first clause whose condition holds, else [`KEEP`].
fn first_of<'a>(conditions: impl Iterator<Item = &'a Option<Expr>>, base: i32) -> Result<Expr> {
    let numbered: Vec<(Expr, i32)> = conditions.zip(base + 1..).map(|(c, number)| (c.clone().unwrap_or_else(|| lit(true)), number)).collect();
    let mut numbered = numbered.into_iter();
    let Some((condition, number)) = numbered.next() else { return Ok(lit(KEEP)) };
    let mut builder = when(condition, lit(number));
    for (condition, number) in numbered {
        builder = builder.when(condition, lit(number));
    }
    builder.otherwise(lit(KEEP)).map_err(Error::from_datafusion)
}

struct Job<'a> {
    write: &'a Write<'a>,
    table: &'a Table,
    merge: Merge,
    /// What the source's keys say about the target's: only such rows can match.
    range: Vec<Expr>,
    /// Files with rows that a source row matches, whatever the clauses do with them; known once they were looked for.
    matching: Option<BTreeSet<String>>,
    change: RowChange,
}

impl Job<'_> {
    async fn run(&mut self, mode: RowMode) -> Result<()> {
        let mut touched: BTreeSet<String> = BTreeSet::new();
        if !self.merge.matched.is_empty() {
            touched.extend(self.matches().await?);
        }
        if !self.merge.by_source.is_empty() {
            touched.extend(self.unmatched().await?);
        }
        if !touched.is_empty() {
            match mode {
                RowMode::CopyOnWrite => self.rewrite(touched).await?,
                RowMode::MergeOnRead { vectors } => self.mark(touched, vectors).await?,
            }
        }
        if !self.merge.inserted.is_empty() {
            self.insert().await?;
        }
        Ok(())
    }

    /// The target under its alias; `pruned` leaves out rows that no source row matches.
    fn target(&self, only: Option<BTreeSet<String>>, places: Places, pruned: bool) -> Result<LogicalPlanBuilder> {
        let builder = scan(self.table, &self.merge.target, only, places)?;
        let range = self.range.iter().filter(|_| pruned).cloned().reduce(Expr::and);
        match range {
            Some(range) => builder.filter(range).map_err(Error::from_datafusion),
            None => Ok(builder),
        }
    }

    /// `source JOIN target`, the target's rows on the side that may be kept without a match.
    fn joined(&self, target: LogicalPlanBuilder, join: JoinType) -> Result<LogicalPlanBuilder> {
        let target = built(Ok(target))?;
        self.merge.source_rows()?.join_on(target, join, [self.merge.on.clone()]).map_err(Error::from_datafusion)
    }

    fn place(&self, name: &str) -> Expr {
        Expr::Column(Column::new(Some(self.merge.target.clone()), name))
    }

    /// Files with rows that a `MATCHED` clause changes.
    async fn matches(&mut self) -> Result<BTreeSet<String>> {
        let action = first_of(self.merge.matched.iter().map(|c| &c.condition), 0)?;
        let acts = when(action.not_eq(lit(KEEP)), lit(1_i64)).otherwise(lit(0_i64)).map_err(Error::from_datafusion)?;
        let file = || self.place(FILE_COLUMN).alias("file");
        // Rows need only be told apart where one may match twice; without their positions files are read faster.
        let plan = if has_unique_keys(self.write, self.table, &self.merge).await? {
            self.joined(self.target(None, Places::File, true)?, JoinType::Inner)?
                .project(vec![file(), acts.alias("acts")])
                .and_then(|b| b.aggregate(vec![col("file")], vec![max(lit(1_i64)).alias("n"), sum(col("acts")).alias("acts")]))
        } else {
            self.joined(self.target(None, Places::Row, true)?, JoinType::Inner)?
                .project(vec![file(), self.place(POSITION_COLUMN).alias("position"), acts.alias("acts")])
                .and_then(|b| b.aggregate(vec![col("file"), col("position")], vec![count(lit(1_i64)).alias("n"), max(col("acts")).alias("acts")]))
                .and_then(|b| b.aggregate(vec![col("file")], vec![max(col("n")).alias("n"), sum(col("acts")).alias("acts")]))
        };
        let plan = built(plan)?;
        let (mut files, mut matching) = (BTreeSet::new(), BTreeSet::new());
        let (mut most, mut acting) = (0, 0);
        for (file, [n, acts]) in self.counts(plan).await? {
            most = most.max(n);
            if acts > 0 {
                files.insert(file.clone());
                acting += acts;
            }
            matching.insert(file);
        }
        self.matching = Some(matching);
        if most > 1 && self.merge.checks_cardinality() {
            return Err(Error::new(
                ErrorCode::MergeCardinality,
                format!(
                    "a row of table {} is matched by {most} rows of the source, which could update or delete it more than once; make the source unique by the columns of ON",
                    self.table.ident()
                ),
            ));
        }
        self.change.rows += acting;
        Ok(files)
    }

    /// Files with rows that a `NOT MATCHED BY SOURCE` clause changes.
    async fn unmatched(&mut self) -> Result<BTreeSet<String>> {
        let action = first_of(self.merge.by_source.iter().map(|c| &c.condition), 0)?;
        let rows = self.joined(self.target(None, Places::File, false)?, JoinType::RightAnti)?;
        let plan = built(rows.filter(action.not_eq(lit(KEEP))).and_then(|b| {
            b.project(vec![self.place(FILE_COLUMN).alias("file")])?
                .aggregate(vec![col("file")], vec![count(lit(1_i64)).alias("n"), count(lit(1_i64)).alias("acts")])
        }))?;
        let mut files = BTreeSet::new();
        for (file, [n, _]) in self.counts(plan).await? {
            self.change.rows += n;
            files.insert(file);
        }
        Ok(files)
    }

    /// Runs a plan with rows (file, n, acts).
    async fn counts(&self, plan: LogicalPlan) -> Result<Vec<(String, [u64; 2])>> {
        let unexpected = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, format!("matches per file: {e}"));
        let mut stream = self.write.executor.execute_logical(plan).await?;
        let mut counts = BTreeMap::<String, [u64; 2]>::new();
        while let Some(batch) = stream.try_next().await.map_err(Error::from_datafusion)? {
            let files = cast(batch.column(0), &DataType::Utf8).map_err(|e| unexpected(&e))?;
            let number = |i: usize| cast(batch.column(i), &DataType::Int64).map_err(|e| unexpected(&e));
            let (n, acts) = (number(1)?, number(2)?);
            let (n, acts) = (n.as_primitive::<Int64Type>(), acts.as_primitive::<Int64Type>());
            for ((file, n), acts) in files.as_string::<i32>().iter().zip(n).zip(acts) {
                if let Some(file) = file {
                    let natural = |v: Option<i64>| v.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
                    counts.insert(file.to_owned(), [natural(n), natural(acts)]);
                }
            }
        }
        Ok(counts.into_iter().collect())
    }

    /// All joined rows of some files with their [`ACTION`].
    fn acted(&self, files: BTreeSet<String>, places: Places, join: JoinType) -> Result<LogicalPlanBuilder> {
        let rows = self.joined(self.target(Some(files), places, false)?, join)?;
        let matched = first_of(self.merge.matched.iter().map(|c| &c.condition), 0)?;
        let by_source = first_of(self.merge.by_source.iter().map(|c| &c.condition), BY_SOURCE)?;
        let present = Expr::Column(Column::new(Some(self.merge.source.clone()), PRESENT)).is_not_null();
        let action = match join {
            JoinType::Inner => matched,
            JoinType::RightAnti => by_source,
            JoinType::RightSemi => lit(KEEP),
            _ => when(present, matched).otherwise(by_source).map_err(Error::from_datafusion)?,
        };
        let mut exprs: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.push(action.alias(ACTION));
        rows.project(exprs).map_err(Error::from_datafusion)
    }

    fn clauses(&self) -> impl Iterator<Item = (i32, &MergeAction)> {
        let matched = self.merge.matched.iter().zip(1..).map(|(c, n)| (n, &c.action));
        matched.chain(self.merge.by_source.iter().zip(BY_SOURCE + 1..).map(|(c, n)| (n, &c.action)))
    }

    /// The table's columns after the action of each row.
    fn changed_columns(&self, schema: &DFSchema) -> Result<Vec<Expr>> {
        let name = self.table.ident().to_string();
        let mut columns = Vec::new();
        for field in self.table.schema().fields() {
            let mut values = Vec::new();
            for (number, action) in self.clauses() {
                let MergeAction::Update(assignments) = action else { continue };
                if let Some(assigned) = assignments.iter().find(|a| a.column == *field.name()) {
                    // A join without matches, or with them alone, has no columns of the other kind of clause.
                    if assigned.value.column_refs().iter().all(|c| schema.has_column(c)) {
                        values.push((number, fit(assigned.value.clone(), schema, field, &name, Casting::Checked)?));
                    }
                }
            }
            let old = self.place(field.name());
            let mut values = values.into_iter();
            let value = match values.next() {
                None => old,
                Some((number, value)) => {
                    let mut whens = case(col(ACTION)).when(lit(number), value);
                    for (number, value) in values {
                        whens = whens.when(lit(number), value);
                    }
                    whens.otherwise(old).map_err(Error::from_datafusion)?
                }
            };
            columns.push(value.alias(field.name()));
        }
        columns.extend(moved_lineage(self.table, &self.merge.target, col(ACTION).not_eq(lit(KEEP)))?);
        Ok(columns)
    }

    fn deletions(&self) -> Vec<Expr> {
        self.clauses().filter(|(_, action)| matches!(action, MergeAction::Delete)).map(|(n, _)| lit(n)).collect()
    }

    /// Copy-on-write: the files that take the place of `files`.
    async fn rewrite(&mut self, files: BTreeSet<String>) -> Result<()> {
        // Matched rows that only stay must not come once per match.
        let joins: &[JoinType] = match (self.merge.matched.is_empty(), self.merge.by_source.is_empty()) {
            (true, _) => &[JoinType::RightAnti, JoinType::RightSemi],
            _ => &[JoinType::Right],
        };
        for join in joins {
            let rows = self.acted(files.clone(), Places::Lineage, *join)?;
            let columns = self.changed_columns(rows.schema())?;
            let deletions = self.deletions();
            let rows = match deletions.is_empty() {
                true => Ok(rows),
                false => rows.filter(col(ACTION).in_list(deletions, true)),
            };
            let plan = built(rows.and_then(|b| b.project(columns)))?;
            self.change.added.extend(self.write.data_files(self.table, plan, Purpose::Merge).await?);
        }
        self.change.removed.extend(files);
        Ok(())
    }

    /// Merge-on-read: delete files for the changed rows of `files`, and what takes their place.
    async fn mark(&mut self, files: BTreeSet<String>, vectors: bool) -> Result<()> {
        let Judged { open, deletes, .. } = judge(self.write, self.table, &lit(true)).await.map(|mut judged| {
            judged.open.append(&mut judged.whole);
            judged.open.retain(|file| files.contains(file.path()));
            judged
        })?;
        let join = match (self.merge.matched.is_empty(), self.merge.by_source.is_empty()) {
            (_, true) => JoinType::Inner,
            (true, false) => JoinType::RightAnti,
            (false, false) => JoinType::Right,
        };
        let rows = self.acted(files, Places::RowAndLineage, join)?;
        let mut columns = self.changed_columns(rows.schema())?;
        columns.push(self.place(FILE_COLUMN).alias(FILE_COLUMN));
        columns.push(self.place(POSITION_COLUMN).alias(POSITION_COLUMN));
        let deletions = self.deletions();
        let operation = match deletions.is_empty() {
            true => Ok(lit(UPDATE)),
            false => when(col(ACTION).in_list(deletions, false), lit(DELETE)).otherwise(lit(UPDATE)),
        };
        columns.push(operation.map_err(Error::from_datafusion)?.alias(OPERATION_COLUMN));
        let plan = built(rows.filter(col(ACTION).not_eq(lit(KEEP))).and_then(|b| b.project(columns)))?;
        let updates = self.clauses().any(|(_, action)| matches!(action, MergeAction::Update(_)));
        let delta = delta(self.table, &open.iter().collect::<Vec<_>>(), &deletes, vectors)?;
        self.change.added.extend(self.write.delta_files(self.table, plan, delta, updates.then_some(Purpose::Merge)).await?);
        Ok(())
    }

    /// Source rows without a match.
    async fn insert(&mut self) -> Result<()> {
        let name = self.table.ident().to_string();
        let source = built(Ok(self.merge.source_rows()?))?;
        // The target is the build side, so that each source row is judged once wherever it is. Files without a match
        // cannot say that a row has one.
        let target = self.target(self.matching.clone(), Places::None, true)?;
        let rows = target.join_on(source, JoinType::RightAnti, [self.merge.on.clone()]).map_err(Error::from_datafusion)?;
        let action = first_of(self.merge.inserted.iter().map(|c| &c.condition), 0)?;
        let mut exprs: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.push(action.alias(ACTION));
        let rows = rows.project(exprs).and_then(|b| b.filter(col(ACTION).not_eq(lit(KEEP)))).map_err(Error::from_datafusion)?;
        let mut columns = Vec::new();
        for field in self.table.schema().fields() {
            let mut values = Vec::with_capacity(self.merge.inserted.len());
            for insertion in &self.merge.inserted {
                let assigned = insertion.values.iter().find(|v| v.column == *field.name());
                let value = match assigned {
                    Some(assigned) => assigned.value.clone(),
                    None if write_default(field).is_some() => {
                        let value = write_default(field).and_then(|value| literal_to_scalar(&value, field.data_type()));
                        lit(value.unwrap_or(ScalarValue::Null))
                    }
                    None if field.is_nullable() => lit(ScalarValue::Null),
                    None => {
                        return Err(Error::new(
                            ErrorCode::SchemaMismatch,
                            format!("column '{}' of table {name} is required (NOT NULL) but INSERT gives it no value", field.name()),
                        ));
                    }
                };
                values.push(fit(value, rows.schema(), field, &name, Casting::Checked)?);
            }
            let mut values = values.into_iter();
            let first = values.next().unwrap_or_else(|| lit(ScalarValue::Null));
            let value = match values.len() {
                0 => Ok(first),
                _ => {
                    let mut whens = case(col(ACTION)).when(lit(1_i32), first);
                    for (number, value) in (2_i32..).zip(values) {
                        whens = whens.when(lit(number), value);
                    }
                    whens.end()
                }
            };
            let value = value.map_err(Error::from_datafusion)?;
            columns.push(value.alias(field.name()));
        }
        let plan = built(rows.project(columns))?;
        let added = self.write.data_files(self.table, plan, Purpose::Merge).await?;
        self.change.rows += added.iter().map(|file| file.record_count).sum::<u64>();
        self.change.added.extend(added);
        Ok(())
    }
}

fn built(builder: datafusion::common::Result<LogicalPlanBuilder>) -> Result<LogicalPlan> {
    builder.and_then(LogicalPlanBuilder::build).map_err(Error::from_datafusion)
}
