//! What tests do to a broker: topics that come, go and grow, records of any kind.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::{Place, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

/// A broker as an administrator and a producer of odd records see it.
pub struct Kafka {
    config: ClientConfig,
    admin: AdminClient<DefaultClientContext>,
}

impl Kafka {
    /// The embedded broker of a place.
    pub fn of(place: &Place) -> Self {
        Self::at(&format!("127.0.0.1:{}", 9092 + place.offset))
    }

    pub fn at(bootstrap: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("linger.ms", "1");
        Self { admin: config.create().unwrap(), config }
    }

    /// Partitions of a topic as a client sees them that knows nothing from before; 0 if it is not there.
    pub fn partitions(&self, topic: &str) -> usize {
        let client: BaseProducer = self.config.create().unwrap();
        let there = client.client().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        there.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len())
    }

    pub fn create(&self, topic: &str, partitions: i32) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let results = block_on(self.admin.create_topics([&new], &AdminOptions::new())).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    pub fn delete(&self, topic: &str) {
        block_on(self.admin.delete_topics(&[topic], &AdminOptions::new())).unwrap();
        wait_for("the topic's end", PATIENCE, || (self.partitions(topic) == 0).then_some(()));
    }

    pub fn grow(&self, topic: &str, partitions: usize) {
        block_on(self.admin.create_partitions([&NewPartitions::new(topic, partitions)], &AdminOptions::new())).unwrap();
    }

    /// As retention does: records before the offset are gone.
    pub fn forget_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        block_on(self.admin.delete_records(&offsets, &AdminOptions::new())).unwrap();
    }

    pub fn send(&self, topic: &str, partition: i32, values: impl IntoIterator<Item = Option<Vec<u8>>>) {
        let producer: BaseProducer = self.config.create().unwrap();
        for value in values {
            let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition);
            if let Some(value) = &value {
                record = record.payload(value);
            }
            producer.send(record).map_err(|(e, _)| e).unwrap();
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    }
}
