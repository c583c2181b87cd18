//! Follows a run whose driver an executor runs: its log and progress, until it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chainalytics_client::{ProgressSink, RunClient};
use chainalytics_common::{Error, ErrorCode};
use chainalytics_proto::v1::{DeployMode, Run};
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde_json::Value;

use super::{RunRequest, RunResult};
use crate::context::Context;
use crate::error::{CliError, CliResult};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
const LOG_POLL: Duration = Duration::from_millis(50);
/// A scheduler may be away this long while its run is followed.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);
/// How long an interrupted run is waited for.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The log of a run that has ended is copied until nothing came for so long (executors ship every half second), ...
const LOG_QUIET: Duration = Duration::from_millis(800);
/// ... and for at most this long.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// Takes pieces of a driver's log.
pub type LogSink = Box<dyn Fn(&str) + Send + Sync>;

/// Submits to the cluster; the run as the scheduler took it.
pub async fn submit(context: &Context, request: &RunRequest) -> CliResult<(RunClient, Run)> {
    let client = crate::runs::client(context).await?;
    let answer = client.submit(request.message(context, DeployMode::Cluster)?).await?;
    let run = answer.run.ok_or_else(|| CliError::from(Error::new(ErrorCode::Internal, "the scheduler answered without a run".to_owned())))?;
    Ok((client, run))
}

/// Submits and waits until the run has ended. Ctrl-C kills it. `log`, if wanted, takes the driver's log as it grows.
pub async fn run_on_cluster(context: &Context, request: &RunRequest, progress: ProgressSink, log: Option<LogSink>) -> CliResult<RunResult> {
    let (client, run) = submit(context, request).await?;
    let copier = log.map(|log| LogCopier::start(client.clone(), run.run_id.clone(), log));
    let followed = tokio::select! {
        biased;
        () = crate::signals::interrupted() => Err(CliError::Interrupted),
        run = wait(&client, &run.run_id, &progress) => run,
    };
    let run = match followed {
        Ok(run) => run,
        Err(CliError::Interrupted) => {
            context.note(&format!("killing run {}", run.run_id));
            client.kill(&run.run_id, "interrupted at the command line").await?;
            let _ = tokio::time::timeout(KILL_WAIT, wait(&client, &run.run_id, &progress)).await;
            return Err(CliError::Interrupted);
        }
        Err(error) => return Err(error),
    };
    if let Some(copier) = copier {
        copier.finish().await;
    }
    let report = crate::runs::report(context, &run.run_id).await.unwrap_or(Value::Null);
    Ok(RunResult { run_id: run.run_id.clone(), state: run.state(), report, error: run.error.as_ref().map(|e| (e.code.clone(), plain(&e.message))) })
}

async fn wait(client: &RunClient, run_id: &str, progress: &ProgressSink) -> CliResult<Run> {
    let mut last_answer = tokio::time::Instant::now();
    loop {
        match client.get(run_id).await {
            Ok(run) => {
                last_answer = tokio::time::Instant::now();
                if let Some(told) = &run.progress {
                    progress(told);
                }
                if run.state().is_terminal() {
                    return Ok(run);
                }
            }
            // A scheduler that restarts takes its runs up again.
            Err(error) if error.code() == ErrorCode::SchedulerUnreachable && last_answer.elapsed() < OUTAGE_LIMIT => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A message that came over the wire begins with its code, which is told beside it anyway.
fn plain(message: &str) -> String {
    Error::parse(message).map_or_else(|| message.to_owned(), |error| error.message().to_owned())
}

/// Copies a driver's log in the background; ends with its owner.
struct LogCopier {
    task: tokio::task::JoinHandle<()>,
    last_piece: Arc<Mutex<Instant>>,
}

impl LogCopier {
    fn start(client: RunClient, run_id: String, log: LogSink) -> Self {
        let last_piece = Arc::new(Mutex::new(Instant::now()));
        let seen = Arc::clone(&last_piece);
        let task = tokio::spawn(copy_log(client, run_id, move |text: &str| {
            *seen.lock() = Instant::now();
            log(text);
        }));
        Self { task, last_piece }
    }

    /// Waits for the rest of the log of a run that has ended.
    async fn finish(self) {
        let ended = Instant::now();
        let quiet_since = |copier: &Self| (*copier.last_piece.lock()).max(ended);
        while !self.task.is_finished() && ended.elapsed() < LOG_LIMIT && quiet_since(&self).elapsed() < LOG_QUIET {
            tokio::time::sleep(LOG_POLL).await;
        }
    }
}

impl Drop for LogCopier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn copy_log(client: RunClient, run_id: String, log: impl Fn(&str)) {
    let mut offset = 0;
    loop {
        if let Ok(chunks) = client.logs(&run_id, true, offset).await {
            let mut chunks = std::pin::pin!(chunks);
            while let Some(Ok(chunk)) = chunks.next().await {
                if !chunk.data.is_empty() {
                    log(&String::from_utf8_lossy(&chunk.data));
                }
                offset = chunk.offset + chunk.data.len() as u64;
                if chunk.end {
                    return;
                }
            }
        }
        // The scheduler is away, or there is no log yet; the task ends with the run.
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
