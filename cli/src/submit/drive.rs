//! Runs a job's driver in this process: `submit` in client mode, and what an executor launches in cluster mode.

use std::time::Duration;

use chainalytics_client::{ProgressSink, RunClient, RunContext, RunEnd, RunReporter, Session};
use chainalytics_common::{Error, ErrorCode, Master};
use chainalytics_proto::v1::{DeployMode, RunState};
use serde_json::Value;

use super::{RunRequest, RunResult, sql_job};
use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::{registry, signals, suggest};

/// A job that is asked to end gets this long to finish what it is committing.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Refuses a job that there is none of, with the nearest name.
pub fn known(job: &str) -> CliResult<()> {
    let names: Vec<&str> = registry::all().iter().map(|job| job.name).chain([sql_job::NAME]).collect();
    if names.contains(&job) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::UnknownJob, suggest::unknown("job", job, &names)).into())
}

/// Runs the request here. With a cluster as master the scheduler knows of the run; with `local[N]` nobody else does.
pub async fn run_here(context: &Context, request: &RunRequest, progress: ProgressSink) -> CliResult<RunResult> {
    let interrupted = signals::cancel_on_signal();
    // A run that somebody else kills is cancelled, too, but nobody interrupted this command.
    let run = RunContext::new(&request.run_id, &request.name, 1, interrupted.child_token());
    run.on_progress(progress);
    let result = match context.master()? {
        Master::Local(_) => {
            let end = drive(context, request, &run).await;
            Ok(result(request, end))
        }
        Master::Cluster(url) => {
            let client = RunClient::connect(&url).await?;
            let answer = client.submit(request.message(context, DeployMode::Client)?).await?;
            run_reported(context, request, run, answer.report_interval_ms).await
        }
    }?;
    if interrupted.is_cancelled() && result.state != RunState::Finished { Err(CliError::Interrupted) } else { Ok(result) }
}

/// Runs the request as a run that the scheduler knows, and tells it how it goes.
pub async fn run_reported(context: &Context, request: &RunRequest, run: RunContext, interval_ms: u64) -> CliResult<RunResult> {
    let client = RunClient::connect(&context.scheduler_url()?).await?;
    let reporter = RunReporter::start(client, run.clone(), interval_ms)?;
    let end = drive(context, request, &run).await;
    let mut told = result(request, clone_end(&end));
    // The scheduler has the last word: a run that was killed meanwhile stays killed.
    let state = reporter.finish(end).await?;
    if state.is_terminal() {
        told.state = state;
    }
    Ok(told)
}

/// The job's work, up to its end or the end of the run.
async fn drive(context: &Context, request: &RunRequest, run: &RunContext) -> RunEnd {
    let work = work(context, request, run);
    let mut work = std::pin::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => Some(ended),
        () = run.cancellation().cancelled() => None,
    };
    match ended {
        Some(Ok(report)) => RunEnd::Finished(report.to_string()),
        Some(Err(_)) if run.cancellation().is_cancelled() => RunEnd::Killed,
        Some(Err(error)) => RunEnd::Failed(error),
        None => {
            if tokio::time::timeout(CANCEL_GRACE, work).await.is_err() {
                tracing::warn!("the job did not end in {CANCEL_GRACE:?}; it is dropped");
            }
            RunEnd::Killed
        }
    }
}

async fn work(context: &Context, request: &RunRequest, run: &RunContext) -> Result<Value, Error> {
    let session = Session::connect_for(context.config(), context.master()?, run.clone()).await?;
    let done = if request.job == sql_job::NAME {
        sql_job::run(&session, request.args.first().map(String::as_str).unwrap_or_default()).await
    } else {
        registry::run(&session, &request.job, request.args.clone()).await
    };
    session.close().await;
    done
}

fn result(request: &RunRequest, end: RunEnd) -> RunResult {
    let (state, report, error) = match end {
        RunEnd::Finished(report) => (RunState::Finished, serde_json::from_str(&report).unwrap_or(Value::Null), None),
        RunEnd::Failed(error) => (RunState::Failed, Value::Null, Some((error.code().as_str().to_owned(), error.message().to_owned()))),
        RunEnd::Killed => (RunState::Killed, Value::Null, None),
    };
    RunResult { run_id: request.run_id.clone(), state, report, error }
}

fn clone_end(end: &RunEnd) -> RunEnd {
    match end {
        RunEnd::Finished(report) => RunEnd::Finished(report.clone()),
        RunEnd::Failed(error) => RunEnd::Failed(Error::new(error.code(), error.message().to_owned())),
        RunEnd::Killed => RunEnd::Killed,
    }
}
