//! What the scheduler needs to know, taken from the configuration once and checked before anything starts.

use crate::error::SchedulerError;
use crate::runs::manager::RunOptions;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone)]
pub struct Options {
    /// Changes with every start, so that executors and clients notice a restart.
    pub scheduler_id: String,
    /// Address that both servers listen on.
    pub bind_host: String,
    /// Name under which executors and clients reach this scheduler.
    pub external_host: String,
    /// gRPC: Ballista and ours.
    pub grpc_port: u16,
    /// REST and the web page.
    pub http_port: u16,
    /// Bind to other than loopback addresses without TLS and a token.
    pub allow_insecure: bool,
    /// Keeps the run store and driver logs.
    pub data_dir: PathBuf,
    /// Run logs lie below, query logs in [`Options::query_log_dir`].
    pub event_log_dir: PathBuf,
    /// Where Ballista writes its query logs.
    pub query_log_dir: PathBuf,
    /// Where the history server answers, to be linked from the page.
    pub history_url: Option<String>,
    /// An executor that is silent for longer is lost.
    pub lease_ttl: Duration,
    /// How often executors ping.
    pub ping_interval: Duration,
    /// Executors that `/readyz` waits for.
    pub min_ready_executors: usize,
    /// Queries fail when there was no executor for so long; zero is for ever.
    pub executor_wait_timeout: Duration,
    /// Largest gRPC message, in bytes.
    pub message_bytes_max: u32,
    /// Shuffle files of an ended query are kept for so long: its rows are fetched from them.
    pub job_data_kept: Duration,
    /// An ended query is shown live for so long; afterwards the history server has it.
    pub job_state_kept: Duration,
    /// Ballista's own limit for executor heartbeats, the net below the leases.
    pub ballista_executor_timeout: Duration,
    /// Longest wait for open calls when the scheduler ends.
    pub shutdown_timeout: Duration,
    /// Times and bounds of runs.
    pub runs: RunOptions,
}

impl Options {
    /// Refuses to open the scheduler to a network without protection.
    ///
    /// # Errors
    /// [`SchedulerError::Insecure`].
    pub fn check(&self) -> Result<(), SchedulerError> {
        if self.allow_insecure || is_loopback(&self.bind_host) {
            return Ok(());
        }
        Err(SchedulerError::Insecure { host: self.bind_host.clone(), key: "scheduler.bind-host" })
    }
}

/// Only addresses that no other machine reaches.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Small and quick, below `dir`, on ports that the system chooses.
#[cfg(test)]
pub(crate) fn test_options(dir: &std::path::Path) -> Options {
    Options {
        scheduler_id: "test".to_owned(),
        bind_host: "127.0.0.1".to_owned(),
        external_host: "127.0.0.1".to_owned(),
        grpc_port: 0,
        http_port: 0,
        allow_insecure: false,
        data_dir: dir.to_owned(),
        event_log_dir: dir.join("event-logs"),
        query_log_dir: dir.join("event-logs").join("queries"),
        history_url: None,
        lease_ttl: Duration::from_secs(4),
        ping_interval: Duration::from_secs(1),
        min_ready_executors: 1,
        executor_wait_timeout: Duration::from_secs(60),
        message_bytes_max: 16 << 20,
        job_data_kept: Duration::from_secs(60),
        job_state_kept: Duration::from_secs(60),
        ballista_executor_timeout: Duration::from_secs(60),
        shutdown_timeout: Duration::from_secs(5),
        runs: RunOptions {
            driver_timeout: Duration::from_secs(5),
            launch_timeout: Duration::from_secs(5),
            kill_grace: Duration::from_secs(2),
            report_interval: Duration::from_millis(200),
            runs_kept: 100,
            drivers_per_executor_max: 4,
            limits: crate::runs::states::Limits { failures_max: 3, launches_max: 5 },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_loopback_is_loopback() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
