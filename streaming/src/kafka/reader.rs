use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use chainalytics_common::{Error, Result};

use super::native::{PartitionQueue, Polled};
use super::options::KafkaOptions;
use crate::batch::Unit;
use crate::decode::{CHUNK_ROWS_MAX, RecordChunk};
use crate::err;

/// Records taken from the queue at a call.
const POLL_RECORDS_MAX: usize = 1024;
/// How long one call waits for that many. Also how soon cancellation is noticed.
const POLL_WAIT: Duration = Duration::from_millis(25);
/// How often the client's own events (errors, logs) are served.
const SERVE_INTERVAL: Duration = Duration::from_millis(200);
/// First guess of a chunk's bytes; later chunks take the last one's size.
const CHUNK_BYTES_FIRST: usize = 1024 * 1024;

/// Takes the chunks of a range, in order.
pub trait RangeSink {
    /// Takes one chunk; may block (back-pressure). `false` ends reading: nobody wants the rest.
    fn chunk(&mut self, chunk: RecordChunk) -> bool;
    /// Whether nobody wants the rest; asked while there is nothing to hand over.
    fn is_closed(&self) -> bool;
}

/// What reading a range came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RangeStats {
    /// Records; fewer than positions where aborted, compacted or control records left holes.
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Time without anything to read, milliseconds.
    pub idle_ms: u64,
}

/// Reads ranges of partitions, one at a time. Blocking: it belongs on a thread of its own.
pub struct KafkaRangeReader {
    consumer: BaseConsumer<ReaderContext>,
    options: KafkaOptions,
}

impl KafkaRangeReader {
    /// A reader that connects in the background. `rows`: about how many records it is going to read.
    ///
    /// # Errors
    /// `Config` for properties that librdkafka refuses.
    pub fn new(options: &KafkaOptions, rows: u64) -> Result<Self> {
        let consumer = BaseConsumer::from_config_and_context(&options.reader_config(rows), ReaderContext::default())
            .map_err(|e| err::kafka_config(&e.to_string()))?;
        Ok(Self { consumer, options: options.clone() })
    }

    /// Reads exactly `[unit.start, unit.end)` into `sink` and returns when the position has reached the end: a record at
    /// or behind it was seen, or the log ends there. Seeing record `end - 1` is neither needed nor enough, as offsets
    /// have holes.
    ///
    /// A broker that is down is waited for until the stall time-out.
    ///
    /// # Errors
    /// `DataLoss`: the range is not in the log any more. `KafkaTimeout` (retryable): nothing came for the stall
    /// time-out. `KafkaRefused`: authorisation. `Cancelled` if the sink closed.
    pub fn read(&self, unit: &Unit, sink: &mut dyn RangeSink) -> Result<RangeStats> {
        let mut queue = PartitionQueue::start(&self.consumer, &unit.topic, unit.partition, unit.start, POLL_RECORDS_MAX)
            .map_err(|e| err::kafka_unreachable(&self.options.bootstrap_servers, &e.to_string()))?;
        let mut range = Range::new(unit);
        let mut stats = RangeStats::default();
        let mut last_news = Instant::now();
        let mut last_served = Instant::now();
        while !range.is_done() {
            let room = CHUNK_ROWS_MAX.saturating_sub(range.chunk.len()).clamp(1, POLL_RECORDS_MAX);
            let wanted = usize::try_from(range.remaining()).unwrap_or(room).min(room);
            let before = range.position;
            let polled_at = Instant::now();
            queue.poll(POLL_WAIT, wanted, |polled| range.take(polled));
            if let Some(failure) = range.failure.take() {
                return Err(self.failure(unit, &range, failure));
            }
            if range.chunk.is_full() && !self.hand_over(&mut range, &mut stats, sink) {
                return Err(err::cancelled("reading a Kafka range was cancelled"));
            }
            let now = Instant::now();
            if range.position > before {
                last_news = now;
            } else {
                stats.idle_ms += u64::try_from(now.duration_since(polled_at).as_millis()).unwrap_or(0);
                if sink.is_closed() {
                    return Err(err::cancelled("reading a Kafka range was cancelled"));
                }
                if now.duration_since(last_news) >= self.options.stall_timeout() {
                    return Err(self.stalled(unit, &range));
                }
            }
            if now.duration_since(last_served) >= SERVE_INTERVAL {
                last_served = now;
                self.serve();
            }
        }
        if !range.chunk.is_empty() && !self.hand_over(&mut range, &mut stats, sink) {
            return Err(err::cancelled("reading a Kafka range was cancelled"));
        }
        Ok(stats)
    }

    fn hand_over(&self, range: &mut Range, stats: &mut RangeStats, sink: &mut dyn RangeSink) -> bool {
        stats.records += range.chunk.len() as u64;
        stats.bytes += range.chunk.bytes() as u64;
        let next = RecordChunk::with_capacity(CHUNK_ROWS_MAX, range.chunk.bytes().max(CHUNK_BYTES_FIRST) / 8 * 9);
        sink.chunk(std::mem::replace(&mut range.chunk, next))
    }

    /// Lets the client report its errors and logs, which would pile up otherwise.
    fn serve(&self) {
        for _ in 0..100 {
            match self.consumer.poll(Duration::ZERO) {
                None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => self.consumer_context().note(error.to_string()),
            }
        }
    }

    fn consumer_context(&self) -> &ReaderContext {
        use rdkafka::consumer::Consumer;
        self.consumer.context()
    }

    fn stalled(&self, unit: &Unit, range: &Range) -> Error {
        self.serve();
        let seconds = self.options.stall_timeout().as_secs();
        let cause = range.last_error.clone().or_else(|| self.consumer_context().last()).unwrap_or_else(|| match range.log_end {
            Some(end) => format!("the broker says that the log ends at {end}"),
            None => "the broker sent nothing".to_owned(),
        });
        err::kafka_timeout(format!(
            "topic '{}' partition {}: nothing came for {seconds} s at offset {} (the range ends at {}): {cause}",
            unit.topic, unit.partition, range.position, unit.end
        ))
    }

    fn failure(&self, unit: &Unit, range: &Range, failure: Failure) -> Error {
        let place = format!("topic '{}' partition {} offset {}", unit.topic, unit.partition, range.position);
        match failure {
            Failure::OutOfRange(text) => {
                err::data_loss(format!("{place}: not in the log any more; retention removed it or the topic was made anew ({text})"))
            }
            Failure::Refused(text) => err::kafka_refused(format!("{place}: {text}")),
            Failure::Fatal(text) => err::kafka_timeout(format!("{place}: {text}")),
        }
    }
}

/// What cannot be waited for.
enum Failure {
    OutOfRange(String),
    Refused(String),
    Fatal(String),
}

/// A range being read.
struct Range {
    end: i64,
    /// Next offset wanted: everything before it was handed over or is a hole.
    position: i64,
    chunk: RecordChunk,
    /// Where the broker last said the log ends, if that was before `end`.
    log_end: Option<i64>,
    last_error: Option<String>,
    failure: Option<Failure>,
}

impl Range {
    fn new(unit: &Unit) -> Self {
        let rows = usize::try_from(unit.len()).unwrap_or(CHUNK_ROWS_MAX).min(CHUNK_ROWS_MAX);
        Self {
            end: unit.end,
            position: unit.start,
            chunk: RecordChunk::with_capacity(rows, rows * 128),
            log_end: None,
            last_error: None,
            failure: None,
        }
    }

    fn is_done(&self) -> bool {
        self.position >= self.end
    }

    fn remaining(&self) -> i64 {
        self.end - self.position
    }

    fn take(&mut self, polled: Polled<'_>) {
        match polled {
            // A record before the position was seen already; one behind the end only tells that the range is complete.
            Polled::Record { offset, .. } if offset < self.position => {}
            Polled::Record { offset, .. } if offset >= self.end => self.position = self.end,
            Polled::Record { offset, timestamp_ms, key, value } => {
                self.chunk.push(offset, timestamp_ms, key, value);
                self.position = offset + 1;
            }
            Polled::End { offset } if offset >= self.end => self.position = self.end,
            Polled::End { offset } => self.log_end = Some(offset),
            Polled::Error { code, text } => self.error(code, text),
        }
    }

    fn error(&mut self, code: RDKafkaErrorCode, text: String) {
        let text = format!("{code}: {text}");
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                self.failure = Some(Failure::OutOfRange(text));
            }
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed => self.failure = Some(Failure::Refused(text)),
            RDKafkaErrorCode::Fatal => self.failure = Some(Failure::Fatal(text)),
            // Leaders move, brokers restart: the client tries again by itself.
            _ => self.last_error = Some(text),
        }
    }
}

/// Remembers the client's last error: a time-out should say what the broker's trouble was.
#[derive(Default)]
pub(super) struct ReaderContext {
    last_error: Mutex<Option<String>>,
}

impl ReaderContext {
    pub(super) fn note(&self, error: String) {
        *self.last_error.lock() = Some(error);
    }

    pub(super) fn last(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                // A broker that is away logs each attempt to connect; whoever waits reports it once.
                tracing::debug!(target: "librdkafka", facility, message);
            }
            _ => tracing::trace!(target: "librdkafka", facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        self.note(format!("{error}: {reason}"));
    }
}

impl ConsumerContext for ReaderContext {}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(start: i64, end: i64) -> Unit {
        Unit { topic: "t".into(), partition: 0, start, end }
    }

    fn record(offset: i64) -> Polled<'static> {
        Polled::Record { offset, timestamp_ms: 0, key: None, value: Some(b"v") }
    }

    #[test]
    fn a_range_ends_where_the_position_reaches_its_end() {
        let mut range = Range::new(&unit(5, 8));
        for offset in 5..8 {
            assert!(!range.is_done());
            range.take(record(offset));
        }
        assert!(range.is_done());
        assert_eq!(range.chunk.offsets(), [5, 6, 7]);
    }

    #[test]
    fn holes_at_the_end_are_passed_by_a_later_record_or_the_end_of_the_log() {
        let mut range = Range::new(&unit(5, 8));
        range.take(record(5));
        range.take(record(9));
        assert!(range.is_done());
        assert_eq!(range.chunk.offsets(), [5]);

        let mut range = Range::new(&unit(5, 8));
        range.take(record(5));
        range.take(Polled::End { offset: 7 });
        assert!(!range.is_done());
        range.take(Polled::End { offset: 8 });
        assert!(range.is_done());
    }

    #[test]
    fn nothing_outside_the_range_is_taken() {
        let mut range = Range::new(&unit(5, 8));
        for offset in [3, 4, 5, 5, 6, 8, 9] {
            range.take(record(offset));
        }
        assert_eq!(range.chunk.offsets(), [5, 6]);
    }
}
