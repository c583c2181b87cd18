//! Carries `k IN (SELECT k ... GROUP BY k HAVING ...)` down to the table that `k` comes from.
//!
//! DataFusion leaves the semi-join of such a subquery above all joins of the query. Its result is a handful of groups as a rule, so that every
//! join below works on rows that are then thrown away: on a cluster they are even shuffled. TPC-H's query 18 is the well-known case.
//!
//! Only groups that a HAVING has chosen from are carried down: of other subqueries nothing tells, without statistics, that they are small.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::{Join, Projection};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PushDownSemiJoin;

impl OptimizerRule for PushDownSemiJoin {
    fn name(&self) -> &str {
        "push_down_semi_join"
    }

    // From above, so that a join that was carried down one step is met again.
    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(semi) = plan else { return Ok(Transformed::no(plan)) };
        if semi.join_type != JoinType::LeftSemi || !is_having(&semi.right) {
            return Ok(Transformed::no(LogicalPlan::Join(semi)));
        }
        let needed = left_columns(&semi);
        Ok(match carried(semi.left.as_ref(), &semi, &needed) {
            Some(plan) => Transformed::yes(plan),
            None => Transformed::no(LogicalPlan::Join(semi)),
        })
    }
}

/// `plan` with `semi`'s right side joined one step further down; `None` if it cannot go there.
fn carried(plan: &LogicalPlan, semi: &Join, needed: &[Column]) -> Option<LogicalPlan> {
    match plan {
        LogicalPlan::Join(join) => {
            // A row of the side that an outer join fills up with nulls must stay.
            let (may_left, may_right) = match join.join_type {
                JoinType::Inner => (true, true),
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => (true, false),
                JoinType::Right => (false, true),
                _ => (false, false),
            };
            if may_left && has_all(join.left.schema(), needed) {
                let left = Arc::new(above(&join.left, semi));
                return Some(LogicalPlan::Join(Join { left, ..join.clone() }));
            }
            if may_right && has_all(join.right.schema(), needed) {
                let right = Arc::new(above(&join.right, semi));
                return Some(LogicalPlan::Join(Join { right, ..join.clone() }));
            }
            None
        }
        // Only joins are worth going through a projection for, and only one that keeps the names.
        LogicalPlan::Projection(projection) if projection.expr.iter().all(|e| matches!(e, Expr::Column(_))) => {
            if !matches!(projection.input.as_ref(), LogicalPlan::Join(_)) || !has_all(projection.input.schema(), needed) {
                return None;
            }
            let input = Arc::new(carried(&projection.input, semi, needed)?);
            Projection::try_new_with_schema(projection.expr.clone(), input, Arc::clone(&projection.schema)).ok().map(LogicalPlan::Projection)
        }
        _ => None,
    }
}

/// The semi-join with another left side, whose columns are then its own.
fn above(left: &Arc<LogicalPlan>, semi: &Join) -> LogicalPlan {
    LogicalPlan::Join(Join { left: Arc::clone(left), schema: Arc::clone(left.schema()), ..semi.clone() })
}

/// Columns of its left side that the join compares.
fn left_columns(semi: &Join) -> Vec<Column> {
    let keys = semi.on.iter().flat_map(|(left, _)| left.column_refs());
    let filter = semi.filter.iter().flat_map(Expr::column_refs).filter(|c| !semi.right.schema().has_column(c));
    keys.chain(filter).cloned().collect()
}

fn has_all(schema: &DFSchema, columns: &[Column]) -> bool {
    !columns.is_empty() && columns.iter().all(|c| schema.has_column(c))
}

/// Whether a plan is a filter over groups.
fn is_having(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => is_having(&alias.input),
        LogicalPlan::Projection(projection) => is_having(&projection.input),
        LogicalPlan::Filter(filter) => is_groups(&filter.input),
        _ => false,
    }
}

fn is_groups(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_groups(&projection.input),
        LogicalPlan::Aggregate(aggregate) => !aggregate.group_expr.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use datafusion::prelude::SessionContext;

    async fn context(with_rule: bool) -> SessionContext {
        let ctx = SessionContext::new();
        if with_rule {
            ctx.add_optimizer_rule(Arc::new(PushDownSemiJoin));
        }
        for sql in [
            "CREATE TABLE c AS VALUES (1, 'a'), (2, 'b'), (3, 'c')",
            "CREATE TABLE o AS VALUES (10, 1), (11, 1), (12, 2), (13, 3), (NULL, 3)",
            "CREATE TABLE l AS VALUES (10, 5), (10, 6), (11, 1), (12, 20), (14, 30), (NULL, 99)",
        ] {
            ctx.sql(sql).await.unwrap().collect().await.unwrap();
        }
        ctx
    }

    async fn check(sql: &str, moves: bool) {
        let mut seen = Vec::new();
        let mut plans = Vec::new();
        for with_rule in [false, true] {
            let ctx = context(with_rule).await;
            let frame = ctx.sql(sql).await.unwrap();
            plans.push(frame.clone().into_optimized_plan().unwrap().display_indent().to_string());
            let batches = frame.collect().await.unwrap();
            seen.push(datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string());
        }
        assert_eq!(seen[0], seen[1], "{sql}");
        assert_eq!(plans[0] != plans[1], moves, "{sql}\n{}\n{}", plans[0], plans[1]);
    }

    #[tokio::test]
    async fn chosen_groups_go_down_and_nothing_else_does() {
        let having = "(SELECT column1 FROM l GROUP BY column1 HAVING sum(column2) > 10)";
        let from = "SELECT c.column2, o.column1, l.column2 FROM c, o, l WHERE c.column1 = o.column2 AND o.column1 = l.column1";
        check(&format!("{from} AND o.column1 IN {having} ORDER BY 1, 2, 3"), true).await;
        // It stands at its table already.
        check(&format!("SELECT o.column1 FROM o WHERE o.column1 IN {having} ORDER BY 1"), false).await;
        // Not chosen from, and of all sides.
        check(&format!("{from} AND o.column1 IN (SELECT column1 FROM l GROUP BY column1) ORDER BY 1, 2, 3"), false).await;
        check(&format!("{from} AND o.column1 + c.column1 + l.column2 IN {having} ORDER BY 1, 2, 3"), false).await;
    }

    #[tokio::test]
    async fn rows_that_an_outer_join_keeps_are_kept() {
        let having = "(SELECT column1 FROM l GROUP BY column1 HAVING sum(column2) > 10)";
        let from = "SELECT o.column1, o.column2, l.column2 FROM o LEFT JOIN l ON o.column1 = l.column1";
        check(&format!("{from} WHERE o.column1 IN {having} ORDER BY 1, 2, 3"), true).await;
        let from = "SELECT c.column1, o.column1 FROM o FULL JOIN c ON o.column2 = c.column1";
        check(&format!("{from} WHERE o.column1 IN {having} OR o.column1 IS NULL ORDER BY 1, 2"), false).await;
    }
}
