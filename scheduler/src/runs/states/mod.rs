//! The life of a run, one file per state.
//!
//! ```text
//! submitted ──> queued ──> running ──> finished
//!     │           │ ^        │ │ ├───> failed
//!     │           │ └────────┘ │ ├───> lost
//!     └─> killed <┴────────────┘ (supervised: back to queued, a bounded number of times)
//! ```
//!
//! A state answers each [`Event`] with a [`Step`]; a step into another state can only be made with [`go`], which asks for
//! `From: To<Target>`. So a transition that its state's file does not declare does not compile. Everything here is pure: the clock and
//! the limits come in as values, what must happen outside goes out as [`Effect`]s.

mod failed;
mod finished;
mod killed;
mod lost;
mod queued;
mod running;
mod submitted;

use super::model::{DeployMode, Progress, Run, RunError, RunState};
use chainalytics_common::ErrorCode;
use std::time::Duration;

/// What can happen to a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The scheduler accepted it.
    Accepted,
    /// Its driver is to be launched by this executor.
    Placed { executor_id: String },
    /// The executor could not launch the driver, did not within the time, or was lost before it did.
    LaunchFailed { message: String },
    /// The driver lives: it reported, or its executor says so.
    Heartbeat { progress: Option<Progress> },
    /// The driver says that it is done.
    Finished { report_json: Option<String>, progress: Option<Progress> },
    /// The driver says why it cannot go on.
    Failed { error: RunError },
    /// The driver says that it ended because it was asked to.
    Stopped,
    /// The driver's process ended without a last word.
    Exited { code: Option<i32>, signal: Option<i32>, stderr_tail: String },
    /// Nothing was heard of the driver for too long.
    Silent { for_ms: u64 },
    /// Somebody asked for its end.
    KillRequested,
    /// It was asked to end and did not within the grace period.
    KillOverdue,
}

/// What must happen outside because of a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell the executor to launch the current attempt.
    Launch { executor_id: String },
    /// Tell the executor to end the driver.
    KillDriver { executor_id: String, attempt: u32 },
    /// Cancel every query that the run registered.
    CancelQueries,
}

/// Bounds, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Attempts that may fail or fall silent before a supervised run is given up.
    pub failures_max: u32,
    /// Launches that may not come about before a run is given up.
    pub launches_max: u32,
}

/// A state's answer to an event.
#[derive(Debug)]
pub enum Step {
    /// Nothing changes.
    Ignore,
    /// The run changes but stays in its state.
    Stay(Vec<Effect>),
    /// The run goes over.
    Go { from: RunState, to: RunState, effects: Vec<Effect> },
}

/// A state as a type.
pub trait State {
    /// Its value in the store.
    const VALUE: RunState;

    /// Decides, and writes what changes into `run` (all but its `state`).
    fn on(run: &mut Run, event: &Event, at: At) -> Step;
}

/// A declared transition. Implemented in the file of the state that is left.
pub trait To<Target: State>: State {}

/// When and within which bounds.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Ms since the Unix epoch.
    pub now_ms: i64,
    /// See [`Limits`].
    pub limits: Limits,
}

/// The only way into another state.
fn go<From: To<Target>, Target: State>(effects: Vec<Effect>) -> Step {
    Step::Go { from: From::VALUE, to: Target::VALUE, effects }
}

/// Applies an event. Answers the changed run and what has to be done, or `None` when nothing changes.
#[must_use]
pub fn apply(run: &Run, event: &Event, at: At) -> Option<(Run, Vec<Effect>)> {
    let mut next = run.clone();
    let step = match run.state {
        RunState::Submitted => submitted::Submitted::on(&mut next, event, at),
        RunState::Queued => queued::Queued::on(&mut next, event, at),
        RunState::Running => running::Running::on(&mut next, event, at),
        RunState::Finished => finished::Finished::on(&mut next, event, at),
        RunState::Failed => failed::Failed::on(&mut next, event, at),
        RunState::Killed => killed::Killed::on(&mut next, event, at),
        RunState::Lost => lost::Lost::on(&mut next, event, at),
    };
    match step {
        Step::Ignore => None,
        Step::Stay(effects) => Some((next, effects)),
        Step::Go { from, to, effects } => {
            debug_assert_eq!(from, run.state, "a state made another state's transition");
            next.state = to;
            if to == RunState::Running && next.started_at_ms.is_none() {
                next.started_at_ms = Some(at.now_ms);
            }
            if to.is_terminal() {
                next.ended_at_ms = Some(at.now_ms);
            }
            Some((next, effects))
        }
    }
}

/// How a driver's unwanted end is named.
fn exit_error(code: Option<i32>, signal: Option<i32>, stderr_tail: &str) -> RunError {
    let how = match (code, signal) {
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(code), None) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    };
    let tail = stderr_tail.trim();
    let message = if tail.is_empty() {
        format!("the driver {how} without reporting an outcome")
    } else {
        format!("the driver {how} without reporting an outcome; its last lines:\n{tail}")
    };
    RunError { code: ErrorCode::RunFailed.as_str().to_owned(), message }
}

fn silent_error(for_ms: u64) -> RunError {
    RunError {
        code: ErrorCode::RunFailed.as_str().to_owned(),
        message: format!("nothing was heard of the driver for {:.1} s", Duration::from_millis(for_ms).as_secs_f64()),
    }
}

/// Notes a failure and clears the way for another launch, when the run is supervised and has not failed too often. Answers what has to
/// be done before; `None` when the run is to be given up.
fn again(run: &mut Run, error: RunError, at: At) -> Option<Vec<Effect>> {
    run.error = Some(error);
    run.failures += 1;
    let supervised = run.supervise && run.deploy_mode == DeployMode::Cluster;
    if !supervised || run.failures >= at.limits.failures_max {
        return None;
    }
    let effects = driver_kill(run);
    run.executor_id = None;
    run.placed_at_ms = None;
    Some(effects)
}

fn driver_kill(run: &Run) -> Vec<Effect> {
    let mut effects = vec![Effect::CancelQueries];
    if run.deploy_mode == DeployMode::Cluster
        && let Some(executor_id) = &run.executor_id
    {
        effects.push(Effect::KillDriver { executor_id: executor_id.clone(), attempt: run.attempt });
    }
    effects
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::run as test_run;
