//! `queued`: waits for an executor that launches its driver (cluster), or for its driver's first report (client).

use super::failed::Failed;
use super::finished::Finished;
use super::killed::Killed;
use super::lost::Lost;
use super::running::Running;
use super::{At, Effect, Event, State, Step, To, again, driver_kill, exit_error, go, silent_error};
use crate::runs::model::{DeployMode, Run, RunError, RunState};
use chainalytics_common::ErrorCode;

pub struct Queued;

impl To<Running> for Queued {}
/// A short driver may be done with its first report.
impl To<Finished> for Queued {}
impl To<Failed> for Queued {}
impl To<Killed> for Queued {}
impl To<Lost> for Queued {}

impl State for Queued {
    const VALUE: RunState = RunState::Queued;

    fn on(run: &mut Run, event: &Event, at: At) -> Step {
        match event {
            Event::Placed { executor_id } if run.executor_id.is_none() => {
                run.attempt += 1;
                run.executor_id = Some(executor_id.clone());
                run.placed_at_ms = Some(at.now_ms);
                Step::Stay(vec![Effect::Launch { executor_id: executor_id.clone() }])
            }
            Event::LaunchFailed { message } => not_launched(run, message, at),
            Event::Heartbeat { progress } => {
                run.progress = progress.clone().or(run.progress.take());
                go::<Self, Running>(Vec::new())
            }
            Event::Finished { report_json, progress } => {
                run.started_at_ms.get_or_insert(at.now_ms);
                run.report_json = report_json.clone();
                run.progress = progress.clone().or(run.progress.take());
                go::<Self, Finished>(Vec::new())
            }
            Event::Failed { error } => failed(run, error.clone(), at),
            Event::Stopped => go::<Self, Killed>(vec![Effect::CancelQueries]),
            Event::Exited { code: Some(0), signal: None, .. } => go::<Self, Finished>(Vec::new()),
            Event::Exited { code, signal, stderr_tail } => failed(run, exit_error(*code, *signal, stderr_tail), at),
            Event::Silent { for_ms } if run.deploy_mode == DeployMode::Client => {
                run.error = Some(silent_error(*for_ms));
                go::<Self, Lost>(vec![Effect::CancelQueries])
            }
            Event::KillRequested | Event::KillOverdue => {
                run.kill_requested_at_ms.get_or_insert(at.now_ms);
                let effects = driver_kill(run);
                go::<Self, Killed>(effects)
            }
            Event::Silent { .. } | Event::Accepted | Event::Placed { .. } => Step::Ignore,
        }
    }
}

/// The driver failed before anybody heard of it: another one if supervised, as in [`super::running`].
fn failed(run: &mut Run, error: RunError, at: At) -> Step {
    match again(run, error, at) {
        Some(effects) => Step::Stay(effects),
        None => go::<Queued, Failed>(vec![Effect::CancelQueries]),
    }
}

/// Back into the queue, unless that has happened too often.
fn not_launched(run: &mut Run, message: &str, at: At) -> Step {
    if run.executor_id.is_none() {
        return Step::Ignore;
    }
    let effects = driver_kill(run);
    run.executor_id = None;
    run.placed_at_ms = None;
    if run.attempt >= at.limits.launches_max {
        run.error = Some(RunError {
            code: ErrorCode::RunFailed.as_str().to_owned(),
            message: format!("the driver could not be launched in {} attempts: {message}", run.attempt),
        });
        return go::<Queued, Failed>(effects);
    }
    Step::Stay(effects)
}
