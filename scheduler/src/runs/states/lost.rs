//! `lost`: an end. Nothing that comes later changes it.

use super::{At, Event, State, Step};
use crate::runs::model::{Run, RunState};

pub struct Lost;

impl State for Lost {
    const VALUE: RunState = RunState::Lost;

    fn on(_run: &mut Run, _event: &Event, _at: At) -> Step {
        Step::Ignore
    }
}
