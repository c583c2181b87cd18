//! The generator: a pure function of topic, options and seed, without Kafka.

use chrono::Utc;

use crate::encode::{Encoder, Fault};
use crate::error::Result;
use crate::options::{Format, ProduceOptions, Shares};
use crate::report::{Counts, Kind};
use crate::rng::Chance;
use crate::row::{Row, Value};
use crate::time::{HOUR_US, MINUTE_US, SECOND_US, Timeline};
use crate::topics::{IdSource, Slot, Source, Topic};

/// Valid records kept to be repeated.
const RECENT_MAX: usize = 512;
/// Used for the schema id when values are framed without a registry (tests, benches).
const UNREGISTERED_SCHEMA_ID: u32 = 1;
/// A late record is later than the limit of "on time" by more than what a topic's own rounding of its event time adds.
const MARGIN_US: i64 = 3 * MINUTE_US;

/// A record of [`generate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The Kafka key, as text.
    pub key: Vec<u8>,
    /// The encoded value.
    pub value: Vec<u8>,
    /// Kafka timestamp: when the record comes in, ms since the epoch.
    pub timestamp_ms: i64,
    /// What the record is.
    pub kind: Kind,
}

/// A record of [`Generator::next_record`], in the generator's own buffers.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// The Kafka key, as text.
    pub key: &'a [u8],
    /// The encoded value.
    pub value: &'a [u8],
    /// Kafka timestamp: when the record comes in, ms since the epoch.
    pub timestamp_ms: i64,
    /// What the record is.
    pub kind: Kind,
}

/// All records of a topic, in order. The same options with the same seed and base time give the same records.
///
/// `Format::Auto` means JSON here; framed formats carry schema id 1.
///
/// # Errors
/// Invalid options.
pub fn generate(topic: Topic, options: &ProduceOptions) -> Result<impl Iterator<Item = Record> + use<>> {
    options.validate()?;
    let mut generator = Generator::new(topic, options, options.format.resolve(false), UNREGISTERED_SCHEMA_ID);
    Ok(std::iter::from_fn(move || {
        generator.next_record().map(|r| Record { key: r.key.to_vec(), value: r.value.to_vec(), timestamp_ms: r.timestamp_ms, kind: r.kind })
    }))
}

/// Now, truncated to the second: the base time of runs that set neither one nor a rate.
pub fn default_base_time_us() -> i64 {
    Utc::now().timestamp() * SECOND_US
}

#[derive(Debug, Default)]
struct Kept {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Makes one record after the other without allocating.
#[derive(Debug)]
pub struct Generator {
    topic: Topic,
    shares: Shares,
    count: Option<u64>,
    timeline: Timeline,
    chance: Chance,
    source: Source,
    encoder: Encoder,
    key_field: usize,
    row: Row,
    key: Vec<u8>,
    value: Vec<u8>,
    recent: Vec<Kept>,
    next_kept: usize,
    counts: Counts,
}

impl Generator {
    /// A generator; `format` is not `Auto`.
    pub fn new(topic: Topic, options: &ProduceOptions, format: Format, schema_id: u32) -> Self {
        let base_us = options.base_time_us.unwrap_or_else(default_base_time_us);
        let span_us = i64::try_from(options.span.as_micros()).unwrap_or(i64::MAX / 4);
        let timeline = match (options.rate, options.count) {
            (Some(rate), _) => Timeline::Rate { start_us: base_us, rate },
            (None, Some(count)) => Timeline::rhythm(base_us - span_us, span_us, count),
            // an unknown number at full speed: one event each millisecond of event time, from the base on
            (None, None) => Timeline::Rate { start_us: base_us, rate: 1000.0 },
        };
        let key_field = topic.fields().iter().position(|f| f.name == topic.key_field()).unwrap_or(0);
        Self {
            topic,
            shares: options.shares(topic),
            count: options.count,
            timeline,
            chance: Chance::new(options.seed, topic as u64 + 1),
            source: Source::new(topic, options, IdSource::new(topic, options.seed, base_us)),
            encoder: Encoder::new(topic, format, schema_id),
            key_field,
            row: Row::default(),
            key: Vec::with_capacity(32),
            value: Vec::with_capacity(512),
            recent: Vec::with_capacity(RECENT_MAX),
            next_kept: 0,
            counts: Counts::default(),
        }
    }

    /// The topic.
    pub fn topic(&self) -> Topic {
        self.topic
    }

    /// What has been made so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The next record; `None` when the count is reached.
    pub fn next_record(&mut self) -> Option<RecordRef<'_>> {
        let sequence = self.counts.sent;
        if self.count.is_some_and(|count| sequence >= count) {
            return None;
        }
        let ingestion_us = self.timeline.at(sequence);
        let kind = self.choose();
        let mut purchase_cents = 0;
        if kind == Kind::Duplicate {
            // its purchase doesn't count again
            self.repeat();
        } else {
            let event_us = ingestion_us - self.delay_us(kind);
            let invalid = (kind == Kind::Invalid).then_some(self.counts.invalid);
            let fault = (kind == Kind::Malformed).then(|| {
                let which = self.counts.malformed as usize % Fault::ALL.len();
                Fault::ALL[which]
            });
            let slot = Slot { sequence, ingestion_us, event_us, invalid };
            let cents = self.source.fill(&slot, &mut self.chance, &mut self.row);
            self.write_key();
            self.encoder.encode(&self.row, fault, &mut self.value);
            if fault.is_none() && invalid.is_none() {
                purchase_cents = cents;
                self.keep();
            }
        }
        self.counts.add(kind, self.key.len() + self.value.len(), purchase_cents);
        let timestamp_ms = ingestion_us / 1000;
        Some(RecordRef { key: &self.key, value: &self.value, timestamp_ms, kind })
    }

    fn choose(&mut self) -> Kind {
        let shares = self.shares;
        let mut u = self.chance.unit();
        let kinds = [
            (Kind::Malformed, shares.malformed),
            (Kind::Invalid, shares.invalid),
            (Kind::Duplicate, shares.duplicates),
            (Kind::TooLate, shares.too_late),
            (Kind::Late, shares.late),
            (Kind::OutOfOrder, shares.out_of_order),
        ];
        for (kind, share) in kinds {
            if u < share {
                // nothing to repeat yet
                let possible = kind != Kind::Duplicate || !self.recent.is_empty();
                return if possible { kind } else { Kind::OnTime };
            }
            u -= share;
        }
        Kind::OnTime
    }

    fn delay_us(&mut self, kind: Kind) -> i64 {
        let between = |chance: &mut Chance, low: i64, high: i64| chance.between(low as f64, high as f64) as i64;
        let late_max_us = self.topic.delay_max_us();
        match kind {
            // more of the shorter delays: the square of a uniform number
            Kind::Late => {
                let (low, high) = (HOUR_US + MARGIN_US, late_max_us - MARGIN_US);
                let u = self.chance.unit();
                low + ((high - low) as f64 * u * u) as i64
            }
            Kind::TooLate => between(&mut self.chance, 48 * HOUR_US + MARGIN_US, 72 * HOUR_US),
            Kind::OutOfOrder => between(&mut self.chance, 5 * MINUTE_US, 50 * MINUTE_US),
            _ => between(&mut self.chance, SECOND_US / 20, 2 * SECOND_US),
        }
    }

    fn write_key(&mut self) {
        self.key.clear();
        match self.row.values().get(self.key_field) {
            Some(Value::Long(number)) => {
                self.key.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
            }
            Some(Value::Word(word)) => self.key.extend_from_slice(word.as_bytes()),
            _ => {}
        }
    }

    fn keep(&mut self) {
        if self.recent.len() < RECENT_MAX {
            self.recent.push(Kept::default());
        }
        if let Some(kept) = self.recent.get_mut(self.next_kept) {
            kept.key.clone_from(&self.key);
            kept.value.clone_from(&self.value);
        }
        self.next_kept = (self.next_kept + 1) % RECENT_MAX;
    }

    /// Puts an earlier valid record into the buffers.
    fn repeat(&mut self) {
        let which = self.chance.below(self.recent.len() as u64) as usize;
        if let Some(kept) = self.recent.get(which) {
            self.key.clone_from(&kept.key);
            self.value.clone_from(&kept.value);
        }
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
