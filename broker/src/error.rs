//! Why the broker doesn't run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Failures of starting and serving. What a client did wrong is answered on its connection and never stops the broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Another process holds the port.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Another broker runs on the same data.
    #[error("another broker uses the data directory {}", dir.display())]
    DataDirInUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The data cannot be read or written.
    #[error("cannot open the broker's data in {}", dir.display())]
    Data {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}
