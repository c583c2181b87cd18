//! The log of one partition on disk, from the bytes of a batch up to the partition.

pub mod batch;
pub mod partition;
pub mod producers;
pub mod segment;

pub use batch::{BatchError, LEADER_EPOCH};
pub use partition::{AppendError, LogLimits, PartitionLog};
