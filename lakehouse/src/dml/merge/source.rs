//! What a MERGE knows of its source before it joins: the range of its keys, and rows that must not change between runs.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, col, lit};
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

use super::{Merge, built};
use crate::dml::Write;
use crate::dml::target::judge;
use crate::table::Table;

/// Bytes of a source with random values, which must be held to be the same each time.
const HELD_SOURCE_BYTES: usize = 32 << 20;

/// From the equalities of ON: bounds of the target's keys, so that files without a match are not read. Nothing for a
/// table of one file.
pub(super) async fn key_range(write: &Write<'_>, table: &Table, merge: &Merge) -> Result<Vec<Expr>> {
    if merge.matched.is_empty() && merge.inserted.is_empty() {
        return Ok(Vec::new());
    }
    let judged = judge(write, table, &lit(true)).await?;
    if judged.files().count() < 2 {
        return Ok(Vec::new());
    }
    // Only where both sides compare as they are: a cast could reorder.
    let keys: Vec<(Expr, Expr)> = keys(table, merge)?.into_iter().filter(|key| key.same_type).map(|key| (key.column, key.value)).collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let bounds = keys
        .iter()
        .enumerate()
        .flat_map(|(i, (_, value))| [min(value.clone()).alias(format!("low{i}")), max(value.clone()).alias(format!("high{i}"))]);
    let plan = built(merge.source_rows()?.aggregate(Vec::<Expr>::new(), bounds.collect::<Vec<_>>()))?;
    let mut stream = write.executor.execute_logical(plan).await?;
    let mut range = Vec::new();
    while let Some(batch) = stream.try_next().await.map_err(Error::from_datafusion)? {
        if batch.num_rows() == 0 {
            continue;
        }
        for (i, (key, _)) in keys.iter().enumerate() {
            let value = |at: usize| ScalarValue::try_from_array(batch.column(at), 0).map_err(Error::from_datafusion);
            range.push(key.clone().gt_eq(lit(value(2 * i)?)).and(key.clone().lt_eq(lit(value(2 * i + 1)?))));
        }
    }
    Ok(range)
}

/// Whether no target row can be matched twice, because no two rows of the source have the same keys.
pub(super) async fn has_unique_keys(write: &Write<'_>, table: &Table, merge: &Merge) -> Result<bool> {
    let keys = keys(table, merge)?;
    let values: Vec<Expr> = keys.iter().enumerate().map(|(i, key)| key.value.clone().alias(format!("key{i}"))).collect();
    // A row without a key matches nothing.
    let Some(known) = keys.into_iter().map(|key| key.value.is_not_null()).reduce(Expr::and) else { return Ok(false) };
    let names: Vec<Expr> = (0..values.len()).map(|i| col(format!("key{i}"))).collect();
    let plan = merge.source_rows()?.filter(known).and_then(|rows| {
        rows.project(values)?.aggregate(names, vec![count(lit(1_i64)).alias("n")])?.filter(col("n").gt(lit(1_i64)))?.limit(0, Some(1))
    });
    let mut stream = write.executor.execute_logical(built(plan)?).await?;
    let mut repeated = false;
    while let Some(batch) = stream.try_next().await.map_err(Error::from_datafusion)? {
        repeated |= batch.num_rows() > 0;
    }
    Ok(!repeated)
}

/// An equality of ON between a column of the target and a value of the source, of one type or both whole numbers: equal
/// values of the source are those that equal the same value of the target.
struct Key {
    column: Expr,
    value: Expr,
    same_type: bool,
}

fn keys(table: &Table, merge: &Merge) -> Result<Vec<Key>> {
    let of = |e: &Expr, alias: &TableReference| e.column_refs().iter().all(|c| c.relation.as_ref() == Some(alias));
    let source = merge.source_rows()?;
    let mut keys = Vec::new();
    for term in split_conjunction(&merge.on) {
        let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = term else { continue };
        for (key, value) in [(left, right), (right, left)] {
            let (Expr::Column(column), false) = (key.as_ref(), value.column_refs().is_empty()) else { continue };
            if column.relation.as_ref() != Some(&merge.target) || !of(value, &merge.source) {
                continue;
            }
            let from = value.get_type(source.schema()).map_err(Error::from_datafusion)?;
            let Ok(field) = table.schema().field_with_name(&column.name) else { continue };
            let same_type = field.data_type() == &from && !from.is_floating() && !from.is_nested();
            if same_type || (field.data_type().is_signed_integer() && from.is_signed_integer()) {
                keys.push(Key { column: key.as_ref().clone(), value: value.as_ref().clone(), same_type });
            }
        }
    }
    Ok(keys)
}

/// Whether running a plan again may give other rows.
pub(super) fn is_volatile(plan: &LogicalPlan) -> Result<bool> {
    let mut volatile = false;
    plan.apply_with_subqueries(|node| {
        volatile |= node.expressions().iter().any(Expr::is_volatile);
        Ok(if volatile { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(Error::from_datafusion)?;
    Ok(volatile)
}

/// Runs a source once and keeps its rows.
pub(super) async fn hold(write: &Write<'_>, plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut stream = write.executor.execute_logical(plan).await?;
    let schema = stream.schema();
    let mut batches = Vec::new();
    let mut bytes = 0;
    while let Some(batch) = stream.try_next().await.map_err(Error::from_datafusion)? {
        bytes += batch.get_array_memory_size();
        if bytes > HELD_SOURCE_BYTES {
            return Err(Error::new(
                ErrorCode::SqlUnsupported,
                format!("the source of MERGE has random values and is larger than {} MiB; write it to a table first", HELD_SOURCE_BYTES >> 20),
            ));
        }
        batches.push(batch);
    }
    let table = MemTable::try_new(schema, vec![batches]).map_err(Error::from_datafusion)?;
    built(LogicalPlanBuilder::scan("held", provider_as_source(Arc::new(table)), None))
}
