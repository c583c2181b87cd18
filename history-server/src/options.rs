//! What the history server needs to know, taken from the configuration once and checked before anything starts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::HistoryError;

#[derive(Debug, Clone)]
pub struct HistoryOptions {
    pub bind_host: String,
    /// 18080 by default; 0 picks a free one (tests).
    pub port: u16,
    /// Bind to other than loopback addresses without TLS and a token.
    pub allow_insecure: bool,
    /// Holds `runs/` and `queries/`. May not exist yet.
    pub event_log_dir: PathBuf,
    /// Driver logs lie in `<data_dir>/runs/<run_id>/driver.log`.
    pub data_dir: PathBuf,
    /// Time between two looks into the log directory.
    pub scan_interval: Duration,
    /// Most runs and most queries in the index; the newest are kept. An entry takes about 1 KiB.
    pub entries_max: usize,
    /// Replayed runs and queries kept in memory, each.
    pub details_cached: usize,
    /// Where the live scheduler's page answers, to be linked.
    pub scheduler_page_url: Option<String>,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self {
            bind_host: "127.0.0.1".to_owned(),
            port: 18080,
            allow_insecure: false,
            event_log_dir: PathBuf::from("events"),
            data_dir: PathBuf::from("."),
            scan_interval: Duration::from_secs(5),
            entries_max: 100_000,
            details_cached: 32,
            scheduler_page_url: None,
        }
    }
}

impl HistoryOptions {
    /// Refuses to open the server to a network without protection: [`HistoryError::Insecure`].
    pub fn check(&self) -> Result<(), HistoryError> {
        let host = self.bind_host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.allow_insecure || loopback {
            return Ok(());
        }
        Err(HistoryError::Insecure { host: self.bind_host.clone(), key: "history.bind-host" })
    }
}
