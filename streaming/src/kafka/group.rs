use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use chainalytics_common::Result;

use super::options::KafkaOptions;
use super::reader::ReaderContext;
use crate::batch::PartitionEnds;
use crate::err;

/// How long the answer to a commit is waited for.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells a consumer group how far the tables have come, so that lag tools see the stream. Nothing ever reads it back.
#[derive(Clone)]
pub struct GroupCommitter {
    consumer: Arc<BaseConsumer<ReaderContext>>,
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
        let consumer = BaseConsumer::from_config_and_context(&config, ReaderContext::default()).map_err(|e| err::kafka_config(&e.to_string()))?;
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
        self.consumer.commit(&offsets, CommitMode::Async).map_err(|e| e.to_string())?;
        // The answer comes as an event; a few polls serve it and whatever was logged.
        for _ in 0..5 {
            self.consumer.poll(Duration::from_millis(20));
        }
        Ok(())
    }
}
