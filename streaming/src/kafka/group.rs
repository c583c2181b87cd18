use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use chainalytics_common::Result;

use super::options::KafkaOptions;
use super::reader::ReaderContext;
use crate::batch::PartitionEnds;
use crate::err;

/// How long a batch waits for its commit to be taken up, whatever the coordinator does.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the coordinator's answer is waited for, and how often it is looked for: a batch should not last longer for this.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
const ANSWER_POLL: Duration = Duration::from_millis(1);

/// Tells a consumer group how far the tables have come, so that lag tools see the stream. Nothing ever reads it back.
#[derive(Clone)]
pub struct GroupCommitter {
    consumer: Arc<BaseConsumer<GroupContext>>,
    group: String,
}

impl GroupCommitter {
    /// A committer that connects in the background and joins nothing.
    ///
    /// # Errors
    /// `Config` for properties that librdkafka refuses.
    pub fn new(options: &KafkaOptions, group: &str) -> Result<Self> {
        let mut config = options.client_config();
        config.set("group.id", group).set("enable.auto.commit", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, GroupContext::default()).map_err(|e| err::kafka_config(&e.to_string()))?;
        Ok(Self { consumer: Arc::new(consumer), group: group.to_owned() })
    }

    /// Commits in the background, best effort: failures are logged.
    pub async fn commit(&self, topics: Vec<(String, PartitionEnds)>) {
        let this = self.clone();
        let sent = tokio::task::spawn_blocking(move || this.commit_now(&topics));
        match tokio::time::timeout(COMMIT_TIMEOUT, sent).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(group = self.group, error, "offsets not told to the consumer group"),
            Ok(Err(error)) => tracing::warn!(group = self.group, %error, "offsets not told to the consumer group"),
            Err(_) => tracing::debug!(group = self.group, "the consumer group's coordinator is slow"),
        }
    }

    fn commit_now(&self, topics: &[(String, PartitionEnds)]) -> Result<(), String> {
        let mut offsets = TopicPartitionList::new();
        for (topic, ends) in topics {
            for (partition, end) in ends {
                offsets.add_partition_offset(topic, *partition, Offset::Offset(*end)).map_err(|e| e.to_string())?;
            }
        }
        let answered = &self.consumer.context().answered;
        answered.store(false, Ordering::Release);
        self.consumer.commit(&offsets, CommitMode::Async).map_err(|e| e.to_string())?;
        // The answer comes as an event that a poll serves. Without one the next commit says it again.
        let asked = Instant::now();
        while !answered.load(Ordering::Acquire) && asked.elapsed() < ANSWER_TIMEOUT {
            self.consumer.poll(ANSWER_POLL);
        }
        Ok(())
    }
}

/// Sees the answers to commits.
#[derive(Default)]
struct GroupContext {
    client: ReaderContext,
    answered: AtomicBool,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(target: "librdkafka", %error, "a commit to the consumer group was refused");
        }
        self.answered.store(true, Ordering::Release);
    }
}
