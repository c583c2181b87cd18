//! How rows are spread over tasks before they are written: by partition value (`hash`), so that a write of many partitions
//! does not leave a small file per task and partition, or by ranges of the table's order (`range`), so that the files of
//! a sorted table do not overlap.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int32Array};
use datafusion::arrow::compute::{SortColumn, SortOptions, concat, lexsort_to_indices};
use datafusion::common::hash_utils::create_hashes;
use datafusion::common::{Column, ScalarValue};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions::math::expr_fn::random;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Partitioning, lit, when};
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use futures::TryStreamExt;
use iceberg::spec::{NullOrder, SortDirection, Transform};

use chainalytics_common::{Error, ErrorCode, Result};

use super::Write;
use crate::settings::{self, SessionSettings};
use crate::table::Table;
use crate::write::transformed;

/// Table property: `hash` shuffles rows by partition value before writing, `range` by ranges of partition value and sort
/// order, `none` not at all. Unset: appends are not shuffled (streams and daily loads touch few partitions, and one
/// value would put all work on one task), overwrites are by hash. `write.delete.distribution-mode`,
/// `write.update.distribution-mode` and `write.merge.distribution-mode` go before it for these changes.
pub const DISTRIBUTION_MODE: &str = "write.distribution-mode";

/// What rows are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Append,
    Overwrite,
    /// Rows of files that lose others.
    Delete,
    Update,
    Merge,
}

impl Purpose {
    /// The table property that is asked before [`DISTRIBUTION_MODE`].
    fn property(self) -> Option<&'static str> {
        match self {
            Self::Append | Self::Overwrite => None,
            Self::Delete => Some("write.delete.distribution-mode"),
            Self::Update => Some("write.update.distribution-mode"),
            Self::Merge => Some("write.merge.distribution-mode"),
        }
    }
}

/// Rows looked at for each range of a range distribution.
const SAMPLE_PER_RANGE: usize = 128;
/// Ranges at most: the expression that finds a row's range grows with them.
const RANGES_MAX: usize = 256;

/// A column, or its transform, by which rows are ordered.
struct Key {
    expr: Expr,
    options: SortOptions,
}

impl Write<'_> {
    /// Adds the shuffle that the session or the table asks for; the plan's columns are the table's.
    pub(super) async fn distribute(&self, plan: LogicalPlan, table: &Table, purpose: Purpose) -> Result<LogicalPlan> {
        let partitions = self.state.config().target_partitions();
        let settings = SessionSettings::of(self.state);
        let property = |key: &'static str| table.property(key).map(|mode| (key, mode));
        let asked = settings.get(settings::DISTRIBUTION_MODE).map(|mode| (settings::DISTRIBUTION_MODE, mode));
        let mode = asked.or_else(|| purpose.property().and_then(property)).or_else(|| property(DISTRIBUTION_MODE));
        let ranges = match mode {
            Some((_, "range")) => true,
            Some((_, "hash")) => false,
            Some((_, "none")) => return Ok(plan),
            None if purpose != Purpose::Append => false,
            None => return Ok(plan),
            Some((key, other)) => {
                return Err(Error::new(
                    ErrorCode::InvalidArgument,
                    format!("table {}: property {key} is '{other}', it must be none, hash or range", table.ident()),
                ));
            }
        };
        if !ranges {
            return by_partition(plan, table, partitions);
        }
        let mut keys = partition_keys(table)?;
        keys.extend(sort_keys(table)?);
        if partitions < 2 || keys.is_empty() {
            return Ok(plan);
        }
        let range = self.range_of(&plan, &keys, partitions.min(RANGES_MAX)).await?;
        hashed(plan, vec![range], partitions)
    }

    /// An expression that is equal for rows of one range and hashes each range to a task of its own. The ranges come from a
    /// sample of the rows, so that the plan runs twice, the first time for the keys alone.
    async fn range_of(&self, plan: &LogicalPlan, keys: &[Key], partitions: usize) -> Result<Expr> {
        let wanted = partitions * SAMPLE_PER_RANGE;
        let few = plan.max_rows().is_some_and(|most| most < wanted);
        let columns = if few { Vec::new() } else { self.sample(plan, keys, wanted).await? };
        let rows = columns.first().map_or(0, |column| column.len());
        let tags = tags(partitions)?;
        // What is this small is one task's work, and then one file's.
        let splits = if rows < wanted { Vec::new() } else { splits(&columns, keys, partitions)? };
        choose(keys, &splits, &tags)
    }

    /// Keys of rows drawn at random, sorted.
    async fn sample(&self, plan: &LogicalPlan, keys: &[Key], rows: usize) -> Result<Vec<ArrayRef>> {
        let draw = "\u{1}draw";
        let mut exprs: Vec<Expr> = keys.iter().enumerate().map(|(i, key)| key.expr.clone().alias(format!("\u{1}{i}"))).collect();
        exprs.push(random().alias(draw));
        let plan = LogicalPlanBuilder::from(plan.clone())
            .project(exprs)
            .and_then(|b| b.sort_with_limit([Expr::Column(Column::from_name(draw)).sort(true, false)], Some(rows)))
            .and_then(LogicalPlanBuilder::build)
            .map_err(Error::from_datafusion)?;
        let batches: Vec<_> = self.executor.execute_logical(plan).await?.try_collect().await.map_err(Error::from_datafusion)?;
        let failed = |error: datafusion::arrow::error::ArrowError| Error::new(ErrorCode::Internal, format!("sample of sort keys: {error}"));
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        (0..keys.len()).map(|i| concat(&batches.iter().map(|batch| batch.column(i).as_ref()).collect::<Vec<_>>()).map_err(failed)).collect()
    }
}

/// Spreads rows over `tasks` by their partition value, so that the rows of one partition are one task's. As it is for tables without
/// partitions.
///
/// # Errors
/// A partition field over a column that the plan does not have.
pub fn by_partition(plan: LogicalPlan, table: &Table, tasks: usize) -> Result<LogicalPlan> {
    let keys: Vec<Expr> = partition_keys(table)?.into_iter().map(|key| key.expr).collect();
    if tasks < 2 || keys.is_empty() { Ok(plan) } else { hashed(plan, keys, tasks) }
}

fn hashed(plan: LogicalPlan, by: Vec<Expr>, tasks: usize) -> Result<LogicalPlan> {
    LogicalPlanBuilder::from(plan).repartition(Partitioning::Hash(by, tasks)).and_then(LogicalPlanBuilder::build).map_err(Error::from_datafusion)
}

/// The keys at which one range ends and the next begins, in order, each greater than the one before.
fn splits(columns: &[ArrayRef], keys: &[Key], ranges: usize) -> Result<Vec<Vec<ScalarValue>>> {
    let failed = |error: datafusion::arrow::error::ArrowError| Error::new(ErrorCode::Internal, format!("order of sort keys: {error}"));
    let sort: Vec<SortColumn> =
        columns.iter().zip(keys).map(|(column, key)| SortColumn { values: Arc::clone(column), options: Some(key.options) }).collect();
    let order = lexsort_to_indices(&sort, None).map_err(failed)?;
    let mut splits: Vec<Vec<ScalarValue>> = Vec::new();
    for range in 1..ranges {
        let row = order.value(range * order.len() / ranges) as usize;
        let key = columns.iter().map(|column| ScalarValue::try_from_array(column, row)).collect::<datafusion::common::Result<Vec<_>>>();
        let key = key.map_err(Error::from_datafusion)?;
        if splits.last() != Some(&key) {
            splits.push(key);
        }
    }
    Ok(splits)
}

/// For each task a number that is shuffled to it.
fn tags(partitions: usize) -> Result<Vec<i32>> {
    let candidates = Int32Array::from_iter_values(0..i32::try_from(partitions * 64).unwrap_or(i32::MAX));
    let mut hashes = vec![0; candidates.len()];
    let column: ArrayRef = Arc::new(candidates);
    create_hashes([&column], REPARTITION_RANDOM_STATE.random_state(), &mut hashes).map_err(Error::from_datafusion)?;
    let of = |task: usize| hashes.iter().position(|hash| usize::try_from(hash % partitions as u64) == Ok(task));
    // Without one the rows share a task with another range: more work for it, and files that may overlap.
    Ok((0..partitions).map(|task| of(task).unwrap_or(task)).map(|tag| i32::try_from(tag).unwrap_or(0)).collect())
}

/// `CASE` over the splits that finds a row's range by halving, and gives its tag.
fn choose(keys: &[Key], splits: &[Vec<ScalarValue>], tags: &[i32]) -> Result<Expr> {
    let Some(split) = splits.get(splits.len() / 2) else {
        return Ok(lit(tags.first().copied().unwrap_or(0)));
    };
    let at = splits.len() / 2;
    let lower = choose(keys, &splits[..at], &tags[..=at])?;
    let upper = choose(keys, &splits[at + 1..], &tags[at + 1..])?;
    when(behind(keys, split), upper).otherwise(lower).map_err(Error::from_datafusion)
}

/// Whether a row comes after `split`.
fn behind(keys: &[Key], split: &[ScalarValue]) -> Expr {
    let terms = keys.iter().zip(split).map(|(key, value)| {
        let column = key.expr.clone();
        let (nulls_first, descending) = (key.options.nulls_first, key.options.descending);
        let (after, equal) = match (value.is_null(), nulls_first) {
            (true, true) => (column.clone().is_not_null(), column.is_null()),
            (true, false) => (lit(false), column.is_null()),
            (false, _) => {
                let value = lit(value.clone());
                let after = match descending {
                    true => column.clone().lt(value.clone()),
                    false => column.clone().gt(value.clone()),
                };
                let after = if nulls_first { after } else { column.clone().is_null().or(after) };
                (after, column.eq(value))
            }
        };
        (after, equal)
    });
    let terms: Vec<(Expr, Expr)> = terms.collect();
    terms.into_iter().rev().fold(lit(false), |rest, (after, equal)| match rest {
        Expr::Literal(ScalarValue::Boolean(Some(false)), _) => after,
        rest => after.or(equal.and(rest)),
    })
}

/// The table's partition fields, in the order of their values.
fn partition_keys(table: &Table) -> Result<Vec<Key>> {
    let metadata = table.metadata();
    let options = SortOptions { descending: false, nulls_first: true };
    let fields = metadata.default_partition_spec().fields().iter().filter(|field| field.transform != Transform::Void);
    fields.map(|field| Ok(Key { expr: transformed(field.transform, column(table, field.source_id)?), options })).collect()
}

/// The fields of the table's sort order.
fn sort_keys(table: &Table) -> Result<Vec<Key>> {
    let order = table.metadata().default_sort_order();
    let keys = order.fields.iter().map(|field| {
        let options = SortOptions { descending: field.direction == SortDirection::Descending, nulls_first: field.null_order == NullOrder::First };
        Ok(Key { expr: transformed(field.transform, column(table, field.source_id)?), options })
    });
    keys.collect()
}

/// A column, perhaps within structs, by its field id.
fn column(table: &Table, id: i32) -> Result<Expr> {
    let schema = table.metadata().current_schema();
    let name = schema.name_by_field_id(id).unwrap_or_default();
    let top = schema
        .as_struct()
        .fields()
        .iter()
        .find(|field| name == field.name || name.strip_prefix(&field.name).is_some_and(|rest| rest.starts_with('.')));
    let Some(top) = top else {
        return Err(Error::new(ErrorCode::Internal, format!("table {}: no column has the id {id}", table.ident())));
    };
    let expr = Expr::Column(Column::from_name(&top.name));
    let path = name.strip_prefix(&top.name).unwrap_or_default().split('.').filter(|level| !level.is_empty());
    Ok(path.fold(expr, |parent, level| get_field(parent, level)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use datafusion::arrow::array::Int64Array;
    use datafusion::logical_expr::col;

    use super::*;

    fn key(descending: bool, nulls_first: bool) -> Key {
        Key { expr: col("k"), options: SortOptions { descending, nulls_first } }
    }

    #[test]
    fn every_task_has_a_tag_that_goes_there() {
        for partitions in [2_usize, 7, 64] {
            let tags = tags(partitions).unwrap();
            let column: ArrayRef = Arc::new(Int32Array::from(tags));
            let mut hashes = vec![0; partitions];
            create_hashes([&column], REPARTITION_RANDOM_STATE.random_state(), &mut hashes).unwrap();
            let tasks: Vec<u64> = hashes.iter().map(|hash| hash % partitions as u64).collect();
            assert_eq!(tasks, (0..partitions as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn splits_follow_the_order_and_repeat_no_value() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter((0..100).map(|i| if i < 60 { Some(5) } else { Some(i) })));
        let values = |splits: Vec<Vec<ScalarValue>>| -> Vec<ScalarValue> { splits.into_iter().map(|mut key| key.remove(0)).collect() };
        let long = |value: i64| ScalarValue::Int64(Some(value));
        let up = splits(&[Arc::clone(&column)], &[key(false, true)], 4).unwrap();
        assert_eq!(values(up), [long(5), long(75)]);
        let down = splits(&[column], &[key(true, false)], 4).unwrap();
        assert_eq!(values(down), [long(74), long(5)]);
    }
}
