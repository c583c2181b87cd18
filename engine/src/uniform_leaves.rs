//! Leaves that stay what they are in every task of a stage.
//!
//! Ballista cuts a stage's plan down to the partitions of each task. Below a UNION a task may get none of a leaf's partitions; an `EmptyExec` or
//! `PlaceholderRowExec` is then replaced by an empty memory scan, which reports metrics where the others report none. The scheduler matches the
//! metrics of a stage's tasks by position, refuses the report of the task that differs, and loses its output with it: the query returns without
//! those rows, or never. Memory scans from the start are the same in every task.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// Replaces `EmptyExec` and `PlaceholderRowExec` of a plan with a UNION by memory scans of the same rows and partitions.
pub(crate) fn uniform_leaves(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let mut has_union = false;
    plan.apply(|node| {
        has_union |= node.is::<UnionExec>();
        Ok(if has_union { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if !has_union {
        return Ok(plan);
    }
    plan.transform_up(|node| {
        let rows = if node.is::<EmptyExec>() {
            vec![]
        } else if node.is::<PlaceholderRowExec>() {
            let schema = node.schema();
            let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(1));
            vec![RecordBatch::try_new_with_options(schema, columns, &options)?]
        } else {
            return Ok(Transformed::no(node));
        };
        let partitions = vec![rows; node.output_partitioning().partition_count()];
        Ok(Transformed::yes(MemorySourceConfig::try_new_exec(&partitions, node.schema(), None)?))
    })
    .map(|done| done.data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn a_union_of_literals_and_nothing_has_memory_leaves_and_the_same_rows() {
        let ctx = SessionContext::new();
        let df = ctx.sql("SELECT 1 AS a UNION ALL SELECT 2 UNION ALL SELECT column1 FROM (VALUES (3)) WHERE false").await.unwrap();
        let plan = uniform_leaves(df.create_physical_plan().await.unwrap()).unwrap();
        plan.apply(|node| {
            assert!(!node.is::<EmptyExec>() && !node.is::<PlaceholderRowExec>(), "{}", node.name());
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let batches = datafusion::physical_plan::collect(plan, ctx.task_ctx()).await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    }
}
