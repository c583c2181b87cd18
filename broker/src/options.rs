//! What can be set about the broker, with its limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::log::LogLimits;

/// Options of one broker.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Address to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Host that clients are told to connect to; the listening address if `None`.
    pub advertised_host: Option<String>,
    /// Directory of all data. Locked while the broker runs.
    pub data_dir: PathBuf,
    /// Partitions of a topic created without a count.
    pub default_partitions: i32,
    /// Create a topic when a client first asks for it. Off: a mistyped name is an error.
    pub auto_create_topics: bool,
    /// Data is forced to disk this often, and at shutdown. What a killed *process* had acknowledged is safe anyway;
    /// what a crashed *machine* had acknowledged within the last interval is not.
    pub flush_interval: Duration,
    /// Force every batch to disk before it is acknowledged: survives a power cut, costs most of the speed.
    pub flush_each_append: bool,
    /// Segment size, largest batch, and default retention.
    pub log: LogLimits,
    /// How often retention is enforced.
    pub retention_check_interval: Duration,
    /// Connections served at once; further ones are closed at once.
    pub connections_max: usize,
    /// A larger request closes its connection.
    pub request_bytes_max: usize,
    /// Bytes of requests held in memory over all connections; readers wait beyond it.
    pub requests_in_memory_bytes_max: usize,
    /// Bytes of one fetch response, whatever the client asks for (one batch may exceed it).
    pub fetch_bytes_max: usize,
    /// Bytes of fetch responses held in memory over all connections.
    pub fetches_in_memory_bytes_max: usize,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// Time for the rest of a request to come, and for a response to be taken.
    pub io_timeout: Duration,
    /// Longest wait of a fetch, whatever the client asks for.
    pub fetch_wait_max: Duration,
    /// Topics.
    pub topics_max: usize,
    /// Partitions over all topics.
    pub partitions_max: usize,
    /// Consumer groups with members or offsets.
    pub groups_max: usize,
}

impl BrokerOptions {
    /// Defaults for data under `data_dir`.
    pub fn new(listen: SocketAddr, data_dir: PathBuf) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            listen,
            advertised_host: None,
            data_dir,
            default_partitions: 3,
            auto_create_topics: false,
            flush_interval: Duration::from_secs(1),
            flush_each_append: false,
            log: LogLimits {
                segment_bytes: 64 * MIB as u64,
                max_batch_bytes: 8 * MIB,
                retention: Some(Duration::from_secs(168 * 3600)),
                retention_bytes: None,
            },
            retention_check_interval: Duration::from_secs(60),
            connections_max: 1024,
            request_bytes_max: 64 * MIB,
            requests_in_memory_bytes_max: 256 * MIB,
            fetch_bytes_max: 32 * MIB,
            fetches_in_memory_bytes_max: 256 * MIB,
            idle_timeout: Duration::from_secs(600),
            io_timeout: Duration::from_secs(30),
            fetch_wait_max: Duration::from_secs(30),
            topics_max: 1000,
            partitions_max: 4000,
            groups_max: 10_000,
        }
    }
}
