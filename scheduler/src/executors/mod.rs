//! Executors as the scheduler sees them: who holds a lease, what they report, and the commands on their way to them.

pub mod directory;
pub mod service;
