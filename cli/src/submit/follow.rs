//! Follows a run whose driver an executor runs: its log and progress, until it ended.

use std::time::Duration;

use chainalytics_client::{ProgressSink, RunClient};
use chainalytics_common::{Error, ErrorCode};
use chainalytics_proto::v1::{DeployMode, Run};
use futures::StreamExt as _;
use serde_json::Value;

use super::{RunRequest, RunResult};
use crate::context::Context;
use crate::error::{CliError, CliResult};

const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// A scheduler may be away this long while its run is followed.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);
/// How long an interrupted run is waited for.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The log of a run that has ended is copied for at most this long.
const LAST_LOG: Duration = Duration::from_secs(5);

/// Submits to the cluster; the run as the scheduler took it.
pub async fn submit(context: &Context, request: &RunRequest) -> CliResult<(RunClient, Run)> {
    let client = crate::runs::client(context).await?;
    let answer = client.submit(request.message(context, DeployMode::Cluster)?).await?;
    let run = answer.run.ok_or_else(|| CliError::from(Error::new(ErrorCode::Internal, "the scheduler answered without a run".to_owned())))?;
    Ok((client, run))
}

/// Submits and waits until the run has ended. Ctrl-C kills it. `log` takes the driver's log as it grows.
pub async fn run_on_cluster(
    context: &Context,
    request: &RunRequest,
    progress: ProgressSink,
    log: impl Fn(&str) + Send + 'static,
) -> CliResult<RunResult> {
    let (client, run) = submit(context, request).await?;
    let logs = tokio::spawn(copy_log(client.clone(), run.run_id.clone(), log));
    let followed = tokio::select! {
        biased;
        () = crate::signals::interrupted() => Err(CliError::Interrupted),
        run = wait(&client, &run.run_id, &progress) => run,
    };
    let run = match followed {
        Ok(run) => run,
        Err(CliError::Interrupted) => {
            logs.abort();
            context.note(&format!("killing run {}", run.run_id));
            client.kill(&run.run_id, "interrupted at the command line").await?;
            let _ = tokio::time::timeout(KILL_WAIT, wait(&client, &run.run_id, &progress)).await;
            return Err(CliError::Interrupted);
        }
        Err(error) => {
            logs.abort();
            return Err(error);
        }
    };
    let abort = logs.abort_handle();
    if tokio::time::timeout(LAST_LOG, logs).await.is_err() {
        abort.abort();
    }
    let report = crate::runs::report(context, &run.run_id).await.unwrap_or(Value::Null);
    Ok(RunResult {
        run_id: run.run_id.clone(),
        state: run.state(),
        report,
        error: run.error.as_ref().map(|e| (e.code.clone(), e.message.clone())),
    })
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
