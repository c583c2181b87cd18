//! The pure core of a micro-batch: which offsets it covers, how they are cut into units of work, and whether its commit
//! is allowed. Functions of values only; Kafka, the catalog and clocks stay outside (`stream` brings them together).

mod absent;
mod adapt;
mod decide;
mod offsets;
mod plan;
mod progress;
mod split;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;

pub use absent::{ABSENT_KEY, ABSENT_PROPERTY, AbsentOffsets, BATCH_TIME_KEY, CommittedRange, chain_of, merge_absent};
pub use adapt::BatchPace;
pub use decide::{Basis, BatchDecision, decide};
pub use offsets::{BatchOffsets, EndOffsets, OffsetRange, PartitionEnds, PartitionRanges};
pub use plan::{BatchLimits, BatchPlan, PlanError, TopicPlan, TopicState, Watermarks, plan_batch};
pub use progress::{
    OFFSETS_KEY, OFFSETS_PROPERTY, Progress, ProgressError, Standing, TOPIC_IDS_PROPERTY, merge_property, merge_topic_id, progress_of, topic_id_of,
};
pub use split::{Unit, split_units};
