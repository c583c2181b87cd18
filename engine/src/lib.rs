//! How DataFusion and Ballista are set up, the same way wherever a plan is made or run: functions, codecs, options, runtime, planners.
//!
//! The driver plans with [`Engine::planning_state`], the scheduler with [`Engine::session_builder`], executors decode and run with
//! [`Engine::physical_codec`], [`Engine::function_registry`] and [`Engine::runtime_env`]; `--master local[N]` does all three in one process
//! with [`Engine::local_state`].

pub mod codec;
mod date_part;
pub mod functions;
pub mod memtable;
pub mod options;
mod planner;
mod semi_join;
mod session;
mod uniform_leaves;

pub use codec::{ChainLogicalCodec, ChainPhysicalCodec};
pub use planner::ChainQueryPlanner;
pub use session::{Engine, SessionBuilder};
