//! The guard: notices a lost executor within seconds, and sees to it that no query which that executor worked on can succeed.
//!
//! ```text
//! lease stream (executors/service) ─┐
//! Ballista's own removal ───────────┼─> Guard::lose ─> ledger: jobs that touched it are invalid
//! tick: leases that ran out ────────┘                 ├─> Ballista forgets the executor (no new tasks, its id is refused)
//!                                                     └─> those jobs are cancelled, before any partial recovery
//! ```
//!
//! It hooks into Ballista through its two state traits: [`cluster_state`] sees every task that is bound to an executor (and can refuse),
//! [`job_state`] sees every job that ends, before any client does. `ExecutorLost` is deliberately never posted by us: it is what starts
//! Ballista's partial recovery.

pub mod cluster_state;
pub mod job_state;
pub mod lease;
pub mod ledger;
pub mod task_reports;

use self::lease::{LeaseTable, LossCause, Stale};
use self::ledger::{JobFacts, Ledger, Outcome, Verdict};
use crate::ballista::Ballista;
use ballista_core::JobId;
use ballista_core::serde::protobuf::{job_status, task_status};
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use chainalytics_common::{Error, ErrorCode};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// How often leases are checked and running graphs are looked over.
const TICK: Duration = Duration::from_millis(250);
/// Between two cancellations of the same query, should the first not have worked.
const CANCEL_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// Losses kept for a slow listener.
const LOSSES_BUFFERED: usize = 256;
/// Ended queries kept for a slow listener.
const ENDS_BUFFERED: usize = 4_096;

/// An executor was lost.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Its id.
    pub executor_id: String,
    /// Why.
    pub cause: LossCause,
    /// Queries cancelled because of it.
    pub cancelled: Vec<String>,
}

/// Shared handle; cheap to clone.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    executor_wait_timeout: Duration,
    ledger: Mutex<Ledger>,
    /// Set once, after Ballista's server was built around our states.
    ballista: OnceLock<Ballista>,
    losses: broadcast::Sender<Loss>,
    /// Queries that ended, and those registered with a run after their end.
    ended: broadcast::Sender<String>,
    executors_lost_total: std::sync::atomic::AtomicU64,
    /// When each open job was last cancelled, so that a busy event loop is not flooded with repeats.
    cancelled_at: Mutex<HashMap<String, Instant>>,
}

impl Guard {
    /// `lease_ttl`: how long an executor may be silent. `executor_wait_timeout`: how long queries wait while there is none at all; zero is for
    /// ever.
    #[must_use]
    pub fn new(lease_ttl: Duration, executor_wait_timeout: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                executor_wait_timeout,
                ledger: Mutex::new(Ledger::new(LeaseTable::new(lease_ttl))),
                ballista: OnceLock::new(),
                losses: broadcast::channel(LOSSES_BUFFERED).0,
                ended: broadcast::channel(ENDS_BUFFERED).0,
                executors_lost_total: std::sync::atomic::AtomicU64::new(0),
                cancelled_at: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// Hands over the server whose jobs are guarded. Only the first call counts.
    pub fn attach(&self, ballista: Ballista) {
        let _ = self.inner.ballista.set(ballista);
    }

    /// Runs `f` on the ledger.
    pub fn ledger<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        f(&mut self.inner.ledger.lock())
    }

    /// Executors lost from now on.
    #[must_use]
    pub fn losses(&self) -> broadcast::Receiver<Loss> {
        self.inner.losses.subscribe()
    }

    /// Ids of queries that end from now on. One may come twice.
    #[must_use]
    pub fn ended_queries(&self) -> broadcast::Receiver<String> {
        self.inner.ended.subscribe()
    }

    /// A query is known to belong to a run; if it has ended already, its end is told again.
    pub fn query_registered(&self, job_id: &str) {
        if self.ledger(|ledger| ledger.has_ended(job_id)) {
            self.tell_end(job_id);
        }
    }

    fn tell_end(&self, job_id: &str) {
        // No listener is no error.
        let _ = self.inner.ended.send(job_id.to_owned());
    }

    /// Executors lost since the start, those that left in order excepted.
    #[must_use]
    pub fn executors_lost_total(&self) -> u64 {
        self.inner.executors_lost_total.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A lease stream opened. If the id is live already, its earlier holder is lost by that, and the newcomer is stale as well.
    pub async fn open_lease(&self, executor_id: &str, draining: bool) -> Result<(), Stale> {
        let opened = self.ledger(|ledger| ledger.lease_opened(executor_id, draining, Instant::now()));
        if let Err(stale) = &opened
            && stale.cause == LossCause::StreamReplaced
        {
            self.lose(executor_id, LossCause::StreamReplaced).await;
        }
        opened
    }

    /// A ping arrived; one that came too late makes the executor lost.
    pub async fn ping(&self, executor_id: &str, draining: bool) -> Result<(), Stale> {
        let pinged = self.ledger(|ledger| ledger.lease_pinged(executor_id, draining, Instant::now()));
        if let Err(stale) = &pinged {
            self.lose(executor_id, stale.cause.clone()).await;
        }
        pinged
    }

    /// Declares an executor lost: marks, tells Ballista, cancels. Idempotent.
    pub async fn lose(&self, executor_id: &str, cause: LossCause) {
        let Some(cancelled) = self.mark_lost(executor_id, &cause) else { return };
        if let Some(ballista) = self.inner.ballista.get() {
            // First Ballista forgets the executor, so that cancelling does not wait for a dead or frozen process.
            let reason = Some(format!("lease lost: {cause}"));
            if let Err(error) = ballista.state.executor_manager.remove_executor(executor_id, reason).await {
                tracing::warn!(executor_id, %error, "could not remove a lost executor");
            }
        }
        self.finish_loss(executor_id, cause, cancelled).await;
    }

    /// Asks for the end of a query. True when it was running or queued.
    pub async fn cancel_query(&self, job_id: &str, reason: &str) -> bool {
        let open = self.ledger(|ledger| ledger.request_cancel(job_id, reason));
        if open {
            tracing::info!(job_id, reason, "query cancelled");
            self.cancel_in_ballista(job_id).await;
        }
        open
    }

    /// May the result of this query count?
    #[must_use]
    pub fn validate(&self, job_id: &str) -> Verdict {
        self.ledger(|ledger| ledger.validate(job_id))
    }

    /// Watches leases and running graphs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = Instant::now();
        let mut excused = false;
        let mut executor_seen = before;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let now = Instant::now();
            // If this very process stood still (suspended, starved), the silence was ours: let the pings that wait in the sockets be read
            // before anyone is judged.
            let stalled = now.duration_since(before) > TICK * 4;
            before = now;
            if stalled && !excused {
                tracing::warn!("the scheduler itself stood still; leases are judged at the next tick");
                excused = true;
                continue;
            }
            excused = false;
            for (executor_id, cause) in self.ledger(|ledger| ledger.leases().overdue(now)) {
                self.lose(&executor_id, cause).await;
            }
            if self.ledger(|ledger| ledger.leases().held()) > 0 {
                executor_seen = now;
            } else {
                self.fail_waiting_queries(now.duration_since(executor_seen)).await;
            }
            self.look_over_running_graphs();
            let to_cancel = self.ledger(|ledger| ledger.open_but_invalid());
            self.inner.cancelled_at.lock().retain(|job_id, _| to_cancel.contains(job_id));
            for job_id in to_cancel {
                self.cancel_again(&job_id).await;
            }
        }
    }

    /// Ends the queries that wait for executors, of which there has been none for `absent`. Each waits for the whole time-out of its own.
    async fn fail_waiting_queries(&self, absent: Duration) {
        let timeout = self.inner.executor_wait_timeout;
        if timeout.is_zero() || absent < timeout {
            return;
        }
        let error = Error::new(ErrorCode::ClusterNotReady, format!("there has been no executor for {timeout:?} (scheduler.executor-wait-timeout)"));
        let waiting = self.ledger(|ledger| ledger.open_longer_than(timeout));
        for job_id in waiting {
            self.cancel_query(&job_id, &error.to_string()).await;
        }
    }

    /// The synchronous half of a loss. `None` when it was lost before.
    fn mark_lost(&self, executor_id: &str, cause: &LossCause) -> Option<Vec<String>> {
        self.ledger(|ledger| ledger.executor_lost(executor_id, cause.clone()))
    }

    async fn finish_loss(&self, executor_id: &str, cause: LossCause, cancelled: Vec<String>) {
        if cause == LossCause::Left {
            tracing::info!(executor_id, queries = cancelled.len(), "executor left");
        } else {
            self.inner.executors_lost_total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::warn!(executor_id, %cause, queries = ?cancelled, "executor lost; the queries that it worked on are cancelled");
        }
        for job_id in &cancelled {
            self.cancel_in_ballista(job_id).await;
        }
        let loss = Loss { executor_id: executor_id.to_owned(), cause, cancelled };
        // No listener is no error.
        let _ = self.inner.losses.send(loss);
    }

    async fn cancel_in_ballista(&self, job_id: &str) {
        let Some(ballista) = self.inner.ballista.get() else { return };
        self.inner.cancelled_at.lock().insert(job_id.to_owned(), Instant::now());
        if let Err(error) = ballista.cancel_job(JobId::from(job_id)).await {
            tracing::warn!(job_id, %error, "could not post the cancellation; it is tried again");
        }
    }

    /// A job that should have ended: cancel it again if Ballista still runs it, or note its end if Ballista has forgotten it.
    async fn cancel_again(&self, job_id: &str) {
        let Some(ballista) = self.inner.ballista.get() else { return };
        let recently = self.inner.cancelled_at.lock().get(job_id).is_some_and(|at| at.elapsed() < CANCEL_AGAIN_AFTER);
        if recently {
            return;
        }
        let id = JobId::from(job_id);
        match ballista.state.task_manager.get_job_status(&id).await {
            Ok(Some(status)) => match status.status {
                // Being planned: refused as soon as planning ends (job_state).
                Some(job_status::Status::Queued(_)) => {}
                Some(job_status::Status::Running(_)) => self.cancel_in_ballista(job_id).await,
                Some(job_status::Status::Successful(_) | job_status::Status::Failed(_)) | None => self.note_ended(job_id),
            },
            Ok(None) => self.note_ended(job_id),
            Err(error) => tracing::warn!(job_id, %error, "could not read the job's status"),
        }
    }

    fn note_ended(&self, job_id: &str) {
        let facts = JobFacts { outcome: Outcome::Failed, retried_stage: None, executors: BTreeSet::new() };
        self.ledger(|ledger| ledger.job_observed(job_id, facts));
        self.tell_end(job_id);
    }

    /// Finds stages that were started again without a task having been bound since (a query that would hang).
    fn look_over_running_graphs(&self) {
        let Some(ballista) = self.inner.ballista.get() else { return };
        for (job_id, job) in ballista.state.task_manager.get_running_job_cache().iter() {
            // A graph in use is looked at next time.
            let Ok(graph) = job.execution_graph.try_read() else { continue };
            if let Some(stage_id) = retried_stage(graph.as_ref()) {
                let facts = JobFacts { outcome: Outcome::Open, retried_stage: Some(stage_id), executors: BTreeSet::new() };
                if self.ledger(|ledger| ledger.job_observed(job_id.as_str(), facts)) {
                    tracing::warn!(%job_id, stage_id, "stage started again; the query is cancelled");
                }
            }
        }
    }
}

fn retried_stage(graph: &(dyn ExecutionGraph + Send + Sync)) -> Option<usize> {
    graph.stages().iter().filter(|(_, stage)| stage_attempt(stage) > 0).map(|(stage_id, _)| *stage_id).min()
}

fn stage_attempt(stage: &ExecutionStage) -> usize {
    match stage {
        ExecutionStage::UnResolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Resolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Running(stage) => stage.stage_attempt_num,
        ExecutionStage::Successful(stage) => stage.stage_attempt_num,
        ExecutionStage::Failed(stage) => stage.stage_attempt_num,
    }
}

/// What a graph tells about its job.
fn facts(graph: &(dyn ExecutionGraph + Send + Sync)) -> JobFacts {
    let executors = graph
        .stages()
        .values()
        .filter_map(ExecutionStage::task_infos)
        .flatten()
        .filter_map(|task| match &task.task_status {
            task_status::Status::Running(running) => Some(running.executor_id.clone()),
            task_status::Status::Successful(done) => Some(done.executor_id.clone()),
            task_status::Status::Failed(_) => None,
        })
        .filter(|id| !id.is_empty())
        .collect();
    let outcome = match &graph.status().status {
        Some(job_status::Status::Successful(_)) => Outcome::Successful,
        Some(job_status::Status::Failed(_)) => Outcome::Failed,
        _ => Outcome::Open,
    };
    JobFacts { outcome, retried_stage: retried_stage(graph), executors }
}

#[cfg(test)]
mod tests;
