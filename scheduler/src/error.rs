//! What keeps a scheduler from starting or ends it.

use crate::runs::manager::RunsError;
use crate::runs::store::StoreError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// Somebody listens there already.
    #[error("port {port} on {host} is in use; stop whoever listens there or set another port with the key {key}")]
    PortInUse {
        /// Address asked for.
        host: String,
        /// Port asked for.
        port: u16,
        /// The key that sets it.
        key: &'static str,
    },
    /// The socket cannot be had for another reason.
    #[error("cannot listen on {host}:{port} (key {key}): {source}")]
    Bind {
        /// Address asked for.
        host: String,
        /// Port asked for.
        port: u16,
        /// The key that sets it.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Open to the network without protection.
    #[error(
        "{key} = {host} would open the scheduler to the network without TLS and a token; bind to a loopback address, or set \
         security.allow-insecure = true if the network itself is trusted"
    )]
    Insecure {
        /// Address asked for.
        host: String,
        /// The key that sets it.
        key: &'static str,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {path}: {source}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Ballista would not start.
    #[error("Ballista's scheduler: {0}")]
    Ballista(#[from] ballista_core::error::BallistaError),
    /// The gRPC server ended.
    #[error("gRPC server: {0}")]
    Grpc(#[source] tonic::transport::Error),
    /// The HTTP server ended.
    #[error("HTTP server: {0}")]
    Http(#[source] std::io::Error),
    /// The run store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run log.
    #[error(transparent)]
    EventLog(#[from] chainalytics_event_log::LogError),
    /// Runs could not be taken up.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// A task of ours panicked.
    #[error("a background task ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
}
