//! Tables that only this process can read (table functions, metadata tables) inside a plan for the cluster: they are read here, and their
//! rows travel with the plan.

use std::sync::Arc;

use chainalytics_engine::memtable;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::{DefaultTableSource, MemTable, source_as_provider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, TableScan};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::Expr;
use futures::StreamExt as _;

/// Replaces every scan that cannot be shipped by its rows.
pub(crate) async fn local_tables(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    let mut found: Vec<Arc<dyn TableProvider>> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && !ships(&provider)
            && !found.iter().any(|p| Arc::ptr_eq(p, &provider))
        {
            found.push(provider);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if found.is_empty() {
        return Ok(plan);
    }
    let mut tables = Vec::with_capacity(found.len());
    for provider in found {
        let rows = Arc::new(read(provider.as_ref(), state).await?);
        tables.push((provider, rows));
    }
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) => replace(scan, &tables),
        other => Ok(Transformed::no(other)),
    })
    .map(|transformed| transformed.data)
}

fn replace(scan: TableScan, tables: &[(Arc<dyn TableProvider>, Arc<MemTable>)]) -> Result<Transformed<LogicalPlan>> {
    let provider = source_as_provider(&scan.source)?;
    let Some((_, rows)) = tables.iter().find(|(p, _)| Arc::ptr_eq(p, &provider)) else {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    };
    let source = Arc::new(DefaultTableSource::new(Arc::clone(rows) as Arc<dyn TableProvider>));
    let Some(predicate) = conjunction(scan.filters.clone()) else {
        return Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan })));
    };
    // The table itself would have applied its filters; rows in memory do not.
    let columns: Vec<Expr> = scan.projected_schema.columns().into_iter().map(Expr::Column).collect();
    let plan = LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.filter(predicate)?.project(columns)?.build()?;
    Ok(Transformed::yes(plan))
}

/// True if the logical codec can carry the table.
fn ships(provider: &Arc<dyn TableProvider>) -> bool {
    provider.downcast_ref::<ListingTable>().is_some()
        || provider.downcast_ref::<MemTable>().is_some()
        || chainalytics_lakehouse::codec::try_encode_table_provider(provider).is_some()
        // A view is a plan of its own, which the optimiser has put in its place.
        || provider.get_logical_plan().is_some()
}

async fn read(provider: &dyn TableProvider, state: &SessionState) -> Result<MemTable> {
    let schema = provider.schema();
    let plan: Arc<dyn ExecutionPlan> = provider.scan(state, None, &[], None).await?;
    let mut partitions = Vec::new();
    let mut bytes = 0_usize;
    let mut rows = execute_stream(plan, state.task_ctx())?;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        bytes = bytes.saturating_add(batch.get_array_memory_size());
        if bytes > memtable::MAX_BYTES {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "a table that only the driver can read has more than {} bytes; write it to a table first",
                memtable::MAX_BYTES
            )));
        }
        partitions.push(batch.with_schema(Arc::clone(&schema))?);
    }
    MemTable::try_new(schema, vec![partitions])
}
