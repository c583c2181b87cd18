use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::Lakehouse;
use chainalytics_lakehouse::exec::QueryExecutor;

use super::listener::{ProgressListener, Waiting};
use super::runner::{BatchRunner, Outcome, cancellable};
use super::spec::{StreamSpec, Trigger};
use crate::err;

/// First pause after something was found to be away; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest pause. An attempt is one small request, and whoever waits for rows waits this much longer after an outage.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Batches in a row that may be planned anew, as another writer or retention was faster, before the query gives up.
const REPLANS_MAX: u32 = 20;
/// Pause before a batch is planned anew, times the number of the attempt.
const REPLAN_PAUSE: Duration = Duration::from_millis(20);

/// What a query came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Batches committed.
    pub batches: u64,
    /// Records read.
    pub input_rows: u64,
    /// Rows in bronze tables.
    pub output_rows: u64,
    /// Rows in the dead-letter table.
    pub dead_letter_rows: u64,
    /// Those, by code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records that were dropped as the query was told to.
    pub skipped_rows: u64,
    /// Batches that were planned anew, as another writer was faster.
    pub conflicts: u64,
    /// Whether it ended because it was asked to.
    pub stopped: bool,
}

/// A streaming query: micro-batches over its topics until the trigger says that it is done, or it is stopped.
pub struct StreamingQuery {
    runner: BatchRunner,
    summary: StreamSummary,
}

impl StreamingQuery {
    /// A query; nothing is contacted yet.
    ///
    /// # Errors
    /// `InvalidArgument`, `Config`.
    pub fn new(lakehouse: Lakehouse, spec: StreamSpec) -> Result<Self> {
        Ok(Self { runner: BatchRunner::new(lakehouse, spec)?, summary: StreamSummary::default() })
    }

    /// Runs the query. `exec` runs the batches' plans; their commits are made here.
    ///
    /// Stopping by `cancel` abandons a batch that is not being committed yet: it is read again by the next run.
    ///
    /// # Errors
    /// Whatever keeps batches from running and does not pass: a topic or table that is not there, data loss, progress
    /// that cannot be told, an outage longer than the spec allows (at the start: any), another writer that keeps winning.
    pub async fn run(
        mut self,
        exec: &dyn QueryExecutor,
        trigger: Trigger,
        cancel: &CancellationToken,
        listener: &dyn ProgressListener,
    ) -> Result<StreamSummary> {
        let (name, run_id) = (self.runner.spec().name.clone(), self.runner.spec().run_id.clone());
        listener.on_started(&name, &run_id);
        let outcome = self.run_until_done(exec, trigger, cancel, listener).await;
        self.runner.group_told().await;
        let failure = outcome.as_ref().err().filter(|error| !(cancel.is_cancelled() && err::is_cancelled(error)));
        listener.on_terminated(&name, &run_id, failure);
        match outcome {
            Err(error) if cancel.is_cancelled() && err::is_cancelled(&error) => {
                self.summary.stopped = true;
                Ok(self.summary)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(self.summary),
        }
    }

    async fn run_until_done(
        &mut self,
        exec: &dyn QueryExecutor,
        trigger: Trigger,
        cancel: &CancellationToken,
        listener: &dyn ProgressListener,
    ) -> Result<()> {
        if trigger == Trigger::AvailableNow {
            cancellable(cancel, self.runner.bound_by_now()).await?;
        }
        let mut outage = Outage::default();
        let mut replans_in_row = 0;
        let mut next_start = Instant::now();
        loop {
            let outcome = match self.runner.run(exec, cancel).await {
                Ok(outcome) => outcome,
                Err(error) if self.plan_is_stale(&error) && replans_in_row < REPLANS_MAX => {
                    // Nothing was written. Either the tables (or the log's beginning) moved on without us, and the next
                    // plan begins there, or another instance works beside us: then one of the two gives up in the end.
                    replans_in_row += 1;
                    self.summary.conflicts += u64::from(err::is_conflict(&error));
                    tracing::warn!(query = self.runner.spec().name, %error, "a batch was not committed, planning anew");
                    pause(cancel, REPLAN_PAUSE * replans_in_row).await?;
                    continue;
                }
                Err(error) if err::may_pass(&error) && outage.bearable(&self.runner) => {
                    outage.wait(error, self.runner.spec(), cancel, listener).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            outage = Outage::default();
            replans_in_row = if matches!(outcome, Outcome::Evolved) { replans_in_row + 1 } else { 0 };
            if replans_in_row > REPLANS_MAX {
                return Err(err::schema_mismatch("the tables were given new columns again and again, to no avail"));
            }
            let done = match outcome {
                Outcome::Committed(progress) => {
                    self.summary.batches += 1;
                    self.summary.input_rows += progress.num_input_rows;
                    self.summary.output_rows += progress.sink.num_output_rows;
                    self.summary.dead_letter_rows += progress.sink.num_dead_letter_rows;
                    self.summary.skipped_rows += progress.sink.num_skipped_rows;
                    for (code, count) in &progress.sink.dead_letters {
                        *self.summary.dead_letters.entry(code.clone()).or_insert(0) += count;
                    }
                    listener.on_progress(&progress);
                    self.runner.maintain(exec, cancel).await?;
                    trigger == Trigger::Once
                }
                Outcome::Idle { batch_id } => {
                    listener.on_idle(&self.runner.spec().name, batch_id);
                    matches!(trigger, Trigger::Once | Trigger::AvailableNow)
                }
                Outcome::Evolved => continue,
            };
            if done {
                return Ok(());
            }
            if cancel.is_cancelled() {
                return Err(err::cancelled("the stream was stopped"));
            }
            if let Trigger::Interval(every) = trigger {
                // Late batches are not made up for: the next one starts at once, and the rhythm with it.
                next_start = (next_start + every).max(Instant::now());
                pause(cancel, next_start.saturating_duration_since(Instant::now())).await?;
            }
        }
    }

    /// Whether a new plan may do what this one could not: another writer was faster, or, where loss is accepted, retention
    /// removed records between planning and reading.
    fn plan_is_stale(&self, error: &Error) -> bool {
        err::is_conflict(error) || (err::is_data_loss(error) && !self.runner.spec().limits.fail_on_data_loss)
    }
}

async fn pause(cancel: &CancellationToken, time: Duration) -> Result<()> {
    cancellable(cancel, async {
        tokio::time::sleep(time).await;
        Ok(())
    })
    .await
}

/// Something that is away, since when, and how often it was tried.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    attempts: u32,
}

impl Outage {
    /// Whether waiting makes sense. A query that has never worked should say what is wrong at once.
    fn bearable(&self, runner: &BatchRunner) -> bool {
        let elapsed = self.since.map(|since| since.elapsed()).unwrap_or_default();
        runner.has_seen_everything() && runner.spec().outage_max.is_none_or(|max| elapsed < max)
    }

    async fn wait(&mut self, error: Error, spec: &StreamSpec, cancel: &CancellationToken, listener: &dyn ProgressListener) -> Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let pause = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(10)).min(BACKOFF_MAX);
        self.attempts += 1;
        tracing::warn!(query = spec.name, attempt = self.attempts, %error, "the stream waits and tries again");
        listener.on_waiting(&Waiting {
            query: spec.name.clone(),
            code: error.code().as_str().to_owned(),
            reason: error.message().to_owned(),
            since: since.elapsed(),
            attempts: self.attempts,
            next_in: pause,
        });
        self::pause(cancel, pause).await
    }
}
