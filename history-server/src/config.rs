//! From the configuration to [`HistoryOptions`], and from our errors to the product's.

use std::sync::Arc;

use chainalytics_common::{Config, Error, ErrorCode, Result, keys};
use tokio_util::sync::CancellationToken;

use crate::{HistoryError, HistoryOptions, serve};

/// [`serve`] with the `history.*` keys, until `shutdown` is cancelled.
///
/// Errors: `PortInUse`, `Config` (open to the network without protection), `Io`.
pub async fn run(config: Arc<Config>, shutdown: CancellationToken) -> Result<()> {
    Ok(serve(HistoryOptions::from_config(&config)?, shutdown).await?)
}

impl HistoryOptions {
    /// Reads the `history.*`, `event-log.*` and `security.*` keys; `scheduler.*` for the link to the live page.
    ///
    /// Errors: none today; a value that cannot be used is refused by the configuration itself.
    pub fn from_config(config: &Config) -> Result<Self> {
        let external_host = config.get(&keys::SCHEDULER_EXTERNAL_HOST);
        let scheduler_host = if external_host.is_empty() { config.get(&keys::SCHEDULER_BIND_HOST) } else { external_host };
        Ok(Self {
            bind_host: config.get(&keys::HISTORY_BIND_HOST),
            port: config.get(&keys::HISTORY_PORT),
            allow_insecure: config.get(&keys::SECURITY_ALLOW_INSECURE),
            event_log_dir: config.event_log_dir(),
            data_dir: config.data_dir(),
            scheduler_page_url: page_url(&scheduler_host, config.get(&keys::SCHEDULER_HTTP_PORT)),
            ..Self::default()
        })
    }
}

/// An address that stands for every interface is not one that a browser can open.
fn page_url(host: &str, port: u16) -> Option<String> {
    match host {
        "" | "0.0.0.0" | "::" | "[::]" => None,
        host if host.contains(':') && !host.starts_with('[') => Some(format!("http://[{host}]:{port}/")),
        host => Some(format!("http://{host}:{port}/")),
    }
}

impl From<HistoryError> for Error {
    fn from(error: HistoryError) -> Self {
        let code = match &error {
            HistoryError::PortInUse { .. } => ErrorCode::PortInUse,
            HistoryError::Insecure { .. } => ErrorCode::Config,
            HistoryError::Bind { .. } | HistoryError::Http(_) => ErrorCode::Io,
        };
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(code, format!("{error}{cause}")).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::page_url;

    #[test]
    fn only_addresses_that_a_browser_can_open_are_linked() {
        assert_eq!(page_url("127.0.0.1", 9090).as_deref(), Some("http://127.0.0.1:9090/"));
        assert_eq!(page_url("::1", 9090).as_deref(), Some("http://[::1]:9090/"));
        assert_eq!(page_url("0.0.0.0", 9090), None);
    }
}
