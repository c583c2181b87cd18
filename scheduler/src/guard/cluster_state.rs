//! Ballista's cluster state with the lease in front: who holds none is given no task, and every binding is written into the ledger.

use super::Guard;
use super::lease::LossCause;
use ballista_core::JobId;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::ExecutorHeartbeat;
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// [`InMemoryClusterState`] behind the [`Guard`].
pub struct GuardedClusterState {
    inner: Arc<dyn ClusterState>,
    guard: Guard,
}

impl GuardedClusterState {
    /// An empty cluster.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { inner: Arc::new(InMemoryClusterState::default()), guard }
    }
}

#[async_trait::async_trait]
impl ClusterState for GuardedClusterState {
    async fn init(&self) -> Result<()> {
        self.inner.init().await
    }

    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let alive = match executors {
            Some(executors) => executors,
            None => self.inner.executor_heartbeats().into_keys().collect(),
        };
        let (schedulable, jobs) = self.guard.ledger(|ledger| {
            let schedulable: HashSet<String> = alive.into_iter().filter(|id| ledger.leases().is_schedulable(id)).collect();
            let jobs: HashMap<JobId, JobInfoCache> = active_jobs
                .iter()
                .filter(|(job_id, _)| ledger.blocked(job_id.as_str()).is_none())
                .map(|(job_id, job)| (job_id.clone(), job.clone()))
                .collect();
            (schedulable, jobs)
        });
        if schedulable.is_empty() || jobs.is_empty() {
            return Ok(Vec::new());
        }
        let bound = self.inner.bind_schedulable_tasks(distribution, Arc::new(jobs), Some(schedulable)).await?;
        // An executor may have been lost while tasks were bound to it; then the ledger says so here, and the guard's next tick cancels
        // the job. The tasks themselves are left to the cancellation, which also gives their slots back.
        self.guard.ledger(|ledger| {
            for (executor_id, task) in &bound {
                let key = &task.key;
                if ledger.task_bound(key.job_id.as_str(), executor_id, key.stage_id, task.stage_attempt_num) {
                    tracing::warn!(job_id = %key.job_id, stage_id = key.stage_id, executor_id, "query became invalid when a task was bound");
                }
            }
        });
        Ok(bound)
    }

    async fn unbind_tasks(&self, executor_slots: Vec<ExecutorSlot>) -> Result<()> {
        self.inner.unbind_tasks(executor_slots).await
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, spec: ExecutorData) -> Result<()> {
        let executor_id = metadata.id.clone();
        self.guard
            .ledger(|ledger| ledger.executor_registered(&executor_id, Instant::now()))
            .map_err(|stale| BallistaError::Configuration(stale.to_string()))?;
        self.inner.register_executor(metadata, spec).await
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.guard
            .ledger(|ledger| ledger.executor_registered(&metadata.id, Instant::now()))
            .map_err(|stale| BallistaError::Configuration(stale.to_string()))?;
        self.inner.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        self.inner.get_executor_metadata(executor_id).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.inner.registered_executor_metadata().await
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        // A heartbeat on its way when its executor was lost must not bring it back.
        if self.inner.get_executor_metadata(&heartbeat.executor_id).await.is_err() {
            return Ok(());
        }
        self.inner.save_executor_heartbeat(heartbeat).await
    }

    /// Called by us for a lost lease, and by Ballista on its own account (heartbeat expired, launch failed, executor stopped). In the
    /// latter case Ballista posts `ExecutorLost` next: our cancellations must be in its queue before that.
    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        let cause = LossCause::RemovedByBallista;
        let cancelled = self.guard.mark_lost(executor_id, &cause);
        self.inner.remove_executor(executor_id).await?;
        if let Some(cancelled) = cancelled {
            self.guard.finish_loss(executor_id, cause, cancelled).await;
        }
        Ok(())
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.inner.executor_heartbeats()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.inner.get_executor_heartbeat(executor_id)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.inner.cluster_state_events().await
    }
}
