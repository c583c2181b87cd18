//! Which executors worked for which query, and whether a query's result may still count: the pure core of architecture rule 1.
//!
//! Ballista's partial recovery after a lost executor can read partitions twice, so a result is valid only if nothing was recovered: the
//! job succeeded, no stage has an attempt above 0, and every executor that was ever given one of its tasks still holds its lease.

use super::lease::{LeaseTable, LossCause, Stale};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Ended jobs remembered for [`Ledger::validate`]; older ones are answered with [`Verdict::Unknown`].
const ENDED_JOBS_MAX: usize = 20_000;

/// Why a job's result can no longer count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidity {
    /// These executors were given tasks of the job and were lost.
    ExecutorLost(BTreeSet<String>),
    /// A stage was started again.
    StageRetried {
        /// Which.
        stage_id: usize,
    },
    /// Somebody asked for its end.
    Cancelled(String),
}

impl std::fmt::Display for Invalidity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExecutorLost(ids) => {
                write!(f, "executor lost: {}", ids.iter().cloned().collect::<Vec<_>>().join(", "))
            }
            Self::StageRetried { stage_id } => write!(f, "stage {stage_id} was started again"),
            Self::Cancelled(reason) => write!(f, "cancelled: {reason}"),
        }
    }
}

/// How a job stands, as far as the ledger was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Queued or running.
    Open,
    /// Ended well, by Ballista's account.
    Successful,
    /// Ended otherwise.
    Failed,
}

/// What a job's graph shows at one moment.
#[derive(Debug, Clone)]
pub struct JobFacts {
    /// Its state.
    pub outcome: Outcome,
    /// A stage whose attempt number is above 0.
    pub retried_stage: Option<usize>,
    /// Executors named by its tasks.
    pub executors: BTreeSet<String>,
}

/// May the result count?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Valid,
    /// No.
    Invalid(Invalidity),
    /// It has not succeeded.
    NotSuccessful,
    /// Never heard of it, or forgotten.
    Unknown,
}

#[derive(Debug)]
struct JobRecord {
    opened_at: Instant,
    outcome: Outcome,
    executors: BTreeSet<String>,
    invalid: Option<Invalidity>,
}

/// Leases and jobs under one lock, so that "is it lost?" and "who worked there?" are answered from the same moment.
#[derive(Debug)]
pub struct Ledger {
    leases: LeaseTable,
    jobs: HashMap<String, JobRecord>,
    ended_order: VecDeque<String>,
    invalidated_total: u64,
}

impl Ledger {
    /// Starts with no executors and no jobs.
    #[must_use]
    pub fn new(leases: LeaseTable) -> Self {
        Self { leases, jobs: HashMap::new(), ended_order: VecDeque::new(), invalidated_total: 0 }
    }

    /// The leases.
    #[must_use]
    pub fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    /// See [`LeaseTable::registered`].
    pub fn executor_registered(&mut self, executor_id: &str, now: Instant) -> Result<(), Stale> {
        self.leases.registered(executor_id, now)
    }

    /// See [`LeaseTable::open`].
    pub fn lease_opened(&mut self, executor_id: &str, draining: bool, now: Instant) -> Result<(), Stale> {
        self.leases.open(executor_id, draining, now)
    }

    /// See [`LeaseTable::ping`].
    pub fn lease_pinged(&mut self, executor_id: &str, draining: bool, now: Instant) -> Result<(), Stale> {
        self.leases.ping(executor_id, draining, now)
    }

    /// See [`LeaseTable::drain`].
    pub fn drain(&mut self, executor_id: &str) -> bool {
        self.leases.drain(executor_id)
    }

    /// A job was queued.
    pub fn job_opened(&mut self, job_id: &str) {
        self.job(job_id);
    }

    /// A task was given to an executor. True when this very fact makes the job invalid (the executor was lost meanwhile, or the stage is
    /// started again): the caller cancels the job.
    pub fn task_bound(&mut self, job_id: &str, executor_id: &str, stage_id: usize, stage_attempt: usize) -> bool {
        let held = self.leases.is_held(executor_id);
        let job = self.job(job_id);
        job.executors.insert(executor_id.to_owned());
        if !held {
            self.invalidate(job_id, Invalidity::ExecutorLost(BTreeSet::from([executor_id.to_owned()])))
        } else if stage_attempt > 0 {
            self.invalidate(job_id, Invalidity::StageRetried { stage_id })
        } else {
            false
        }
    }

    /// The job's graph was looked at or saved. True when it became invalid by that.
    pub fn job_observed(&mut self, job_id: &str, facts: JobFacts) -> bool {
        let lost: BTreeSet<String> = facts.executors.iter().filter(|id| !self.leases.is_held(id)).cloned().collect();
        let job = self.job(job_id);
        job.executors.extend(facts.executors);
        let was_open = job.outcome == Outcome::Open;
        if facts.outcome != Outcome::Open {
            job.outcome = facts.outcome;
        }
        let ended_now = was_open && facts.outcome != Outcome::Open;
        let mut newly_invalid = false;
        if let Some(stage_id) = facts.retried_stage {
            newly_invalid |= self.invalidate(job_id, Invalidity::StageRetried { stage_id });
        }
        if !lost.is_empty() {
            newly_invalid |= self.invalidate(job_id, Invalidity::ExecutorLost(lost));
        }
        if ended_now {
            self.remember_ended(job_id);
        }
        newly_invalid
    }

    /// Declares an executor lost and answers the open jobs that it makes invalid, to be cancelled. `None` when it was lost before.
    pub fn executor_lost(&mut self, executor_id: &str, cause: LossCause) -> Option<Vec<String>> {
        if !self.leases.lose(executor_id, cause) {
            return None;
        }
        let touched: Vec<String> =
            self.jobs.iter().filter(|(_, job)| job.executors.contains(executor_id)).map(|(job_id, _)| job_id.clone()).collect();
        let mut to_cancel = Vec::new();
        for job_id in touched {
            self.invalidate(&job_id, Invalidity::ExecutorLost(BTreeSet::from([executor_id.to_owned()])));
            if self.is_open(&job_id) {
                to_cancel.push(job_id);
            }
        }
        to_cancel.sort();
        Some(to_cancel)
    }

    /// Asks for the end of a job. True when it is open.
    pub fn request_cancel(&mut self, job_id: &str, reason: &str) -> bool {
        let open = self.is_open(job_id);
        if open {
            self.invalidate(job_id, Invalidity::Cancelled(reason.to_owned()));
        }
        open
    }

    /// No more tasks of it may start.
    #[must_use]
    pub fn blocked(&self, job_id: &str) -> Option<&Invalidity> {
        self.jobs.get(job_id).and_then(|job| job.invalid.as_ref())
    }

    /// Open jobs that are invalid: they should have been cancelled, so whoever still runs must be cancelled again.
    #[must_use]
    pub fn open_but_invalid(&self) -> Vec<String> {
        self.jobs.iter().filter(|(_, job)| job.outcome == Outcome::Open && job.invalid.is_some()).map(|(job_id, _)| job_id.clone()).collect()
    }

    /// The rule itself.
    #[must_use]
    pub fn validate(&self, job_id: &str) -> Verdict {
        let Some(job) = self.jobs.get(job_id) else { return Verdict::Unknown };
        if let Some(invalid) = &job.invalid {
            return Verdict::Invalid(invalid.clone());
        }
        if job.outcome != Outcome::Successful {
            return Verdict::NotSuccessful;
        }
        let lost: BTreeSet<String> = job.executors.iter().filter(|id| !self.leases.is_held(id)).cloned().collect();
        if lost.is_empty() { Verdict::Valid } else { Verdict::Invalid(Invalidity::ExecutorLost(lost)) }
    }

    /// Known, and neither queued nor running.
    #[must_use]
    pub fn has_ended(&self, job_id: &str) -> bool {
        self.jobs.get(job_id).is_some_and(|job| job.outcome != Outcome::Open)
    }

    /// Executors that were given tasks of the job.
    #[must_use]
    pub fn executors_of(&self, job_id: &str) -> BTreeSet<String> {
        self.jobs.get(job_id).map(|job| job.executors.clone()).unwrap_or_default()
    }

    /// Open jobs that are older than `age` and still valid.
    #[must_use]
    pub fn open_longer_than(&self, age: Duration) -> Vec<String> {
        self.jobs
            .iter()
            .filter(|(_, job)| job.outcome == Outcome::Open && job.invalid.is_none() && job.opened_at.elapsed() >= age)
            .map(|(job_id, _)| job_id.clone())
            .collect()
    }

    /// Open jobs.
    #[must_use]
    pub fn open_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.outcome == Outcome::Open).count()
    }

    /// Jobs invalidated since the start.
    #[must_use]
    pub fn invalidated_total(&self) -> u64 {
        self.invalidated_total
    }

    fn job(&mut self, job_id: &str) -> &mut JobRecord {
        self.jobs.entry(job_id.to_owned()).or_insert_with(|| JobRecord {
            opened_at: Instant::now(),
            outcome: Outcome::Open,
            executors: BTreeSet::new(),
            invalid: None,
        })
    }

    fn is_open(&self, job_id: &str) -> bool {
        self.jobs.get(job_id).is_some_and(|job| job.outcome == Outcome::Open)
    }

    /// True when the job was valid until now. A lost executor outweighs other reasons: it is what the driver repeats the query for.
    fn invalidate(&mut self, job_id: &str, why: Invalidity) -> bool {
        let job = self.job(job_id);
        let newly = job.invalid.is_none();
        job.invalid = Some(match (job.invalid.take(), why) {
            (Some(Invalidity::Cancelled(reason)), _) => Invalidity::Cancelled(reason),
            (Some(Invalidity::ExecutorLost(mut lost)), Invalidity::ExecutorLost(more)) => {
                lost.extend(more);
                Invalidity::ExecutorLost(lost)
            }
            (Some(lost @ Invalidity::ExecutorLost(_)), Invalidity::StageRetried { .. }) => lost,
            (_, why) => why,
        });
        if newly {
            self.invalidated_total += 1;
        }
        newly
    }

    fn remember_ended(&mut self, job_id: &str) {
        self.ended_order.push_back(job_id.to_owned());
        while self.ended_order.len() > ENDED_JOBS_MAX {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.jobs.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn ledger(executors: &[&str]) -> Ledger {
        let mut ledger = Ledger::new(LeaseTable::new(Duration::from_secs(4)));
        for id in executors {
            ledger.lease_opened(id, false, Instant::now()).unwrap();
        }
        ledger
    }

    fn ended(executors: &[&str], retried_stage: Option<usize>) -> JobFacts {
        JobFacts { outcome: Outcome::Successful, retried_stage, executors: executors.iter().map(|id| (*id).to_owned()).collect() }
    }

    #[test]
    fn an_undisturbed_job_is_valid() {
        let mut ledger = ledger(&["a", "b"]);
        ledger.job_opened("j");
        assert!(!ledger.task_bound("j", "a", 1, 0));
        assert_eq!(ledger.validate("j"), Verdict::NotSuccessful);
        ledger.job_observed("j", ended(&["a", "b"], None));
        assert_eq!(ledger.validate("j"), Verdict::Valid);
    }

    #[test]
    fn only_jobs_that_touched_the_lost_executor_are_cancelled() {
        let mut ledger = ledger(&["a", "b"]);
        ledger.task_bound("j1", "a", 1, 0);
        ledger.task_bound("j2", "b", 1, 0);
        assert_eq!(ledger.executor_lost("a", LossCause::StreamClosed), Some(vec!["j1".to_owned()]));
        assert_eq!(ledger.executor_lost("a", LossCause::Expired), None);
        assert!(ledger.blocked("j1").is_some());
        assert!(ledger.blocked("j2").is_none());
    }

    #[test]
    fn success_after_a_loss_is_still_invalid() {
        let mut ledger = ledger(&["a", "b"]);
        ledger.task_bound("j", "a", 1, 0);
        ledger.executor_lost("a", LossCause::Expired);
        ledger.job_observed("j", ended(&["b"], None));
        assert!(matches!(ledger.validate("j"), Verdict::Invalid(Invalidity::ExecutorLost(lost)) if lost.contains("a")));
    }

    #[test]
    fn a_loss_between_success_and_validation_is_noticed() {
        let mut ledger = ledger(&["a"]);
        ledger.task_bound("j", "a", 1, 0);
        ledger.job_observed("j", ended(&["a"], None));
        assert_eq!(ledger.executor_lost("a", LossCause::Expired), Some(vec![]), "nothing to cancel: it has ended");
        assert!(matches!(ledger.validate("j"), Verdict::Invalid(Invalidity::ExecutorLost(_))));
    }

    #[test]
    fn a_task_bound_to_an_executor_lost_meanwhile_invalidates_at_once() {
        let mut ledger = ledger(&["a"]);
        ledger.executor_lost("a", LossCause::Expired);
        assert!(ledger.task_bound("j", "a", 1, 0));
        assert_eq!(ledger.open_but_invalid(), ["j"]);
    }

    #[test]
    fn a_retried_stage_invalidates() {
        let mut ledger = ledger(&["a"]);
        assert!(ledger.task_bound("j", "a", 3, 1));
        ledger.task_bound("k", "a", 1, 0);
        assert!(ledger.job_observed("k", ended(&["a"], Some(2))));
        assert_eq!(ledger.validate("j"), Verdict::Invalid(Invalidity::StageRetried { stage_id: 3 }));
        assert_eq!(ledger.validate("k"), Verdict::Invalid(Invalidity::StageRetried { stage_id: 2 }));
        assert_eq!(ledger.invalidated_total(), 2);
    }

    #[test]
    fn waiting_jobs_are_those_that_are_open_and_valid() {
        let mut ledger = ledger(&["a"]);
        ledger.job_opened("waits");
        ledger.job_opened("cancelled");
        ledger.request_cancel("cancelled", "killed");
        ledger.job_observed("done", ended(&["a"], None));
        assert_eq!(ledger.open_longer_than(Duration::ZERO), ["waits"]);
        assert!(ledger.open_longer_than(Duration::from_secs(60)).is_empty());
    }

    #[test]
    fn cancelling_blocks_an_open_job_only() {
        let mut ledger = ledger(&["a"]);
        ledger.job_opened("j");
        assert!(ledger.request_cancel("j", "killed"));
        assert!(ledger.blocked("j").is_some());
        ledger.job_observed("k", ended(&["a"], None));
        assert!(!ledger.request_cancel("k", "too late"));
        assert_eq!(ledger.validate("k"), Verdict::Valid);
        assert!(!ledger.request_cancel("nobody", "?"));
        assert_eq!(ledger.validate("nobody"), Verdict::Unknown);
    }

    #[test]
    fn a_drained_executor_does_not_spoil_results() {
        let mut ledger = ledger(&["a"]);
        ledger.task_bound("j", "a", 1, 0);
        ledger.drain("a");
        ledger.job_observed("j", ended(&["a"], None));
        assert_eq!(ledger.validate("j"), Verdict::Valid);
    }

    #[test]
    fn ended_jobs_are_bounded_and_open_ones_are_kept() {
        let mut ledger = ledger(&["a"]);
        ledger.job_opened("open");
        for i in 0..ENDED_JOBS_MAX + 5 {
            ledger.job_observed(&format!("j{i}"), ended(&["a"], None));
        }
        assert_eq!(ledger.jobs.len(), ENDED_JOBS_MAX + 1);
        assert_eq!(ledger.validate("j0"), Verdict::Unknown);
        assert_eq!(ledger.validate("open"), Verdict::NotSuccessful);
    }
}
