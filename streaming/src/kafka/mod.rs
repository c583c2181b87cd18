//! Kafka's side: the only module that names rdkafka.
//!
//! `options` says how to reach the brokers, `metadata` what there is to read, `reader` reads exactly one range of one
//! partition, `group` tells a consumer group how far we are, for lag tools only. Reading belongs to no group: progress
//! is in the tables.

mod group;
mod metadata;
mod native;
mod options;
mod reader;
mod topic_ids;

#[cfg(test)]
pub(crate) mod test_broker;
#[cfg(test)]
mod tests;

pub use group::GroupCommitter;
pub use metadata::KafkaMetadata;
pub use options::KafkaOptions;
pub use reader::{KafkaRangeReader, RangeSink, RangeStats};
