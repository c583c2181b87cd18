//! The executor's part of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use chainalytics_common::{Config, Result, keys};

/// gRPC messages (plans, task definitions, shuffle blocks) up to this size.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

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

    pub(crate) fn from_config(config: &Config) -> Result<Self> {
        let _ = (config, MAX_MESSAGE_BYTES, &keys::CATALOG_NAME);
        Err(chainalytics_common::Error::new(chainalytics_common::ErrorCode::Config, "x"))
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

pub(crate) fn driver_args(config: &Config) -> Vec<String> {
    let _ = config;
    vec![]
}
