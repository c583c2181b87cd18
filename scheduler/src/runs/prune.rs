//! Forgetting: what the scheduler remembers of runs is bounded. The event logs keep the rest for the history server.

use super::manager::{QUERIES_PER_RUN_MAX, Result, Runs};
use super::store::{RunStore, StoreError};
use sqlx::Row as _;

impl Runs {
    /// Forgets the oldest ended runs beyond the configured number, and of every other run all but its latest queries: a stream registers some
    /// with every micro-batch.
    pub(super) async fn prune(&self) -> Result<()> {
        let store = &self.inner.store;
        let queries = store.prune_queries(QUERIES_PER_RUN_MAX).await?;
        let forgotten = store.prune_runs(self.inner.options.runs_kept).await?;
        for run_id in &forgotten {
            self.inner.logs.remove(run_id).await?;
        }
        if queries > 0 || !forgotten.is_empty() {
            tracing::info!(runs = forgotten.len(), queries, "old runs and queries are forgotten");
        }
        Ok(())
    }
}

impl RunStore {
    /// Forgets ended runs, with their queries, until at most `kept` of them are left; the ids of those that went, oldest first.
    pub async fn prune_runs(&self, kept: u32) -> std::result::Result<Vec<String>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query(
            "SELECT run_id FROM runs WHERE state IN ('finished', 'failed', 'killed', 'lost') \
             ORDER BY submitted_at_ms DESC, run_id LIMIT -1 OFFSET ?",
        )
        .bind(i64::from(kept))
        .fetch_all(&mut *transaction)
        .await?;
        let mut run_ids: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>()?;
        run_ids.reverse();
        for run_id in &run_ids {
            sqlx::query("DELETE FROM run_queries WHERE run_id = ?").bind(run_id).execute(&mut *transaction).await?;
            sqlx::query("DELETE FROM runs WHERE run_id = ?").bind(run_id).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(run_ids)
    }

    /// Forgets all but the latest `kept` queries of every run; how many went.
    pub async fn prune_queries(&self, kept: u32) -> std::result::Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM run_queries WHERE job_id IN (SELECT job_id FROM (SELECT job_id, \
             ROW_NUMBER() OVER (PARTITION BY run_id ORDER BY registered_at_ms DESC, job_id DESC) AS place FROM run_queries) WHERE place > ?)",
        )
        .bind(i64::from(kept))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::runs::model::{DeployMode, Run, RunQuery, RunState};
    use crate::runs::states::test_run;

    #[tokio::test]
    async fn the_oldest_ended_runs_and_queries_go() {
        let dir = std::env::temp_dir().join(format!("chainalytics-prune-{}", uuid::Uuid::new_v4()));
        let store = RunStore::open(&dir.join("runs.db")).await.unwrap();
        let states = [RunState::Running, RunState::Finished, RunState::Lost, RunState::Failed, RunState::Killed];
        for (at, state) in (0..).zip(states) {
            let run_id = format!("r{at}");
            store.insert(&Run { run_id: run_id.clone(), state, submitted_at_ms: at, ..test_run(DeployMode::Cluster, true) }).await.unwrap();
            for n in 0..3 {
                let query = RunQuery {
                    job_id: format!("{run_id}-j{n}"),
                    run_id: run_id.clone(),
                    attempt: 1,
                    label: String::new(),
                    statement: String::new(),
                    registered_at_ms: n,
                };
                store.insert_query(&query).await.unwrap();
            }
        }
        assert_eq!(store.prune_queries(2).await.unwrap(), 5, "the first query of each run");
        assert!(store.query("r0-j0").await.unwrap().is_none() && store.query("r0-j1").await.unwrap().is_some());
        assert_eq!(store.prune_runs(2).await.unwrap(), ["r1", "r2"], "the oldest of those that have ended");
        assert!(store.get("r0").await.unwrap().is_some(), "one that runs is never forgotten");
        assert!(store.query("r1-j1").await.unwrap().is_none(), "its queries go with a run");
        assert!(store.prune_runs(2).await.unwrap().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
