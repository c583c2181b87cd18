//! `finished`: an end. Nothing that comes later changes it.

use super::{At, Event, State, Step};
use crate::runs::model::{Run, RunState};

pub struct Finished;

impl State for Finished {
    const VALUE: RunState = RunState::Finished;

    fn on(_run: &mut Run, _event: &Event, _at: At) -> Step {
        Step::Ignore
    }
}
