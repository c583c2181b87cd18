//! The scheduler: Ballista's, guarded against its partial recovery ([`guard`]), with runs and their drivers ([`runs`]), the executors that
//! hold leases ([`executors`]), and REST with the web page ([`http`]).
//!
//! One process, two sockets: gRPC (Ballista's services and `chainalytics.v1` on one port) and HTTP. [`run`] is all that a program needs;
//! [`Scheduler`] is for tests and for who brings their own codecs.

pub mod ballista;
pub mod error;
pub mod executors;
pub mod guard;
pub mod http;
pub mod options;
pub mod runs;

mod clock;
mod config;
mod scheduler;
mod server;

pub use ballista::EngineParts;
pub use error::SchedulerError;
pub use options::Options;
pub use scheduler::Scheduler;

use chainalytics_common::{Config, Result};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// `PortInUse` and `Config` (an address that is open to the network without protection) before anything is served; later what made a part
/// of it fail.
pub async fn run(config: Arc<Config>, shutdown: CancellationToken) -> Result<()> {
    let options = Options::from_config(&config)?;
    let engine = EngineParts::from_config(config)?;
    let scheduler = Scheduler::start(options, engine, shutdown).await?;
    Ok(scheduler.wait().await?)
}

#[cfg(test)]
mod tests;
