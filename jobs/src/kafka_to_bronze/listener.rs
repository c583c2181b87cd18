use std::sync::atomic::{AtomicU64, Ordering};

use chainalytics_common::Error;
use chainalytics_proto::v1::Progress;
use chainalytics_streaming::stream::{ProgressListener, StreamingQueryProgress, Waiting};

use crate::JobContext;

/// Tells the run of each batch: as its progress, from where it reaches the event log and REST, and in the driver's log.
pub(super) struct Listener {
    context: JobContext,
    rows: AtomicU64,
}

impl Listener {
    pub(super) fn new(context: JobContext) -> Self {
        Self { context, rows: AtomicU64::new(0) }
    }
}

impl ProgressListener for Listener {
    fn on_started(&self, query: &str, run_id: &str) {
        tracing::info!(query, run_id, "the streaming query starts");
    }

    fn on_progress(&self, progress: &StreamingQueryProgress) {
        let read = self.rows.fetch_add(progress.num_input_rows, Ordering::Relaxed) + progress.num_input_rows;
        let behind: u64 = progress.sources.iter().map(|source| source.offsets_behind_latest).sum();
        let metrics_json = serde_json::to_string(progress).unwrap_or_default();
        tracing::info!(progress = metrics_json, "streaming query made progress");
        if !progress.sink.dead_letters.is_empty() {
            tracing::warn!(batch = progress.batch_id, by_reason = ?progress.sink.dead_letters, "records went to the dead letters");
        }
        let stage = format!("batch {}", progress.batch_id);
        self.context.session().run().progress(Progress { stage, done: read, total: read + behind, rows: read, metrics_json });
    }

    fn on_terminated(&self, query: &str, run_id: &str, error: Option<&Error>) {
        match error {
            None => tracing::info!(query, run_id, "the streaming query has ended"),
            // The run's own end says so loudly, with what to do.
            Some(error) => tracing::debug!(query, run_id, %error, "the streaming query has failed"),
        }
    }

    fn on_waiting(&self, waiting: &Waiting) {
        tracing::warn!(code = waiting.code, attempts = waiting.attempts, since_s = waiting.since.as_secs(), "waiting: {}", waiting.reason);
        let stage = format!("waiting: {}", waiting.reason);
        let last = self.context.session().run().last_progress();
        self.context.session().run().progress(Progress { stage, ..last });
    }
}
