//! What to produce: how much, how fast, and with which faults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ProducerError, Result};
use crate::topics::Topic;

/// How a record's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Avro if a schema registry is configured, else JSON.
    #[default]
    Auto,
    /// Plain JSON, one object.
    Json,
    /// Avro in the Confluent wire format: 0, schema id, binary record.
    Avro,
    /// JSON in the Confluent wire format: 0, schema id, JSON.
    JsonSchema,
}

impl Format {
    /// Replaces `Auto`.
    pub fn resolve(self, registry_configured: bool) -> Self {
        match (self, registry_configured) {
            (Self::Auto, true) => Self::Avro,
            (Self::Auto, false) => Self::Json,
            (format, _) => format,
        }
    }
}

impl std::str::FromStr for Format {
    type Err = ProducerError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "avro" => Ok(Self::Avro),
            "json-schema" => Ok(Self::JsonSchema),
            _ => Err(ProducerError::Option { option: "format", reason: format!("'{text}' is none of auto, json, avro, json-schema") }),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Avro => "avro",
            Self::JsonSchema => "json-schema",
        })
    }
}

/// Shares of records with a fault, each in 0..=1. Each record is of one kind, so their sum is at most 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Event time 1 to 48 h (24 h for posts) before the ingestion time.
    pub late: f64,
    /// Event time more than 48 h before the ingestion time, beyond the platform's watermark.
    pub too_late: f64,
    /// On time by the platform's rule (within 1 h), but minutes older than the records before it.
    pub out_of_order: f64,
    /// An earlier valid record again, byte for byte.
    pub duplicates: f64,
    /// Fails bronze's structural validation: cut off, wrong type, missing field, bad timestamp, garbage.
    pub malformed: f64,
    /// Well-formed but breaks a business rule: passes bronze, ends in `silver_quarantine`.
    pub invalid: f64,
}

impl Shares {
    /// A topic's usual shares (data-model.md: about 10 % of user events late; the rates of faults are ours).
    pub fn of(topic: Topic) -> Self {
        let common = Self { late: 0.0, too_late: 0.0, out_of_order: 0.02, duplicates: 0.02, malformed: 0.01, invalid: 0.005 };
        match topic {
            Topic::UserEvents => Self { late: 0.10, too_late: 0.002, out_of_order: 0.05, ..common },
            Topic::UserPosts => Self { late: 0.30, ..common },
            Topic::WeatherData => Self { late: 0.20, ..common },
            Topic::Products | Topic::ApiLogs => common,
        }
    }

    fn all(&self) -> [(&'static str, f64); 6] {
        [
            ("late", self.late),
            ("too-late", self.too_late),
            ("out-of-order", self.out_of_order),
            ("duplicates", self.duplicates),
            ("malformed", self.malformed),
            ("invalid", self.invalid),
        ]
    }
}

/// What to produce.
#[derive(Debug, Clone, PartialEq)]
pub struct ProduceOptions {
    /// Topics to produce to, side by side.
    pub topics: Vec<Topic>,
    /// Exact number of records sent to each topic, duplicates and malformed ones included. `None`: until `duration` is
    /// over or the run is cancelled.
    pub count: Option<u64>,
    /// Records per second and topic. `None`: as fast as the broker takes them.
    pub rate: Option<f64>,
    /// Time over which the rate rises from zero.
    pub ramp: Duration,
    /// End after this time, even if `count` is not reached.
    pub duration: Option<Duration>,
    /// Same seed, base time and options: same records.
    pub seed: u64,
    /// Microseconds since the epoch. Without a rate the records' ingestion times fill the [`ProduceOptions::span`] that
    /// ends here; with a rate they start here and go on at that rate. `None`: now, truncated to
    /// the second; with a rate the very moment at which sending begins.
    pub base_time_us: Option<i64>,
    /// The time that records sent at full speed are spread over, following the daily rhythm.
    pub span: Duration,
    /// Overrides the topic's share of late records.
    pub late: Option<f64>,
    /// Overrides the share of records beyond the watermark (user events only).
    pub too_late: Option<f64>,
    /// Overrides the topic's share of records out of order.
    pub out_of_order: Option<f64>,
    /// Overrides the topic's share of repeated records.
    pub duplicates: Option<f64>,
    /// Overrides the topic's share of malformed records.
    pub malformed: Option<f64>,
    /// Overrides the topic's share of records that break a business rule.
    pub invalid: Option<f64>,
    /// How values are written.
    pub format: Format,
    /// Partitions of a topic that has to be created.
    pub partitions: i32,
    /// Number of users that events and posts come from.
    pub users: u32,
    /// Number of products in the catalogue.
    pub products: u32,
}

impl Default for ProduceOptions {
    fn default() -> Self {
        Self {
            topics: vec![Topic::UserEvents],
            count: Some(100_000),
            rate: None,
            ramp: Duration::ZERO,
            duration: None,
            seed: 42,
            base_time_us: None,
            span: Duration::from_secs(24 * 3600),
            late: None,
            too_late: None,
            out_of_order: None,
            duplicates: None,
            malformed: None,
            invalid: None,
            format: Format::Auto,
            partitions: 3,
            users: 20_000,
            products: 2_000,
        }
    }
}

impl ProduceOptions {
    /// The shares that hold for a topic.
    pub fn shares(&self, topic: Topic) -> Shares {
        let usual = Shares::of(topic);
        let mut shares = Shares {
            late: self.late.unwrap_or(usual.late),
            too_late: self.too_late.unwrap_or(usual.too_late),
            out_of_order: self.out_of_order.unwrap_or(usual.out_of_order),
            duplicates: self.duplicates.unwrap_or(usual.duplicates),
            malformed: self.malformed.unwrap_or(usual.malformed),
            invalid: self.invalid.unwrap_or(usual.invalid),
        };
        // the other topics' delays have an upper bound of 24 or 48 h (data-model.md)
        if topic != Topic::UserEvents {
            shares.too_late = 0.0;
        }
        shares
    }

    /// Checks everything that can be wrong.
    ///
    /// # Errors
    /// [`ProducerError::Option`] with the option's name.
    pub fn validate(&self) -> Result<()> {
        let wrong = |option, reason: &str| Err(ProducerError::Option { option, reason: reason.to_owned() });
        if self.topics.is_empty() {
            return wrong("topics", "name at least one topic");
        }
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return wrong("rate", "must be a positive number of records per second");
        }
        if self.count.is_none() && self.rate.is_none() && self.duration.is_none() {
            return wrong("count", "give a count, a duration or a rate");
        }
        if self.partitions < 1 {
            return wrong("partitions", "must be at least 1");
        }
        if self.users == 0 || self.products == 0 {
            return wrong("users", "users and products must be at least 1");
        }
        if self.span < Duration::from_secs(1) {
            return wrong("span", "must be at least a second");
        }
        for topic in &self.topics {
            let shares = self.shares(*topic);
            for (option, share) in shares.all() {
                if !(0.0..=1.0).contains(&share) {
                    return Err(ProducerError::Option { option, reason: format!("{share} is not in 0..=1") });
                }
            }
            let total: f64 = shares.all().iter().map(|(_, share)| share).sum();
            if total > 1.0 + 1e-9 {
                let reason = format!("the shares of late, duplicate, malformed ... records add up to {total:.3} > 1");
                return Err(ProducerError::Option { option: "late", reason });
            }
        }
        Ok(())
    }
}
