//! A cluster of real processes on this machine: `plan` says which processes with which ports, `start` starts them and waits, `state`
//! records them, `status` and `stop` find exactly the recorded ones again.

pub mod plan;
pub mod proc;
pub mod ready;
pub mod spawn;
pub mod start;
pub mod state;
pub mod status;
pub mod stop;
