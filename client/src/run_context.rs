//! Which run a session works for: names its queries, numbers its steps, carries progress out and the wish to end in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chainalytics_proto::v1::Progress;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Where progress goes (a terminal, the scheduler).
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// A run as its driver sees it. Cheap to clone; clones share steps and cancellation.
#[derive(Clone)]
pub struct RunContext {
    inner: Arc<Inner>,
}

struct Inner {
    run_id: Option<String>,
    name: Option<String>,
    attempt: u32,
    steps: AtomicU32,
    current_step: Mutex<Option<String>>,
    /// The latest SQL statement.
    statement: Mutex<Option<String>>,
    progress: Mutex<Option<ProgressSink>>,
    last_progress: Mutex<Progress>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for RunContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("run_id", &self.inner.run_id).field("attempt", &self.inner.attempt).finish_non_exhaustive()
    }
}

impl Default for RunContext {
    fn default() -> Self {
        Self::build(None, None, 1, CancellationToken::new())
    }
}

impl RunContext {
    /// A run known to the scheduler under `run_id`; `cancel` ends it.
    #[must_use]
    pub fn new(run_id: impl Into<String>, name: impl Into<String>, attempt: u32, cancel: CancellationToken) -> Self {
        Self::build(Some(run_id.into()), Some(name.into()), attempt, cancel)
    }

    fn build(run_id: Option<String>, name: Option<String>, attempt: u32, cancel: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                run_id,
                name,
                attempt,
                steps: AtomicU32::new(0),
                current_step: Mutex::new(None),
                statement: Mutex::new(None),
                progress: Mutex::new(None),
                last_progress: Mutex::new(Progress::default()),
                cancel,
            }),
        }
    }

    /// The run's id; none for a session of its own (`chainalytics sql`).
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.inner.run_id.as_deref()
    }

    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// Launches of this run's driver so far; 1 = the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// A name for the next unnamed step. It must come out the same when the run is repeated, so steps are numbered in order.
    #[must_use]
    pub fn next_step(&self) -> String {
        format!("step-{}", self.inner.steps.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Names what the following queries belong to; shown with them.
    pub fn set_step(&self, step: Option<&str>) {
        *self.inner.current_step.lock() = step.map(str::to_owned);
    }

    /// The SQL statement that the following queries work for, until the next one: rows may be computed long after it was planned.
    pub(crate) fn set_statement(&self, statement: &str) {
        *self.inner.statement.lock() = Some(statement.to_owned());
    }

    pub(crate) fn statement(&self) -> Option<String> {
        self.inner.statement.lock().clone()
    }

    pub(crate) fn step_label(&self) -> Option<String> {
        self.inner.current_step.lock().clone()
    }

    /// Sends progress there from now on.
    pub fn on_progress(&self, sink: ProgressSink) {
        *self.inner.progress.lock() = Some(sink);
    }

    /// Reports progress.
    pub fn progress(&self, progress: Progress) {
        let sink = self.inner.progress.lock().clone();
        if let Some(sink) = sink {
            sink(&progress);
        }
        *self.inner.last_progress.lock() = progress;
    }

    /// The latest progress.
    #[must_use]
    pub fn last_progress(&self) -> Progress {
        self.inner.last_progress.lock().clone()
    }

    /// Fires when the run is to end.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.cancel
    }

    pub(crate) async fn cancelled(&self) {
        self.inner.cancel.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn steps_are_numbered_the_same_in_every_attempt() {
        for attempt in 1..3 {
            let run = RunContext::new("r", "job", attempt, CancellationToken::new());
            assert_eq!((run.next_step(), run.clone().next_step()), ("step-1".to_owned(), "step-2".to_owned()));
        }
    }

    #[test]
    fn progress_reaches_its_sink_and_is_kept() {
        let run = RunContext::default();
        let seen = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&seen);
        run.on_progress(Arc::new(move |p| {
            counter.store(u32::try_from(p.done).unwrap(), Ordering::Relaxed);
        }));
        run.progress(Progress { done: 7, ..Progress::default() });
        assert_eq!(seen.load(Ordering::Relaxed), 7);
        assert_eq!(run.last_progress().done, 7);
    }
}
