//! From the configuration to [`Options`], and from our errors to the product's.

use crate::ballista::EngineParts;
use crate::error::SchedulerError;
use crate::options::Options;
use crate::runs::manager::RunOptions;
use crate::runs::states::Limits;
use chainalytics_common::{Config, Error, ErrorCode, Result, keys};
use chainalytics_engine::Engine;
use chainalytics_event_log::LogPaths;
use std::sync::Arc;
use std::time::Duration;

/// Launches that may not come about before a run is given up.
const LAUNCHES_MAX: u32 = 10;
/// Between asking a driver to end and giving it up.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// An executor that has not started a driver for longer is not going to.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for open calls when the scheduler ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Ballista's own limit for executor heartbeats, the net below the leases.
const BALLISTA_EXECUTOR_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest gRPC message, in bytes: plans with rows in them, long lists of partitions.
const MESSAGE_BYTES_MAX: u32 = 64 << 20;

impl Options {
    /// Reads the `scheduler.*`, `event-log.*` and `security.*` keys.
    ///
    /// # Errors
    /// `Config` for values that cannot be used together.
    pub fn from_config(config: &Config) -> Result<Self> {
        let bind_host = config.get(&keys::SCHEDULER_BIND_HOST);
        let external_host = config.get(&keys::SCHEDULER_EXTERNAL_HOST);
        let lease_ttl = config.get(&keys::SCHEDULER_LEASE_TTL);
        let ping_interval = config.get(&keys::SCHEDULER_PING_INTERVAL);
        if ping_interval.is_zero() || ping_interval * 2 > lease_ttl {
            let message = format!("scheduler.lease-ttl ({lease_ttl:?}) must be at least twice scheduler.ping-interval ({ping_interval:?})");
            return Err(Error::new(ErrorCode::Config, message));
        }
        let event_log_dir = config.event_log_dir();
        let history_url = config.get(&keys::HISTORY_URL);
        Ok(Self {
            scheduler_id: format!("scheduler-{}", uuid::Uuid::new_v4()),
            external_host: if external_host.is_empty() { reachable(&bind_host) } else { external_host },
            bind_host,
            grpc_port: config.get(&keys::SCHEDULER_PORT),
            http_port: config.get(&keys::SCHEDULER_HTTP_PORT),
            allow_insecure: config.get(&keys::SECURITY_ALLOW_INSECURE),
            data_dir: config.data_dir(),
            query_log_dir: LogPaths::new(&event_log_dir).queries_dir(),
            event_log_dir,
            history_url: (!history_url.is_empty()).then_some(history_url),
            lease_ttl,
            ping_interval,
            min_ready_executors: config.get(&keys::SCHEDULER_MIN_EXECUTORS),
            executor_wait_timeout: config.get(&keys::SCHEDULER_EXECUTOR_WAIT_TIMEOUT),
            message_bytes_max: MESSAGE_BYTES_MAX,
            job_data_kept: config.get(&keys::SCHEDULER_JOB_DATA_TTL),
            job_state_kept: config.get(&keys::SCHEDULER_JOB_STATE_TTL),
            ballista_executor_timeout: BALLISTA_EXECUTOR_TIMEOUT,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            runs: RunOptions {
                driver_timeout: config.get(&keys::SCHEDULER_DRIVER_TIMEOUT),
                launch_timeout: LAUNCH_TIMEOUT,
                kill_grace: KILL_GRACE,
                report_interval: config.get(&keys::SCHEDULER_REPORT_INTERVAL),
                runs_kept: config.get(&keys::SCHEDULER_RUNS_KEPT),
                drivers_per_executor_max: config.get(&keys::EXECUTOR_MAX_DRIVERS),
                limits: Limits { failures_max: config.get(&keys::SCHEDULER_SUPERVISE_MAX_ATTEMPTS), launches_max: LAUNCHES_MAX },
            },
        })
    }
}

impl EngineParts {
    /// Codecs and sessions of the engine.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn from_config(config: Arc<Config>) -> Result<Self> {
        let engine = Engine::new(config)?;
        Ok(Self {
            session_builder: engine.session_builder()?,
            config_producer: engine.config_producer(),
            logical_codec: engine.logical_codec(),
            physical_codec: engine.physical_codec(),
        })
    }
}

/// Under which name others reach an address to bind to.
fn reachable(bind_host: &str) -> String {
    match bind_host {
        "0.0.0.0" | "::" | "[::]" => std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned()),
        host => host.to_owned(),
    }
}

impl From<SchedulerError> for Error {
    fn from(error: SchedulerError) -> Self {
        let code = match &error {
            SchedulerError::PortInUse { .. } => ErrorCode::PortInUse,
            SchedulerError::Insecure { .. } => ErrorCode::Config,
            SchedulerError::Bind { .. } | SchedulerError::Directory { .. } | SchedulerError::Http(_) => ErrorCode::Io,
            SchedulerError::Ballista(_)
            | SchedulerError::Grpc(_)
            | SchedulerError::Store(_)
            | SchedulerError::EventLog(_)
            | SchedulerError::Runs(_)
            | SchedulerError::Task(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string()).with_source(error)
    }
}
