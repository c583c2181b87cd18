//! The broker as configured for the platform.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use chainalytics_common::{Config, Error, ErrorCode, Result, keys};
use tokio_util::sync::CancellationToken;

use crate::{Broker, BrokerError, BrokerOptions};

/// Directory under the platform's data directory.
const DATA_SUBDIR: &str = "broker";

/// Runs the embedded broker on `broker.bind-host`:`broker.port` with its data under `<data-dir>/broker`, until cancelled.
///
/// # Errors
/// `Config`: the host cannot be resolved. `PortInUse`, `Io`: see [`BrokerError`].
pub async fn run(config: Arc<Config>, shutdown: CancellationToken) -> Result<()> {
    let broker = Broker::open(BrokerOptions::from_config(&config)?, shutdown).await?;
    Ok(broker.serve().await?)
}

impl BrokerOptions {
    /// Defaults with address and directory of the configuration.
    ///
    /// # Errors
    /// `Config`: `broker.bind-host` cannot be resolved.
    pub fn from_config(config: &Config) -> Result<Self> {
        let (host, port) = (config.get(&keys::BROKER_HOST), config.get(&keys::BROKER_PORT));
        Ok(Self::new(resolve(&host, port)?, config.data_dir().join(DATA_SUBDIR)))
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let key = keys::BROKER_HOST.name();
    let wrong = |why: String| Error::new(ErrorCode::Config, format!("{key} = {host:?} is no address: {why}"));
    let mut addresses = (host, port).to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    addresses.next().ok_or_else(|| wrong("it resolves to nothing".to_owned()))
}

impl From<BrokerError> for Error {
    fn from(error: BrokerError) -> Self {
        let (code, message) = match &error {
            BrokerError::Listen { source, .. } => {
                let taken = source.kind() == std::io::ErrorKind::AddrInUse;
                let code = if taken { ErrorCode::PortInUse } else { ErrorCode::Io };
                let (host, port) = (keys::BROKER_HOST.name(), keys::BROKER_PORT.name());
                (code, format!("{error} ({host}, {port}): {source}"))
            }
            BrokerError::DataDirInUse { .. } => (ErrorCode::Io, error.to_string()),
            BrokerError::Data { source, .. } => (ErrorCode::Io, format!("{error}: {source}")),
        };
        Self::new(code, message).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_key() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let dir = std::env::temp_dir().join(format!("broker-config-{}", uuid::Uuid::new_v4()));
        let config = Config::with_data_dir(&dir, &[("broker.port", &port)]).unwrap();
        let error = run(Arc::new(config), CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::PortInUse);
        assert!(error.message().contains("broker.port") && error.message().contains(&port), "{error}");
        assert!(!dir.exists());
    }
}
