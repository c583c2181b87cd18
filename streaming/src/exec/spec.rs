use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use chainalytics_lakehouse::WriteSpec;

use crate::decode::ValueFormat;
use crate::kafka::KafkaOptions;
use crate::registry::RegistryOptions;
use crate::topics::RecordSchema;

/// What becomes of records that are no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// A row of the dead-letter table, with key, value and reason.
    #[default]
    DeadLetter,
    /// Counted by reason, not kept.
    Skip,
    /// The stream stops at the first one; nothing of its batch is committed.
    Fail,
}

/// What a record without a value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tombstones {
    /// A mistake like any other (see [`OnError`]).
    #[default]
    Reject,
    /// Expected (a compacted topic's deletions): counted, not kept.
    Skip,
}

/// One topic's way into its table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct TopicSink {
    /// Topic.
    pub topic: String,
    /// Format of its values.
    pub format: ValueFormat,
    /// Its records.
    pub schema: RecordSchema,
    /// Field with the event's time, if one is to be observed.
    pub event_time: Option<String>,
    /// What its records without a value mean.
    #[serde(default)]
    pub tombstones: Tombstones,
    /// Whether a writer's schema with new fields ends the batch, so that the table can be given columns for them first.
    #[serde(default)]
    pub evolve: bool,
    /// The bronze table, whose columns are the record's and the lineage's.
    pub write: WriteSpec,
}

/// Offsets by topic and partition, ascending.
pub type Settled = BTreeMap<String, BTreeMap<i32, Vec<i64>>>;

/// Everything that an executor must know to run its share of a batch. Serialises into the physical plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct IngestSpec {
    /// The brokers.
    pub kafka: KafkaOptions,
    /// The schema registry, if any topic needs one.
    pub registry: Option<RegistryOptions>,
    /// What becomes of records that are no rows.
    #[serde(default)]
    pub on_error: OnError,
    /// Topics of the batch.
    pub topics: Vec<TopicSink>,
    /// The dead-letter table.
    pub dead_letters: WriteSpec,
    /// Records that are dead letters already, of an attempt at this batch that came no further; they are passed over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settled: Settled,
    /// Batch, for the lineage column.
    pub batch_id: i64,
    /// Run, for the lineage column.
    pub run_id: String,
    /// Moment of the batch, microseconds since the epoch, for the lineage column.
    pub ingested_at_us: i64,
}
