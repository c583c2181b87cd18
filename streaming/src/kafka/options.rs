use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::{Deserialize, Serialize};

use chainalytics_common::{Config, Result, keys};

use crate::err;

/// Prefix of the keys that are handed to librdkafka.
const PREFIX: &str = "kafka.";

/// How to reach the brokers. Serialises into physical plans, so that executors need no configuration of their own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct KafkaOptions {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Client properties as librdkafka names them (`security.protocol`, `sasl.username`...).
    pub properties: BTreeMap<String, String>,
    /// Time for one request about metadata or watermarks, milliseconds.
    pub request_timeout_ms: u64,
    /// How long a reader waits for a partition that gives nothing, milliseconds: brokers restart within it.
    pub stall_timeout_ms: u64,
    /// Read-ahead of one reader, kilobytes.
    pub queue_kilobytes: u32,
}

/// Properties that decide correctness: nobody else may set them.
const RESERVED: [&str; 8] = [
    "auto.offset.reset",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "queued.max.messages.kbytes",
];

impl KafkaOptions {
    /// Options with defaults for everything but the servers.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            properties: BTreeMap::new(),
            request_timeout_ms: 10_000,
            stall_timeout_ms: 60_000,
            queue_kilobytes: 4 * 1024,
        }
    }

    /// Options that the configuration names: the brokers, the time-outs, and every other `kafka.*` key under librdkafka's
    /// own name (`kafka.security.protocol`, `kafka.sasl.password`...).
    ///
    /// # Errors
    /// `Config` for a property that would break the guarantees of reading.
    pub fn from_config(config: &Config) -> Result<Self> {
        let mut options = Self::new(config.get(&keys::KAFKA_BOOTSTRAP_SERVERS));
        options.request_timeout_ms = milliseconds(config.get(&keys::KAFKA_REQUEST_TIMEOUT));
        options.stall_timeout_ms = milliseconds(config.get(&keys::KAFKA_STALL_TIMEOUT));
        for (name, value) in config.with_prefix(PREFIX) {
            options = options.with_property(name.trim_start_matches(PREFIX), value)?;
        }
        Ok(options)
    }

    /// Adds a client property.
    ///
    /// # Errors
    /// `Config` for one that would break the guarantees of reading.
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if RESERVED.contains(&name.as_str()) {
            return Err(err::config(format!("kafka.{name} is decided by the stream and cannot be set")));
        }
        self.properties.insert(name, value.into());
        Ok(self)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(super) fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms)
    }

    /// Properties of every client.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "chainalytics")
            // Reconnect quickly: a broker that restarts is back within seconds.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            .set("allow.auto.create.topics", "false")
            .set("isolation.level", "read_committed")
            .set_log_level(RDKafkaLogLevel::Warning);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// Properties of a reader of about `rows` records: it reads ahead no further than it needs.
    pub(super) fn reader_config(&self, rows: u64) -> ClientConfig {
        let mut config = self.client_config();
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            // TCP and TLS have their own sums, and the broker checked the records when it took them.
            .set("check.crcs", "false")
            .set("queued.max.messages.kbytes", self.queue_kilobytes.to_string());
        // A fetched batch is held unpacked, with some hundred bytes of bookkeeping per record, until its last record was
        // taken: small fetches and a short queue keep a reader below 20 MB and cost no throughput.
        let read_ahead = rows.clamp(1_000, 10_000).to_string();
        for (name, value) in [
            ("fetch.wait.max.ms", "100"),
            ("fetch.error.backoff.ms", "100"),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.message.max.bytes", "1048576"),
            ("queued.min.messages", &read_ahead),
        ] {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        config
    }
}

impl fmt::Debug for KafkaOptions {
    // By hand: plans are printed, passwords must not be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_reach_librdkafka_and_passwords_stay_out_of_sight() {
        let conf = [
            ("kafka.bootstrap.servers", "a:1,b:2"),
            ("kafka.security.protocol", "sasl_ssl"),
            ("kafka.sasl.password", "hunter2"),
            ("streaming.kafka.stall-timeout", "3s"),
        ];
        let config = Config::with_data_dir(std::path::Path::new("/nowhere"), &conf).unwrap();
        let options = KafkaOptions::from_config(&config).unwrap();
        assert_eq!(options.bootstrap_servers, "a:1,b:2");
        assert_eq!(options.stall_timeout_ms, 3000);
        assert_eq!(options.client_config().get("security.protocol"), Some("sasl_ssl"));
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn what_decides_correctness_cannot_be_set() {
        for name in RESERVED {
            assert!(KafkaOptions::new("a:1").with_property(name, "x").is_err(), "{name}");
        }
    }
}
