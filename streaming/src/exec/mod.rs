//! A micro-batch on executors: an operator over a memory source whose rows are units of work (`units`), which reads,
//! decodes and writes them (`task`) and says what came of it (`report`). It commits nothing.

mod batches;
mod feed;
mod node;
mod report;
mod spec;
mod task;
mod units;

#[cfg(test)]
mod tests;

pub use node::KafkaToIcebergExec;
pub use report::{ConsumedUnit, NewerSchema, TaskFailure, TaskReport, WrittenFile, read_reports, report_schema};
pub use spec::{IngestSpec, OnError, Settled, Tombstones, TopicSink};
pub use units::{unit_schema, unit_source};
