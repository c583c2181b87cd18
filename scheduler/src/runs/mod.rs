//! Runs: submitted executions of jobs, their drivers and their queries.
//!
//! ```text
//! RunService (service) ─┐                        ┌─> store (SQLite)
//! executor reports ─────┼─> Runs: states::apply ─┼─> run log
//! tick (silence, kill) ─┘        (pure)          └─> effects: launch, kill, cancel queries
//! ```

pub mod chronicle;
pub mod journal;
pub mod logs;
pub mod manager;
pub mod model;
pub mod placement;
mod prune;
pub mod redact;
pub mod service;
pub mod states;
pub mod store;
mod supervise;
