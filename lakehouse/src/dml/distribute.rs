//! Rows of one partition value to one task, so that a write of many partitions does not leave a small file per task
//! and partition.

use datafusion::common::Column;
use datafusion::functions::expr_fn::date_trunc;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Partitioning, lit};

use chainalytics_common::{Error, ErrorCode, Result};

use crate::table::Table;

/// Table property: `hash` shuffles rows by partition value before writing, `none` does not. Unset: appends do not
/// (streams and daily loads touch few partitions, and one value would put all work on one task), overwrites do.
pub const DISTRIBUTION_MODE: &str = "write.distribution-mode";

/// Adds the shuffle that the table asks for; the plan's columns are the table's.
pub fn distribute(plan: LogicalPlan, table: &Table, overwrites: bool, partitions: usize) -> Result<LogicalPlan> {
    let hash = match table.property(DISTRIBUTION_MODE) {
        Some("hash" | "range") => true,
        Some("none") => false,
        None => overwrites,
        Some(other) => {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("table {}: property {DISTRIBUTION_MODE} is '{other}', it must be hash or none", table.ident()),
            ));
        }
    };
    if !hash || partitions < 2 {
        return Ok(plan);
    }
    let keys: Vec<Expr> = table.partition_fields().iter().filter_map(|field| key(&field.source, &field.transform)).collect();
    if keys.is_empty() {
        return Ok(plan);
    }
    LogicalPlanBuilder::from(plan)
        .repartition(Partitioning::Hash(keys, partitions))
        .and_then(LogicalPlanBuilder::build)
        .map_err(Error::from_datafusion)
}

/// An expression equal for rows of one partition value. Buckets have none in SQL; other fields then decide alone.
fn key(source: &str, transform: &str) -> Option<Expr> {
    let column = Expr::Column(Column::from_name(source));
    match transform {
        "identity" => Some(column),
        "year" | "month" | "day" | "hour" => Some(date_trunc(lit(transform), column)),
        _ => None,
    }
}
