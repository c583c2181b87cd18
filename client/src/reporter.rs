//! Keeps the scheduler informed of a run while its driver works, and brings back the wish to end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_proto::v1::{ReportRunRequest, RunError, RunState};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::run_client::RunClient;
use crate::run_context::RunContext;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// How long the last report of a run is tried while the scheduler is away.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);
const FINISH_RETRY: Duration = Duration::from_millis(500);

/// How a run ended.
#[derive(Debug)]
pub enum RunEnd {
    /// With the job's report as JSON, or nothing.
    Finished(String),
    Failed(Error),
    Killed,
}

/// Reports a run in the background. End it with [`RunReporter::finish`].
pub struct RunReporter {
    client: RunClient,
    run: RunContext,
    run_id: String,
    superseded: Arc<AtomicBool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RunReporter {
    /// Starts to report `run`, at the interval that the scheduler asked for. When it says that the run is to end, or that another attempt
    /// has taken over, the run's cancellation fires.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if the run has no id.
    pub fn start(client: RunClient, run: RunContext, interval_ms: u64) -> Result<Self> {
        let run_id = run.run_id().ok_or_else(|| Error::internal("only a submitted run is reported"))?.to_owned();
        let superseded = Arc::new(AtomicBool::new(false));
        let stop = CancellationToken::new();
        let interval = if interval_ms == 0 { DEFAULT_INTERVAL } else { Duration::from_millis(interval_ms).max(MIN_INTERVAL) };
        let task = tokio::spawn(report_until(stop.clone(), client.clone(), run.clone(), run_id.clone(), Arc::clone(&superseded), interval));
        Ok(Self { client, run, run_id, superseded, stop, task })
    }

    /// True once another attempt of this run has taken over, so that this driver must not commit.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// Reports the end. Answers the state in which the scheduler left the run.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`] if it stayed away for a minute.
    pub async fn finish(self, end: RunEnd) -> Result<RunState> {
        self.stop.cancel();
        let _ = self.task.await;
        let mut request = ReportRunRequest {
            run_id: self.run_id,
            attempt: self.run.attempt(),
            progress: Some(self.run.last_progress()),
            ..ReportRunRequest::default()
        };
        match end {
            RunEnd::Finished(report_json) => {
                request.set_state(RunState::Finished);
                request.report_json = report_json;
            }
            RunEnd::Failed(error) => {
                request.set_state(RunState::Failed);
                request.error = Some(RunError { code: error.code().as_str().to_owned(), message: error.message().to_owned() });
            }
            RunEnd::Killed => request.set_state(RunState::Killed),
        }
        let deadline = tokio::time::Instant::now() + FINISH_TIMEOUT;
        loop {
            match self.client.report(request.clone()).await {
                Ok(answer) => return Ok(answer.state()),
                Err(error) if error.code() == ErrorCode::SchedulerUnreachable && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(FINISH_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn report_until(
    stop: CancellationToken,
    client: RunClient,
    run: RunContext,
    run_id: String,
    superseded: Arc<AtomicBool>,
    mut interval: Duration,
) {
    loop {
        let mut request =
            ReportRunRequest { run_id: run_id.clone(), attempt: run.attempt(), progress: Some(run.last_progress()), ..ReportRunRequest::default() };
        request.set_state(RunState::Running);
        match client.report(request).await {
            Ok(answer) => {
                if answer.superseded {
                    superseded.store(true, Ordering::Release);
                }
                if answer.superseded || answer.kill_requested {
                    run.cancellation().cancel();
                }
                if answer.report_interval_ms > 0 {
                    interval = Duration::from_millis(answer.report_interval_ms).max(MIN_INTERVAL);
                }
            }
            // A scheduler may be away; it takes the run up again when it is back.
            Err(error) => tracing::debug!(%error, "progress not reported"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}
