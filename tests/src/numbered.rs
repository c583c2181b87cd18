//! A producer whose events can be accounted for: each bears its partition and its number there, and what the broker acknowledged is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

/// Topic of the events; its table is `bronze_numbered`.
pub const TOPIC: &str = "numbered";
/// Partitions of the topic.
pub const PARTITIONS: u64 = 3;
/// One event in so many is cut short, so that it must become a dead letter.
pub const MALFORMED_EVERY: u64 = 997;

/// What the table of the events has beside Kafka's columns.
pub const COLUMNS: &str = "part INT, seq BIGINT, text STRING, kafka_topic STRING, kafka_partition INT, kafka_offset BIGINT, kafka_timestamp TIMESTAMP, \
                           ingestion_batch_id BIGINT, ingestion_run_id STRING, ingested_at TIMESTAMP";

/// Outcomes of the events of one partition.
#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

#[derive(Clone)]
struct Context(Arc<[Counts; PARTITIONS as usize]>);

impl ClientContext for Context {
    // A broker that is killed is what this is for.
    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, partition: Self::DeliveryOpaque) {
        let counts = &self.0[*partition as usize];
        let which = if result.is_ok() { &counts.acknowledged } else { &counts.refused };
        which.fetch_add(1, Ordering::SeqCst);
    }
}

/// An idempotent producer of numbered events that waits as long as it takes.
pub struct Numbered {
    producer: ThreadedProducer<Context>,
    counts: Context,
    sent: [u64; PARTITIONS as usize],
}

impl Numbered {
    pub fn new(bootstrap: &str) -> Self {
        let counts = Context(Arc::new(Default::default()));
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "0");
        config
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("reconnect.backoff.max.ms", "500")
            .set("queue.buffering.max.messages", "200000");
        Self { producer: config.create_with_context(counts.clone()).unwrap(), counts, sent: [0; PARTITIONS as usize] }
    }

    /// Sends the next `count` events and returns once they are on their way, not acknowledged.
    pub fn send(&mut self, count: u64) {
        for n in 0..count {
            let partition = n % PARTITIONS;
            let seq = self.sent[partition as usize];
            let key = format!("{partition}:{seq}");
            let mut value = format!(
                r#"{{"part":{partition},"seq":{seq},"text":"event {seq} of partition {partition}, {:016x}"}}"#,
                seq.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            );
            if seq % MALFORMED_EVERY == MALFORMED_EVERY - 1 {
                value.truncate(value.len() - 5);
            }
            let mut record = BaseRecord::with_opaque_to(TOPIC, Box::new(partition)).partition(partition as i32).key(&key).payload(&value);
            while let Err((error, back)) = self.producer.send(record) {
                assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
                std::thread::sleep(Duration::from_millis(5));
                record = back;
            }
            self.sent[partition as usize] += 1;
        }
    }

    /// Events sent so far, of all partitions.
    pub fn sent(&self) -> u64 {
        self.sent.iter().sum()
    }

    /// Waits until everything sent is acknowledged; acknowledged events by partition, which are those numbered from 0 on.
    pub fn acknowledged(&self, timeout: Duration) -> Vec<u64> {
        let deadline = Instant::now() + timeout;
        loop {
            let load = |of: fn(&Counts) -> &AtomicU64| -> Vec<u64> { self.counts.0.iter().map(|c| of(c).load(Ordering::SeqCst)).collect() };
            let (acknowledged, refused) = (load(|c| &c.acknowledged), load(|c| &c.refused));
            assert_eq!(refused.iter().sum::<u64>(), 0, "the broker refused events: {refused:?}");
            if acknowledged == self.sent {
                return acknowledged;
            }
            assert!(Instant::now() < deadline, "{acknowledged:?} of {:?} events are acknowledged after {timeout:?}", self.sent);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}

/// How many of the first `count` events of a partition are cut short.
pub fn malformed(count: u64) -> u64 {
    count / MALFORMED_EVERY
}
