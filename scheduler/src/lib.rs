//! The scheduler: Ballista's, guarded against its partial recovery ([`guard`]), with runs and their drivers ([`runs`]), the executors that
//! hold leases ([`executors`]), and REST with the web page ([`http`]).
//!
//! One process, two sockets: gRPC (Ballista's services and `chainalytics.v1` on one port) and HTTP.

pub mod ballista;
pub mod error;
pub mod executors;
pub mod guard;
pub mod http;
pub mod options;
pub mod runs;

mod clock;
mod scheduler;
mod server;

pub use ballista::EngineParts;
pub use error::SchedulerError;
pub use options::Options;
pub use scheduler::Scheduler;

#[cfg(test)]
mod tests;
