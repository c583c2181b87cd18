//! Whether a statement's subqueries or source read the table that it changes. Its outcome then depends on every row of
//! the table, not only on those of its condition.

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, LogicalPlan};

use chainalytics_common::{Error, Result};

use crate::scan::IcebergTableProvider;
use crate::table::Table;

/// Whether a subquery of an expression reads `table`.
pub(super) fn expr_reads(expr: &Expr, table: &Table) -> Result<bool> {
    let mut found = false;
    expr.apply(|node| {
        let subquery = match node {
            Expr::ScalarSubquery(subquery) => Some(subquery),
            Expr::InSubquery(in_subquery) => Some(&in_subquery.subquery),
            Expr::Exists(exists) => Some(&exists.subquery),
            Expr::SetComparison(comparison) => Some(&comparison.subquery),
            _ => None,
        };
        if let Some(subquery) = subquery {
            found |= scans(&subquery.subquery, table)?;
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(Error::from_datafusion)?;
    Ok(found)
}

/// Whether a plan reads `table`.
pub(super) fn plan_reads(plan: &LogicalPlan, table: &Table) -> Result<bool> {
    scans(plan, table).map_err(Error::from_datafusion)
}

fn scans(plan: &LogicalPlan, table: &Table) -> DfResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(provider) = (provider.as_ref() as &dyn TableProvider).downcast_ref::<IcebergTableProvider>()
        {
            found |= provider.ident() == table.ident();
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
