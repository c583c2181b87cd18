//! The executor's part of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use chainalytics_common::{Config, Result, keys};
use chainalytics_engine::options::MAX_MESSAGE_BYTES;

/// How often old shuffle output is looked for.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Stable name over executor ids; empty = taken from the directory that is free.
    pub(crate) name: String,
    /// Root of executor directories at first, then this executor's own.
    pub(crate) dir: PathBuf,
    pub(crate) runs_dir: PathBuf,
    pub(crate) scheduler_url: String,
    pub(crate) bind_host: String,
    pub(crate) advertise_host: String,
    /// 0 = any free port.
    pub(crate) flight_port: u16,
    pub(crate) grpc_port: u16,
    pub(crate) health_port: Option<u16>,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) shuffle_ttl: Duration,
    pub(crate) clean_interval: Duration,
    pub(crate) max_drivers: usize,
    pub(crate) max_message_bytes: usize,
}

impl Settings {
    pub(crate) fn shuffle_dir(&self) -> PathBuf {
        self.dir.join("shuffle")
    }

    pub(crate) fn spill_dir(&self) -> PathBuf {
        self.dir.join("spill")
    }

    /// # Errors
    /// `Config` if a value cannot be used.
    pub(crate) fn from_config(config: &Config) -> Result<Self> {
        let data_dir = config.data_dir();
        let host = config.get(&keys::EXECUTOR_BIND_HOST);
        let advertise_host = config.get(&keys::EXECUTOR_EXTERNAL_HOST);
        let cores = config.get(&keys::EXECUTOR_CORES);
        let health_port = config.get(&keys::EXECUTOR_HEALTH_PORT);
        Ok(Self {
            name: config.get(&keys::EXECUTOR_NAME),
            dir: data_dir.join("executors"),
            runs_dir: data_dir.join("runs"),
            scheduler_url: http_url(&config.get(&keys::SCHEDULER_URL)),
            advertise_host: if advertise_host.is_empty() { host.clone() } else { advertise_host },
            bind_host: host,
            flight_port: config.get(&keys::EXECUTOR_PORT),
            grpc_port: config.get(&keys::EXECUTOR_GRPC_PORT),
            health_port: (health_port != 0).then_some(health_port),
            cores: if cores == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { cores },
            memory_bytes: config.get(&keys::EXECUTOR_MEMORY).as_u64(),
            heartbeat_interval: config.get(&keys::EXECUTOR_HEARTBEAT_INTERVAL),
            drain_timeout: config.get(&keys::EXECUTOR_DRAIN_TIMEOUT),
            shuffle_ttl: config.get(&keys::EXECUTOR_SHUFFLE_TTL),
            clean_interval: CLEAN_INTERVAL,
            max_drivers: config.get(&keys::EXECUTOR_MAX_DRIVERS),
            max_message_bytes: MAX_MESSAGE_BYTES,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(dir: PathBuf) -> Self {
        Self {
            name: String::new(),
            runs_dir: dir.join("runs"),
            dir,
            scheduler_url: "http://127.0.0.1:1".to_owned(),
            bind_host: "127.0.0.1".to_owned(),
            advertise_host: "127.0.0.1".to_owned(),
            flight_port: 0,
            grpc_port: 0,
            health_port: None,
            cores: 1,
            memory_bytes: 1 << 20,
            heartbeat_interval: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(1),
            shuffle_ttl: Duration::from_secs(60),
            clean_interval: Duration::from_secs(60),
            max_drivers: 1,
            max_message_bytes: MAX_MESSAGE_BYTES,
        }
    }
}

/// `chainalytics://host:port` as gRPC wants it.
fn http_url(url: &str) -> String {
    match url.strip_prefix("chainalytics://") {
        Some(rest) => format!("http://{rest}"),
        None if url.contains("://") => url.to_owned(),
        None => format!("http://{url}"),
    }
}
