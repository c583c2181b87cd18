use std::time::Duration;

use chainalytics_common::Error;

use super::progress::StreamingQueryProgress;

/// Why a query makes no progress for the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Name of the query.
    pub query: String,
    /// Stable code of the error that is waited out.
    pub code: String,
    /// What is wrong.
    pub reason: String,
    /// How long it has been so.
    pub since: Duration,
    /// Attempts so far.
    pub attempts: u32,
    /// Pause before the next.
    pub next_in: Duration,
}

/// Hears of a query's life and batches, as Spark's `StreamingQueryListener` does. Called from the query's own task: an
/// implementation must return quickly.
pub trait ProgressListener: Send + Sync {
    /// The query begins.
    fn on_started(&self, query: &str, run_id: &str) {
        let _ = (query, run_id);
    }

    /// A batch was committed.
    fn on_progress(&self, progress: &StreamingQueryProgress);

    /// A trigger found nothing new.
    fn on_idle(&self, query: &str, batch_id: i64) {
        let _ = (query, batch_id);
    }

    /// The query ended: of itself, on request, or by the error.
    fn on_terminated(&self, query: &str, run_id: &str, error: Option<&Error>) {
        let _ = (query, run_id, error);
    }

    /// Something is away (broker, registry, catalog); the query waits and tries again.
    fn on_waiting(&self, waiting: &Waiting) {
        let _ = waiting;
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoListener;

impl ProgressListener for NoListener {
    fn on_progress(&self, _progress: &StreamingQueryProgress) {}
}
