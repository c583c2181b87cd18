//! The Kafka side: the only module of this crate that names `rdkafka`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::error::{ProducerError, Result};
use crate::topics::Topic;

/// A broker that doesn't answer for this long counts as unreachable.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(20);
/// A record that isn't acknowledged by then is given up; every record is accounted for within this time.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Retention of the platform's topics: 168 h.
const RETENTION_MS: &str = "604800000";

/// Where to send to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaTarget {
    /// `host:port[,host:port]`.
    pub bootstrap_servers: String,
    /// Further librdkafka settings (security, compression); they win over the defaults here.
    pub client: Vec<(String, String)>,
}

/// Counters of one topic, raised by the delivery reports.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    pub acked: AtomicU64,
    pub failed: AtomicU64,
    pub first_failure: OnceLock<String>,
}

impl Deliveries {
    /// Records whose fate is known.
    pub fn settled(&self) -> u64 {
        self.acked.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

/// What happened to a record that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// Queued; a delivery report will follow.
    Taken,
    /// The queue is full: wait and offer it again.
    Full,
    /// The client gave up for good.
    Dead(String),
}

struct Reports {
    deliveries: Arc<[Deliveries]>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(facility, message, "kafka client");
            }
            _ => tracing::debug!(facility, message, "kafka client"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}

impl ProducerContext for Reports {
    /// Position of the topic in the run.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic: usize) {
        let Some(deliveries) = self.deliveries.get(topic) else { return };
        match result {
            Ok(_) => deliveries.acked.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => {
                let _ = deliveries.first_failure.set(error.to_string());
                deliveries.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// An idempotent producer for the topics of a run.
pub(crate) struct Sink {
    producer: ThreadedProducer<Reports>,
    config: ClientConfig,
    address: String,
    pub deliveries: Arc<[Deliveries]>,
}

impl Sink {
    /// Makes the client; nothing is sent yet.
    pub fn open(target: &KafkaTarget, topics: usize) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &target.bootstrap_servers)
            .set("client.id", "chainalytics-produce")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // with 1 MB batches each request carries thousands of records; the broker's work shrinks with them
            .set("linger.ms", "20")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "50000")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "262144")
            .set("compression.type", "lz4")
            // as the Java clients do, so that a key's records lie in one partition whoever wrote them
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
            .set("socket.keepalive.enable", "true");
        for (key, value) in &target.client {
            config.set(key, value);
        }
        let deliveries: Arc<[Deliveries]> = (0..topics).map(|_| Deliveries::default()).collect();
        let reports = Reports { deliveries: Arc::clone(&deliveries) };
        let producer = ThreadedProducer::from_config_and_context(&config, reports).map_err(|e| ProducerError::ClientConfig(e.to_string()))?;
        Ok(Self { producer, config, address: target.bootstrap_servers.clone(), deliveries })
    }

    /// Creates those of the topics that don't exist, and waits until they do.
    pub async fn ensure_topics(self: &Arc<Self>, topics: &[Topic], partitions: i32) -> Result<()> {
        let existing = self.existing_topics().await?;
        let missing: Vec<Topic> = topics.iter().copied().filter(|t| !existing.iter().any(|e| e == t.name())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            AdminClient::from_config_and_context(&self.config, DefaultClientContext).map_err(|e| ProducerError::ClientConfig(e.to_string()))?;
        // -1: the cluster's own default; a single broker has one replica, a real cluster its three
        let new: Vec<NewTopic<'_>> =
            missing.iter().map(|t| NewTopic::new(t.name(), partitions, TopicReplication::Fixed(-1)).set("retention.ms", RETENTION_MS)).collect();
        let options = AdminOptions::new().operation_timeout(Some(ADMIN_TIMEOUT)).request_timeout(Some(ADMIN_TIMEOUT));
        let results = admin.create_topics(&new, &options).await.map_err(|e| self.unreachable(&e))?;
        for result in results {
            match result {
                // somebody else was quicker
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(ProducerError::CreateTopic { topic, reason: code.to_string() }),
            }
        }
        let deadline = tokio::time::Instant::now() + ADMIN_TIMEOUT;
        loop {
            let existing = self.existing_topics().await?;
            let Some(absent) = missing.iter().find(|t| !existing.iter().any(|e| e == t.name())) else {
                return Ok(());
            };
            if tokio::time::Instant::now() >= deadline {
                let reason = "it does not appear in the cluster's metadata".to_owned();
                return Err(ProducerError::CreateTopic { topic: absent.name().to_owned(), reason });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Topics that have partitions.
    async fn existing_topics(self: &Arc<Self>) -> Result<Vec<String>> {
        let sink = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = sink.producer.client().fetch_metadata(None, REACH_TIMEOUT);
            let metadata = metadata.map_err(|e| sink.unreachable(&e))?;
            let usable = metadata.topics().iter().filter(|t| !t.partitions().is_empty());
            Ok(usable.map(|t| t.name().to_owned()).collect())
        });
        asked.await.map_err(|_| ProducerError::Died("metadata".to_owned()))?
    }

    /// Offers one record; `index` is the topic's position in the run.
    pub fn offer(&self, topic: Topic, index: usize, key: &[u8], value: &[u8], timestamp_ms: i64) -> Offered {
        let record = BaseRecord::with_opaque_to(topic.name(), index).key(key).payload(value).timestamp(timestamp_ms);
        match self.producer.send(record) {
            Ok(()) => Offered::Taken,
            Err((error, _)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => Offered::Full,
                _ => Offered::Dead(self.fatal().unwrap_or_else(|| error.to_string())),
            },
        }
    }

    /// Why the client cannot go on, if so.
    pub fn fatal(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"))
    }

    fn unreachable(&self, error: &KafkaError) -> ProducerError {
        ProducerError::BrokerUnreachable { address: self.address.clone(), reason: error.to_string() }
    }
}
