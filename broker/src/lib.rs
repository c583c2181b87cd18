//! The embedded broker: one node that speaks the Kafka protocol and keeps its data in a directory.
//!
//! It exists so that the demo and the tests need no Java and no server of anyone else's. Clients see an ordinary Kafka
//! cluster of one broker: librdkafka 2.12, the Java client 3.9 and 4.x, and everything built on them.
//!
//! # What it keeps
//! * Record batches (format v2) exactly as the producer sent them, compressed or not; only base offset and leader epoch are
//!   written into them. Checksums are verified when a batch comes in.
//! * `topics/<name>/<partition>/<offset>.log`: segments, appended to and never changed. After `kill -9` the next start cuts
//!   off a half-written batch; everything acknowledged before is there. A *machine* that loses power may lose what was
//!   acknowledged within the last [`BrokerOptions::flush_interval`], unless [`BrokerOptions::flush_each_append`] is set.
//! * Committed offsets, producer ids, retention by time and size with a correct low watermark. Retention counts from
//!   the time of the append, not from the records' timestamps, so that old data that is replayed isn't removed at once.
//! * Idempotent producers: the last five batches of each producer and partition are known (rebuilt from the log at
//!   start), repeats are acknowledged without being stored, gaps are refused.
//!
//! # What it cannot do
//! * Transactions: refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which clients report as fatal.
//! * Replication, more than one node, compacted topics, quotas, TLS, SASL, ACLs. It trusts its clients: a frame made to
//!   harm can exhaust its memory. Keep it on the loopback address.
//! * The group protocol of KIP-848, share groups, fetch sessions, incremental configuration changes, record batches of
//!   before Kafka 0.11.
//! * Group membership doesn't survive a restart (members join again); committed offsets do.
//!
//! # The way of a request
//! [`connection`] reads a frame, [`api`] decodes and answers it, with the help of [`topics`] and [`log`] for data, and
//! of [`groups`] and [`offsets`] for consumer groups.

mod api;
mod broker;
mod config;
mod connection;
mod error;
mod groups;
mod log;
mod offsets;
mod options;
mod producer_ids;
mod topics;

pub use broker::Broker;
pub use config::run;
pub use error::BrokerError;
pub use log::LogLimits;
pub use options::BrokerOptions;

#[cfg(test)]
mod tests;
