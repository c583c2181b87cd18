//! `submitted`: known and kept, nothing decided. The scheduler accepts it at once, or after its own restart.

use super::killed::Killed;
use super::queued::Queued;
use super::{At, Event, State, Step, To, go};
use crate::runs::model::{DeployMode, Run, RunState};

pub struct Submitted;

impl To<Queued> for Submitted {}
impl To<Killed> for Submitted {}

impl State for Submitted {
    const VALUE: RunState = RunState::Submitted;

    fn on(run: &mut Run, event: &Event, at: At) -> Step {
        match event {
            Event::Accepted => {
                // A client's driver exists already: it is its own first attempt.
                if run.deploy_mode == DeployMode::Client {
                    run.attempt = 1;
                }
                go::<Self, Queued>(Vec::new())
            }
            Event::KillRequested => {
                run.kill_requested_at_ms = Some(at.now_ms);
                go::<Self, Killed>(Vec::new())
            }
            _ => Step::Ignore,
        }
    }
}
