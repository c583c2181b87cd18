use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use chainalytics_common::{Error, Result};

use super::options::KafkaOptions;
use super::reader::ReaderContext;
use super::topic_ids::topic_ids;
use crate::batch::{PartitionEnds, Watermarks};
use crate::err;

/// How alike a topic's name must be to be suggested (0 to 1).
const SUGGESTION_SIMILARITY_MIN: f64 = 0.6;
/// Topics suggested at most.
const SUGGESTIONS_MAX: usize = 3;

/// Asks the brokers what there is. Cheap to clone; one connection behind it.
#[derive(Clone)]
pub struct KafkaMetadata {
    consumer: Arc<BaseConsumer<ReaderContext>>,
    options: KafkaOptions,
}

impl KafkaMetadata {
    /// A client that connects in the background.
    ///
    /// # Errors
    /// `Config` for properties that librdkafka refuses.
    pub fn new(options: &KafkaOptions) -> Result<Self> {
        let consumer = BaseConsumer::from_config_and_context(&options.client_config(), ReaderContext::default())
            .map_err(|e| err::kafka_config(&e.to_string()))?;
        Ok(Self { consumer: Arc::new(consumer), options: options.clone() })
    }

    /// Partitions of every topic.
    ///
    /// # Errors
    /// `KafkaUnreachable` (retryable).
    pub async fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        self.blocking(|this| {
            let metadata = this.consumer.fetch_metadata(None, this.options.request_timeout());
            this.serve();
            let metadata = metadata.map_err(|e| this.failure(&e))?;
            Ok(metadata
                .topics()
                .iter()
                .map(|topic| {
                    let mut partitions: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
                    partitions.sort_unstable();
                    (topic.name().to_owned(), partitions)
                })
                .collect())
        })
        .await
    }

    /// Ids of the topics asked for, in Kafka's text form; a topic is absent where it does not exist or its brokers tell no
    /// ids (before 2.8).
    ///
    /// # Errors
    /// `KafkaUnreachable` (retryable).
    pub async fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, String>> {
        let topics = topics.to_vec();
        self.blocking(move |this| {
            let ids = topic_ids(&this.consumer, &topics, this.options.request_timeout());
            this.serve();
            match ids {
                Ok(ids) => Ok(ids),
                Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature)) => Ok(BTreeMap::new()),
                Err(error) => Err(this.failure(&error)),
            }
        })
        .await
    }

    /// Partitions of the topics asked for.
    ///
    /// # Errors
    /// `TopicNotFound`, naming topics of a like name; `KafkaUnreachable` (retryable).
    pub async fn partitions(&self, topics: &[String]) -> Result<BTreeMap<String, Vec<i32>>> {
        let mut all = self.topics().await?;
        let mut found = BTreeMap::new();
        for topic in topics {
            match all.remove(topic).or_else(|| found.get(topic).cloned()) {
                Some(partitions) if !partitions.is_empty() => found.insert(topic.clone(), partitions),
                _ => return Err(self.not_found(topic, all.keys().chain(found.keys()).map(String::as_str))),
            };
        }
        Ok(found)
    }

    /// The error of a topic that is not there; `names` are.
    pub(crate) fn not_found<'a>(&self, topic: &str, names: impl Iterator<Item = &'a str>) -> Error {
        err::topic_not_found(&self.options.bootstrap_servers, topic, &like(topic, names))
    }

    /// Watermarks of some partitions of a topic: the high ones under `read_committed`.
    ///
    /// # Errors
    /// `KafkaUnreachable` (retryable).
    pub async fn watermarks(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, Watermarks>> {
        let topic = topic.to_owned();
        let partitions = partitions.to_vec();
        self.blocking(move |this| {
            let mut marks = BTreeMap::new();
            for partition in partitions {
                let (low, high) = this.consumer.fetch_watermarks(&topic, partition, this.options.request_timeout()).map_err(|e| this.failure(&e))?;
                // The two are asked one after the other; retention may move the low one past the high one's answer.
                marks.insert(partition, Watermarks { low, high: high.max(low) });
            }
            this.serve();
            Ok(marks)
        })
        .await
    }

    /// First offset of each partition whose record is not older than `timestamp_ms`; the end where there is none.
    ///
    /// # Errors
    /// `KafkaUnreachable` (retryable).
    pub async fn offsets_at(&self, topic: &str, marks: &BTreeMap<i32, Watermarks>, timestamp_ms: i64) -> Result<PartitionEnds> {
        let topic = topic.to_owned();
        let marks = marks.clone();
        self.blocking(move |this| {
            let mut wanted = TopicPartitionList::with_capacity(marks.len());
            for partition in marks.keys() {
                wanted.add_partition_offset(&topic, *partition, Offset::Offset(timestamp_ms)).map_err(|e| err::internal(e.to_string()))?;
            }
            let found = this.consumer.offsets_for_times(wanted, this.options.request_timeout()).map_err(|e| this.failure(&e))?;
            this.serve();
            let mut offsets = PartitionEnds::new();
            for (partition, marks) in &marks {
                let offset = found.find_partition(&topic, *partition).map(|element| element.offset());
                offsets.insert(
                    *partition,
                    match offset {
                        Some(Offset::Offset(offset)) => offset.clamp(marks.low, marks.high),
                        _ => marks.high,
                    },
                );
            }
            Ok(offsets)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|e| err::internal(format!("a Kafka request did not end: {e}")))?
    }

    fn serve(&self) {
        for _ in 0..100 {
            if self.consumer.poll(std::time::Duration::ZERO).is_none() {
                return;
            }
        }
    }

    fn failure(&self, error: &KafkaError) -> Error {
        self.serve();
        let cause = match self.consumer.context().last() {
            Some(last) => format!("{error} ({last})"),
            None => error.to_string(),
        };
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication,
            ) => err::kafka_refused(format!("Kafka at {}: {cause}", self.options.bootstrap_servers)),
            _ => err::kafka_unreachable(&self.options.bootstrap_servers, &cause),
        }
    }
}

/// Topics with a like name, the most alike first.
fn like<'a>(topic: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = names
        .filter(|name| !name.starts_with("__"))
        .map(|name| (strsim::jaro_winkler(topic, name), name))
        .filter(|(score, _)| *score >= SUGGESTION_SIMILARITY_MIN)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_best_first() {
        let names = ["products", "user-posts", "user-events", "__consumer_offsets", "weather-data"];
        let found = like("user-event", names.into_iter());
        assert_eq!(found.first().map(String::as_str), Some("user-events"));
        assert!(!found.iter().any(|name| name.starts_with("__")));
    }
}
