//! `killed`: an end. Nothing that comes later changes it.

use super::{At, Event, State, Step};
use crate::runs::model::{Run, RunState};

pub struct Killed;

impl State for Killed {
    const VALUE: RunState = RunState::Killed;

    fn on(_run: &mut Run, _event: &Event, _at: At) -> Step {
        Step::Ignore
    }
}
