//! Queries in this process. Hash joins keep a whole side in memory: a query that ran out of it before its first row is
//! planned anew, once, with joins that spill.

use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::scan::naming_damaged_files;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};

/// Runs a plan and returns its rows. Waits for the first batch of them: later ones are out of our hands then.
pub(crate) async fn execute(plan: &LogicalPlan, state: &SessionState) -> Result<SendableRecordBatchStream> {
    match started(plan, state).await {
        Err(error) if error.code() == ErrorCode::ResourcesExhausted && state.config_options().optimizer.prefer_hash_join => {
            tracing::warn!(%error, "running a query again with joins that spill");
            let mut spilling = state.clone();
            spilling.config_mut().options_mut().optimizer.prefer_hash_join = false;
            started(plan, &spilling).await
        }
        other => other,
    }
}

async fn started(plan: &LogicalPlan, state: &SessionState) -> Result<SendableRecordBatchStream> {
    let plan = state.create_physical_plan(plan).await.map_err(Error::from_datafusion)?;
    let context = state.task_ctx();
    let rows = execute_stream(Arc::clone(&plan), Arc::clone(&context)).map_err(Error::from_datafusion)?;
    let mut rows = naming_damaged_files(rows, plan, context);
    let schema = rows.schema();
    let first = match rows.next().await {
        Some(Err(error)) => return Err(Error::from_datafusion(error)),
        Some(Ok(batch)) => Some(Ok(batch)),
        None => None,
    };
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(first).chain(rows))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use datafusion::execution::memory_pool::FairSpillPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn a_join_that_does_not_fit_is_repeated_with_one_that_spills() {
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(40 << 20))).build_arc().unwrap();
        let mut config = SessionConfig::new().with_target_partitions(2).with_batch_size(1024);
        config.options_mut().optimizer.prefer_hash_join = true;
        config.options_mut().execution.sort_spill_reservation_bytes = 1 << 20;
        let ctx = SessionContext::new_with_config_rt(config, runtime);
        let rows = "SELECT value AS k, repeat('x', 100) || value AS v FROM generate_series(1, 600000) AS g(value)";
        let sql = format!("SELECT a.k, a.v, b.v AS w FROM ({rows}) AS a JOIN ({rows}) AS b ON a.k = b.k");
        let plan = ctx.state().create_logical_plan(&sql).await.unwrap();
        let plan = ctx.state().optimize(&plan).unwrap();
        let Err(once) = started(&plan, &ctx.state()).await else { panic!("the hash join fits after all") };
        assert_eq!(once.code(), ErrorCode::ResourcesExhausted);
        let rows: usize = execute(&plan, &ctx.state())
            .await
            .unwrap()
            .map_ok(|batch| batch.num_rows())
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await
            .unwrap();
        assert_eq!(rows, 600_000);
    }
}
