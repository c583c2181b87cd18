//! The exact account of what was produced.

use serde::{Deserialize, Serialize};

use crate::options::Format;
use crate::topics::Topic;

/// What a record is; every record is of exactly one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Valid, event time within seconds before the ingestion time.
    OnTime,
    /// Valid, event time 5 to 50 minutes before the ingestion time: on time, but older than records before it.
    OutOfOrder,
    /// Valid, event time more than 1 h and less than 48 h before the ingestion time.
    Late,
    /// Valid, event time more than 48 h before the ingestion time.
    TooLate,
    /// An earlier valid record again, byte for byte.
    Duplicate,
    /// Fails structural validation.
    Malformed,
    /// Breaks a business rule.
    Invalid,
}

/// Counts of records by kind. `sent = on_time + late + duplicates + malformed + invalid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// All records.
    pub sent: u64,
    /// Valid records not older than 1 h when they came in, those out of order included.
    pub on_time: u64,
    /// Of `on_time`: minutes older than the records before them.
    pub out_of_order: u64,
    /// Valid records older than 1 h when they came in, those beyond 48 h included.
    pub late: u64,
    /// Of `late`: older than 48 h.
    pub too_late: u64,
    /// Exact repeats of valid records.
    pub duplicates: u64,
    /// Records that fail structural validation.
    pub malformed: u64,
    /// Records that break a business rule.
    pub invalid: u64,
    /// Keys and values, bytes before compression.
    pub bytes: u64,
    /// Sum of the values of purchases among `on_time` and `late`, in cents (user events).
    pub purchase_cents: i64,
}

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind, bytes: usize, purchase_cents: i64) {
        self.sent += 1;
        self.bytes += bytes as u64;
        self.purchase_cents += purchase_cents;
        match kind {
            Kind::OnTime => self.on_time += 1,
            Kind::OutOfOrder => {
                self.on_time += 1;
                self.out_of_order += 1;
            }
            Kind::Late => self.late += 1,
            Kind::TooLate => {
                self.late += 1;
                self.too_late += 1;
            }
            Kind::Duplicate => self.duplicates += 1,
            Kind::Malformed => self.malformed += 1,
            Kind::Invalid => self.invalid += 1,
        }
    }

    /// Records that a correct silver table has: valid, each once.
    pub fn valid(&self) -> u64 {
        self.on_time + self.late
    }
}

/// The account of one topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopicReport {
    /// The topic.
    pub topic: Topic,
    /// Records handed to the broker.
    #[serde(flatten)]
    pub counts: Counts,
    /// Records that the broker acknowledged.
    pub acked: u64,
    /// Wall-clock time until the last acknowledgement.
    pub seconds: f64,
}

/// The account of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProduceReport {
    /// By topic, in the order asked for.
    pub topics: Vec<TopicReport>,
    /// How values were written.
    pub format: Format,
    /// The seed.
    pub seed: u64,
    /// The base time used, microseconds since the epoch: with it and the seed the run can be repeated.
    pub base_time_us: i64,
    /// Wall-clock time of the run.
    pub seconds: f64,
    /// The run ended early because it was cancelled.
    pub cancelled: bool,
}

impl ProduceReport {
    /// Records over all topics.
    pub fn sent(&self) -> u64 {
        self.topics.iter().map(|t| t.counts.sent).sum()
    }

    /// A topic's account.
    pub fn topic(&self, topic: Topic) -> Option<&TopicReport> {
        self.topics.iter().find(|t| t.topic == topic)
    }
}

/// Live figures of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Per topic: records made so far, acknowledged so far, failed so far, bytes made so far.
    pub topics: Vec<TopicProgress>,
    /// Time since the start.
    pub seconds: f64,
}

/// Live figures of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicProgress {
    /// The topic.
    pub topic: Topic,
    /// Records handed to the Kafka client.
    pub sent: u64,
    /// Records acknowledged; `sent - acked - failed` are on their way.
    pub acked: u64,
    /// Records that were given up.
    pub failed: u64,
    /// Keys and values, bytes before compression.
    pub bytes: u64,
    /// How many there will be, if that is known.
    pub total: Option<u64>,
}
