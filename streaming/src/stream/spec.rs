use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chainalytics_common::{Config, Error, Result, keys};
use chainalytics_lakehouse::TableIdent;

use super::pattern::TopicPattern;
use crate::batch::{BatchLimits, PartitionEnds};
use crate::decode::ValueFormat;
use crate::err;
use crate::exec::{OnError, Tombstones};
use crate::kafka::KafkaOptions;
use crate::registry::RegistryOptions;
use crate::topics::{DEAD_LETTERS_TABLE, RecordSchema, TopicDefinition};

/// When batches run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// One after another, starts this far apart; a batch that takes longer is followed at once.
    Interval(Duration),
    /// Batches until everything that was there at the start is in the tables.
    AvailableNow,
    /// One batch.
    Once,
}

impl Trigger {
    /// The configuration's interval (`streaming.trigger.interval`).
    pub fn from_config(config: &Config) -> Self {
        Trigger::Interval(config.get(&keys::STREAMING_TRIGGER_INTERVAL))
    }
}

impl FromStr for Trigger {
    type Err = Error;

    /// `available-now`, `once`, or an interval in seconds, milliseconds or minutes (`30s`, `500ms`, `2m`).
    fn from_str(text: &str) -> Result<Self> {
        let unreadable = || err::invalid(format!("trigger '{text}': expected available-now, once, or an interval such as 30s or 500ms"));
        match text {
            "available-now" | "availableNow" => return Ok(Trigger::AvailableNow),
            "once" => return Ok(Trigger::Once),
            _ => {}
        }
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| unreadable())?;
        match unit.trim() {
            "ms" => Ok(Trigger::Interval(Duration::from_millis(number))),
            "" | "s" => Ok(Trigger::Interval(Duration::from_secs(number))),
            "m" | "min" => Ok(Trigger::Interval(Duration::from_secs(number.saturating_mul(60)))),
            _ => Err(unreadable()),
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Interval(every) if every.subsec_millis() == 0 => write!(f, "{}s", every.as_secs()),
            Trigger::Interval(every) => write!(f, "{}ms", every.as_millis()),
            Trigger::AvailableNow => f.write_str("available-now"),
            Trigger::Once => f.write_str("once"),
        }
    }
}

/// Where a table that has no progress yet starts. One with progress goes on from it, whatever this says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPolicy {
    /// At the first record that the broker has.
    Earliest,
    /// Behind the last one.
    Latest,
    /// At the first record not older than this moment, milliseconds since the epoch.
    Timestamp(i64),
    /// At these offsets, by topic and partition; [`EARLIEST`] and [`LATEST`] as Spark has them. Partitions and topics that
    /// are not named start at the first record.
    Offsets(BTreeMap<String, PartitionEnds>),
}

/// In place of an offset: the first record.
pub const EARLIEST: i64 = -2;
/// In place of an offset: behind the last record.
pub const LATEST: i64 = -1;

impl FromStr for StartPolicy {
    type Err = Error;

    /// `earliest`, `latest`, RFC 3339 text, milliseconds since the epoch, or Spark's JSON `{"topic":{"0":23,"1":-2}}`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "earliest" => return Ok(StartPolicy::Earliest),
            "latest" => return Ok(StartPolicy::Latest),
            _ => {}
        }
        if text.trim_start().starts_with('{') {
            let offsets: BTreeMap<String, PartitionEnds> = serde_json::from_str(text)
                .map_err(|e| err::invalid(format!("start: expected {{\"topic\":{{\"partition\":offset}}}} (-2 earliest, -1 latest): {e}")))?;
            if let Some((topic, offset)) = offsets.iter().find_map(|(topic, ends)| Some((topic, ends.values().find(|end| **end < EARLIEST)?))) {
                return Err(err::invalid(format!("start: {offset} of topic '{topic}' is no offset (-2 earliest, -1 latest)")));
            }
            return Ok(StartPolicy::Offsets(offsets));
        }
        if let Ok(milliseconds) = text.parse::<i64>() {
            return Ok(StartPolicy::Timestamp(milliseconds));
        }
        crate::decode::parse_timestamp_us(text).map(|us| StartPolicy::Timestamp(us.div_euclid(1000))).ok_or_else(|| {
            err::invalid(format!("start '{text}': expected earliest, latest, a timestamp, epoch milliseconds, or {{\"topic\":{{\"0\":23}}}}"))
        })
    }
}

/// One topic of a query and the table it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSubscription {
    /// Topic.
    pub topic: String,
    /// Its bronze table, which must exist (see `topics::bronze_schema`). Several topics may share one.
    pub table: TableIdent,
    /// Format of the values.
    pub format: ValueFormat,
    /// The records.
    pub schema: RecordSchema,
    /// Field with the event's time, observed for the progress.
    pub event_time: Option<String>,
    /// What records without a value mean.
    pub tombstones: Tombstones,
}

impl TopicSubscription {
    /// Subscription of a defined topic, into the table of the definition's name.
    pub fn new(definition: &TopicDefinition, namespace: &str, format: ValueFormat) -> Self {
        Self {
            topic: definition.topic.clone(),
            table: TableIdent::new(namespace, definition.table.clone()),
            format,
            schema: definition.schema.clone(),
            event_time: Some(definition.event_time.clone()),
            tombstones: Tombstones::default(),
        }
    }
}

/// What a writer's schema with new fields does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemaEvolution {
    /// Nothing: the fields are ignored (and named in the log).
    #[default]
    None,
    /// The table gets optional columns for them before the first such record is read.
    AddColumns,
}

impl FromStr for SchemaEvolution {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "add-columns" => Ok(Self::AddColumns),
            _ => Err(err::invalid(format!("schema evolution '{text}': expected none or add-columns"))),
        }
    }
}

/// A streaming query.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Name for progress and logs.
    pub name: String,
    /// Run on whose behalf it commits.
    pub run_id: String,
    /// Topics; at least one if there is no pattern.
    pub topics: Vec<TopicSubscription>,
    /// More topics, by their names: those there are and those that appear later.
    pub pattern: Option<TopicPattern>,
    /// The dead-letter table, which must exist (see `topics::dead_letters_schema`).
    pub dead_letters: TableIdent,
    /// The brokers.
    pub kafka: KafkaOptions,
    /// The schema registry; needed for Avro.
    pub registry: Option<RegistryOptions>,
    /// Where fresh tables start.
    pub start: StartPolicy,
    /// What one batch may take.
    pub limits: BatchLimits,
    /// How long a batch should take: it gets fewer rows than the limits allow if the last ones took longer. Zero: as many
    /// as the limits allow.
    pub batch_target: Duration,
    /// What becomes of records that are no rows.
    pub on_error: OnError,
    /// What new fields of the writers' schemas do.
    pub evolution: SchemaEvolution,
    /// Tasks of a batch at most: the cores to use.
    pub parallelism: usize,
    /// Log positions below which a batch is not divided further.
    pub unit_len_min: u64,
    /// Group to which the offsets are told after each commit, for lag tools only.
    pub consumer_group: Option<String>,
    /// How far the watermark of the progress lies behind the latest event time.
    pub watermark_delay: Duration,
    /// How long brokers, registry or catalog may be away in mid-stream before the query fails; `None`: for ever.
    pub outage_max: Option<Duration>,
}

impl StreamSpec {
    /// A query with defaults for everything that can have one.
    pub fn new(
        name: impl Into<String>,
        run_id: impl Into<String>,
        kafka: KafkaOptions,
        topics: Vec<TopicSubscription>,
        dead_letters: TableIdent,
    ) -> Self {
        Self {
            name: name.into(),
            run_id: run_id.into(),
            topics,
            pattern: None,
            dead_letters,
            kafka,
            registry: None,
            start: StartPolicy::Earliest,
            limits: BatchLimits { rows_max: 2_000_000, bytes_max: 1 << 30, fail_on_data_loss: true },
            batch_target: Duration::from_secs(30),
            on_error: OnError::default(),
            evolution: SchemaEvolution::default(),
            parallelism: 2,
            unit_len_min: 20_000,
            consumer_group: None,
            watermark_delay: Duration::from_secs(48 * 3600),
            outage_max: Some(Duration::from_secs(900)),
        }
    }

    /// A query with the configuration's brokers, registry, limits and time-outs (`kafka.*`, `schema.registry.*`,
    /// `streaming.*`, `catalog.namespace`), into the platform's dead-letter table.
    ///
    /// # Errors
    /// `Config`.
    pub fn from_config(config: &Config, name: impl Into<String>, run_id: impl Into<String>, topics: Vec<TopicSubscription>) -> Result<Self> {
        let namespace: String = config.get(&keys::CATALOG_NAMESPACE);
        let dead_letters = TableIdent::new(&namespace, DEAD_LETTERS_TABLE);
        let mut spec = Self::new(name, run_id, KafkaOptions::from_config(config)?, topics, dead_letters);
        spec.registry = RegistryOptions::from_config(config);
        spec.limits = BatchLimits {
            rows_max: config.get(&keys::STREAMING_MAX_ROWS),
            bytes_max: config.get(&keys::STREAMING_MAX_BYTES).as_u64(),
            fail_on_data_loss: config.get(&keys::STREAMING_FAIL_ON_DATA_LOSS),
        };
        spec.batch_target = config.get(&keys::STREAMING_BATCH_TARGET);
        spec.parallelism = config.get(&keys::STREAMING_PARALLELISM);
        let group: String = config.get(&keys::STREAMING_CONSUMER_GROUP);
        spec.consumer_group = (!group.is_empty()).then_some(group);
        let outage_max: Duration = config.get(&keys::STREAMING_OUTAGE_MAX);
        spec.outage_max = (!outage_max.is_zero()).then_some(outage_max);
        Ok(spec)
    }

    /// # Errors
    /// `InvalidArgument` for a query that cannot work.
    pub(super) fn check(&self) -> Result<()> {
        if self.topics.is_empty() && self.pattern.is_none() {
            return Err(err::invalid("a stream needs at least one topic"));
        }
        for (position, topic) in self.topics.iter().enumerate() {
            if self.topics[..position].iter().any(|other| other.topic == topic.topic) {
                return Err(err::invalid(format!("topic '{}' is named twice", topic.topic)));
            }
            self.check_topic(topic)?;
        }
        Ok(())
    }

    /// # Errors
    /// `InvalidArgument` for a subscription that cannot work.
    pub(super) fn check_topic(&self, topic: &TopicSubscription) -> Result<()> {
        if topic.table == self.dead_letters {
            return Err(err::invalid(format!("topic '{}' cannot go to the dead-letter table", topic.topic)));
        }
        if topic.format == ValueFormat::Avro && self.registry.is_none() {
            return Err(err::config(format!("topic '{}' has registered schemas and needs schema.registry.url", topic.topic)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn triggers_read_as_they_are_written() {
        for (text, trigger) in [
            ("30s", Trigger::Interval(Duration::from_secs(30))),
            ("500ms", Trigger::Interval(Duration::from_millis(500))),
            ("available-now", Trigger::AvailableNow),
            ("once", Trigger::Once),
        ] {
            assert_eq!(text.parse::<Trigger>().unwrap(), trigger);
            assert_eq!(trigger.to_string(), text);
        }
        assert_eq!("2m".parse::<Trigger>().unwrap(), Trigger::Interval(Duration::from_secs(120)));
        for text in ["", "s", "soon", "3 fortnights", "-1s"] {
            assert!(text.parse::<Trigger>().is_err(), "{text}");
        }
    }

    #[test]
    fn starts_read() {
        assert_eq!("latest".parse::<StartPolicy>().unwrap(), StartPolicy::Latest);
        assert_eq!("1700000000000".parse::<StartPolicy>().unwrap(), StartPolicy::Timestamp(1_700_000_000_000));
        assert_eq!("1970-01-01T00:00:01Z".parse::<StartPolicy>().unwrap(), StartPolicy::Timestamp(1000));
        let StartPolicy::Offsets(offsets) = r#"{"a":{"0":23,"1":-2}}"#.parse().unwrap() else { unreachable!() };
        assert_eq!(offsets["a"], PartitionEnds::from([(0, 23), (1, EARLIEST)]));
        for text in ["soon", r#"{"a":5}"#, r#"{"a":{"0":-3}}"#, "{"] {
            assert!(text.parse::<StartPolicy>().is_err(), "{text}");
        }
    }
}
