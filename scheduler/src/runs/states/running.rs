//! `running`: the driver works.

use super::failed::Failed;
use super::finished::Finished;
use super::killed::Killed;
use super::lost::Lost;
use super::queued::Queued;
use super::{At, Effect, Event, State, Step, To, again, driver_kill, exit_error, go, silent_error};
use crate::runs::model::{Run, RunError, RunState};

pub struct Running;

impl To<Finished> for Running {}
impl To<Failed> for Running {}
impl To<Killed> for Running {}
impl To<Lost> for Running {}
/// Supervised: the driver is launched again.
impl To<Queued> for Running {}

impl State for Running {
    const VALUE: RunState = RunState::Running;

    fn on(run: &mut Run, event: &Event, at: At) -> Step {
        let killing = run.kill_requested_at_ms.is_some();
        match event {
            Event::Heartbeat { progress: Some(progress) } => {
                run.progress = Some(progress.clone());
                Step::Stay(Vec::new())
            }
            Event::Finished { report_json, progress } => {
                run.report_json = report_json.clone();
                run.progress = progress.clone().or(run.progress.take());
                run.error = None;
                go::<Self, Finished>(Vec::new())
            }
            Event::Failed { .. } | Event::Exited { .. } | Event::Silent { .. } if killing => go::<Self, Killed>(vec![Effect::CancelQueries]),
            Event::Failed { error } => match relaunch(run, error.clone(), at) {
                Some(step) => step,
                None => go::<Self, Failed>(vec![Effect::CancelQueries]),
            },
            // A driver of old that exits in order without a report has done its work.
            Event::Exited { code: Some(0), signal: None, .. } => go::<Self, Finished>(Vec::new()),
            Event::Exited { code, signal, stderr_tail } => match relaunch(run, exit_error(*code, *signal, stderr_tail), at) {
                Some(step) => step,
                None => go::<Self, Failed>(vec![Effect::CancelQueries]),
            },
            Event::Silent { for_ms } => match relaunch(run, silent_error(*for_ms), at) {
                Some(step) => step,
                // Should the driver still live somewhere, it must not go on: nobody follows it any more.
                None => go::<Self, Lost>(driver_kill(run)),
            },
            Event::Stopped => go::<Self, Killed>(vec![Effect::CancelQueries]),
            Event::KillRequested if killing => Step::Ignore,
            Event::KillRequested => {
                run.kill_requested_at_ms = Some(at.now_ms);
                Step::Stay(driver_kill(run))
            }
            Event::KillOverdue if killing => go::<Self, Killed>(driver_kill(run)),
            Event::KillOverdue | Event::Heartbeat { progress: None } | Event::Accepted | Event::Placed { .. } | Event::LaunchFailed { .. } => {
                Step::Ignore
            }
        }
    }
}

fn relaunch(run: &mut Run, error: RunError, at: At) -> Option<Step> {
    again(run, error, at).map(go::<Running, Queued>)
}
