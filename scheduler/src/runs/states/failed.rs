//! `failed`: an end. Nothing that comes later changes it.

use super::{At, Event, State, Step};
use crate::runs::model::{Run, RunState};

pub struct Failed;

impl State for Failed {
    const VALUE: RunState = RunState::Failed;

    fn on(_run: &mut Run, _event: &Event, _at: At) -> Step {
        Step::Ignore
    }
}
