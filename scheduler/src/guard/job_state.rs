//! Ballista's job state with the ledger in front: a job that must not count is saved as failed, whatever its graph says, so that no client
//! of any kind (ours, a plain Ballista client, Flight SQL) ever sees it succeed.

use super::ledger::{JobFacts, Outcome};
use super::{Guard, facts};
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::JobStatus;
use ballista_core::{JobId, JobStatusSubscriber};
use ballista_scheduler::cluster::memory::InMemoryJobState;
use ballista_scheduler::cluster::{JobState, JobStateEventStream};
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// [`InMemoryJobState`] behind the [`Guard`].
pub struct GuardedJobState {
    inner: Arc<dyn JobState>,
    guard: Guard,
}

impl GuardedJobState {
    /// Guards `inner`.
    #[must_use]
    pub fn new(inner: InMemoryJobState, guard: Guard) -> Self {
        Self { inner: Arc::new(inner), guard }
    }
}

#[async_trait::async_trait]
impl JobState for GuardedJobState {
    fn accept_job(&self, job_id: &JobId, job_name: &str, queued_at: u64) -> Result<()> {
        self.guard.ledger(|ledger| ledger.job_opened(job_id.as_str()));
        self.inner.accept_job(job_id, job_name, queued_at)
    }

    fn pending_job_number(&self) -> usize {
        self.inner.pending_job_number()
    }

    async fn submit_job(&self, job_id: JobId, graph: &ExecutionGraphBox, subscriber: Option<JobStatusSubscriber>) -> Result<()> {
        // Cancelled while it was planned: Ballista knows no way to cancel then, so it is refused here.
        let refused = self.guard.ledger(|ledger| ledger.blocked(job_id.as_str()).cloned());
        if let Some(why) = refused {
            return Err(BallistaError::General(why.to_string()));
        }
        self.inner.submit_job(job_id, graph, subscriber).await
    }

    async fn get_jobs(&self) -> Result<HashSet<JobId>> {
        self.inner.get_jobs().await
    }

    async fn get_all_jobs(&self) -> Result<HashSet<JobId>> {
        self.inner.get_all_jobs().await
    }

    async fn get_job_status(&self, job_id: &JobId) -> Result<Option<JobStatus>> {
        self.inner.get_job_status(job_id).await
    }

    async fn get_execution_graph(&self, job_id: &JobId) -> Result<Option<ExecutionGraphBox>> {
        self.inner.get_execution_graph(job_id).await
    }

    async fn save_job(&self, job_id: &JobId, graph: &ExecutionGraphBox) -> Result<()> {
        let facts = facts(graph.as_ref());
        let outcome = facts.outcome;
        // The ledger learns of it before any client can: a client that sees the end finds the verdict ready.
        let invalid = self.guard.ledger(|ledger| {
            ledger.job_observed(job_id.as_str(), facts);
            ledger.blocked(job_id.as_str()).cloned()
        });
        let saved = match invalid {
            Some(why) if outcome == Outcome::Successful => {
                let mut failed = graph.cloned();
                failed.fail_job(format!("result discarded: {why}"));
                self.inner.save_job(job_id, &failed).await
            }
            _ => self.inner.save_job(job_id, graph).await,
        };
        if outcome != Outcome::Open {
            self.guard.tell_end(job_id.as_str());
        }
        saved
    }

    async fn fail_unscheduled_job(&self, job_id: &JobId, reason: String) -> Result<()> {
        let facts = JobFacts { outcome: Outcome::Failed, retried_stage: None, executors: BTreeSet::new() };
        self.guard.ledger(|ledger| ledger.job_observed(job_id.as_str(), facts));
        let failed = self.inner.fail_unscheduled_job(job_id, reason).await;
        self.guard.tell_end(job_id.as_str());
        failed
    }

    async fn remove_job(&self, job_id: &JobId) -> Result<()> {
        self.inner.remove_job(job_id).await
    }

    async fn try_acquire_job(&self, job_id: &JobId) -> Result<Option<ExecutionGraphBox>> {
        self.inner.try_acquire_job(job_id).await
    }

    async fn job_state_events(&self) -> Result<JobStateEventStream> {
        self.inner.job_state_events().await
    }

    async fn create_or_update_session(&self, session_id: &str, config: &SessionConfig) -> Result<Arc<SessionContext>> {
        self.inner.create_or_update_session(session_id, config).await
    }

    async fn remove_session(&self, session_id: &str) -> Result<()> {
        self.inner.remove_session(session_id).await
    }

    fn produce_config(&self) -> SessionConfig {
        self.inner.produce_config()
    }
}
