use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::Running;

const TIMEOUT: Duration = Duration::from_secs(20);

fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}

fn producer(address: &str) -> ThreadedProducer<rdkafka::producer::DefaultProducerContext> {
    let mut config = config(address);
    config.set("enable.idempotence", "true").set("linger.ms", "5").set("compression.type", "lz4").set("queue.buffering.max.messages", "1000000");
    config.create().unwrap()
}

async fn create(address: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = config(address).create().unwrap();
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "604800000");
    let results = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    assert_eq!(results, vec![Ok(name.to_owned())]);
}

fn produce(address: &str, topic: &str, partitions: i32, from: usize, to: usize) {
    let producer = producer(address);
    for i in from..to {
        let (key, value) = (format!("key-{i}"), format!("{i} {}", "x".repeat(200)));
        let record = BaseRecord::to(topic).key(&key).payload(&value).partition(i as i32 % partitions);
        let mut record = record.timestamp(1_000_000 + i as i64);
        while let Err((error, again)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
            std::thread::sleep(Duration::from_millis(5));
            record = again;
        }
    }
    producer.flush(TIMEOUT).unwrap();
}

/// Reads `count` messages of all partitions from the beginning; the numbers by partition in the order of arrival.
fn consume(address: &str, topic: &str, partitions: i32, count: usize) -> HashMap<i32, Vec<usize>> {
    let consumer: BaseConsumer =
        config(address).set("group.id", "unused").set("enable.auto.commit", "false").set("isolation.level", "read_committed").create().unwrap();
    let mut assignment = TopicPartitionList::new();
    for p in 0..partitions {
        assignment.add_partition_offset(topic, p, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut seen: HashMap<i32, Vec<usize>> = HashMap::new();
    let mut expected: HashMap<i32, i64> = HashMap::new();
    let started = Instant::now();
    let mut total = 0;
    while total < count {
        assert!(started.elapsed() < Duration::from_secs(60), "only {total} of {count} messages");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.unwrap();
        let next = expected.entry(message.partition()).or_default();
        assert_eq!(message.offset(), *next);
        *next += 1;
        let text = std::str::from_utf8(message.payload().unwrap()).unwrap();
        let number = text.split(' ').next().unwrap().parse().unwrap();
        seen.entry(message.partition()).or_default().push(number);
        total += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_in_order_also_after_a_restart() {
    const COUNT: usize = 100_000;
    let broker = Running::start().await;
    let address = broker.address.clone();
    create(&address, "t", 3).await;
    let to = address.clone();
    let started = Instant::now();
    tokio::task::spawn_blocking(move || produce(&to, "t", 3, 0, COUNT)).await.unwrap();
    let produced = started.elapsed();
    let from = address.clone();
    let started = Instant::now();
    let seen = tokio::task::spawn_blocking(move || consume(&from, "t", 3, COUNT)).await.unwrap();
    let consumed = started.elapsed();
    eprintln!("{COUNT} messages: produced in {produced:?}, consumed in {consumed:?}");
    for (partition, numbers) in &seen {
        let expected: Vec<usize> = (0..COUNT).filter(|i| *i as i32 % 3 == *partition).collect();
        assert_eq!(numbers, &expected);
    }
    let dir = broker.stop().await;
    let broker = Running::start_in(dir, |_| {}).await;
    let address = broker.address.clone();
    tokio::task::spawn_blocking(move || {
        produce(&address, "t", 3, COUNT, COUNT + 300);
        let seen = consume(&address, "t", 3, COUNT + 300);
        assert_eq!(seen.values().map(Vec::len).sum::<usize>(), COUNT + 300);
    })
    .await
    .unwrap();
    broker.stop_and_remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watermarks_and_offsets_by_time() {
    let broker = Running::start().await;
    let address = broker.address.clone();
    create(&address, "t", 1).await;
    tokio::task::spawn_blocking(move || {
        produce(&address, "t", 1, 0, 1000);
        let consumer: BaseConsumer = config(&address).set("group.id", "g").create().unwrap();
        assert_eq!(consumer.fetch_watermarks("t", 0, TIMEOUT).unwrap(), (0, 1000));
        let mut times = TopicPartitionList::new();
        times.add_partition_offset("t", 0, Offset::Offset(1_000_500)).unwrap();
        let found = consumer.offsets_for_times(times, TIMEOUT).unwrap();
        assert_eq!(found.elements()[0].offset(), Offset::Offset(500));
        let mut times = TopicPartitionList::new();
        times.add_partition_offset("t", 0, Offset::Offset(9_000_000)).unwrap();
        let found = consumer.offsets_for_times(times, TIMEOUT).unwrap();
        assert_eq!(found.elements()[0].offset(), Offset::End);
    })
    .await
    .unwrap();
    broker.stop_and_remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_topics_are_errors() {
    let broker = Running::start().await;
    let address = broker.address.clone();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config(&address).set("group.id", "g").create().unwrap();
        let metadata = consumer.fetch_metadata(Some("missing"), TIMEOUT).unwrap();
        let error = metadata.topics()[0].error().unwrap();
        assert_eq!(RDKafkaErrorCode::from(error), RDKafkaErrorCode::UnknownTopicOrPartition);
        let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
            config(&address).set("topic.metadata.propagation.max.ms", "100").create().unwrap();
        // accepted locally; the delivery fails and nothing is stored
        let _ = producer.send(BaseRecord::to("missing").key("k").payload("v"));
        producer.flush(TIMEOUT).unwrap();
        let all = consumer.fetch_metadata(None, TIMEOUT).unwrap();
        assert!(all.topics().is_empty());
    })
    .await
    .unwrap();
    broker.stop_and_remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_administered() {
    let broker = Running::start().await;
    let address = broker.address.clone();
    create(&address, "t", 2).await;
    let admin: AdminClient<DefaultClientContext> = config(&address).create().unwrap();
    let options = AdminOptions::new();
    let again = NewTopic::new("t", 2, TopicReplication::Fixed(1));
    let exists = admin.create_topics(&[again], &options).await.unwrap();
    assert_eq!(exists[0].as_ref().unwrap_err().1, RDKafkaErrorCode::TopicAlreadyExists);
    let compacted = NewTopic::new("c", 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    let refused = admin.create_topics(&[compacted], &options).await.unwrap();
    assert_eq!(refused[0].as_ref().unwrap_err().1, RDKafkaErrorCode::InvalidConfig);
    let configs = admin.describe_configs(&[ResourceSpecifier::Topic("t")], &options).await.unwrap();
    let retention = configs[0].as_ref().unwrap().entry_map()["retention.ms"].value.clone();
    assert_eq!(retention.as_deref(), Some("604800000"));
    let grown = admin.create_partitions(&[NewPartitions::new("t", 4)], &options).await.unwrap();
    assert_eq!(grown, vec![Ok("t".to_owned())]);
    let metadata = tokio::task::block_in_place(|| admin.inner().fetch_metadata(Some("t"), TIMEOUT)).unwrap();
    assert_eq!(metadata.topics()[0].partitions().len(), 4);
    tokio::task::block_in_place(|| produce(&address, "t", 4, 0, 100));
    let mut until = TopicPartitionList::new();
    until.add_partition_offset("t", 1, Offset::Offset(10)).unwrap();
    admin.delete_records(&until, &options).await.unwrap();
    let low = tokio::task::block_in_place(|| admin.inner().fetch_watermarks("t", 1, TIMEOUT)).unwrap();
    assert_eq!(low, (10, 25));
    assert_eq!(admin.delete_topics(&["t"], &options).await.unwrap(), vec![Ok("t".to_owned())]);
    let gone = admin.delete_topics(&["t"], &options).await.unwrap();
    assert_eq!(gone[0].as_ref().unwrap_err().1, RDKafkaErrorCode::UnknownTopicOrPartition);
    broker.stop_and_remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_survive_a_restart() {
    let broker = Running::start().await;
    let address = broker.address.clone();
    create(&address, "t", 2).await;
    let mut position = TopicPartitionList::new();
    position.add_partition_offset("t", 0, Offset::Offset(42)).unwrap();
    let committed = position.clone();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config(&address).set("group.id", "lag-tools").create().unwrap();
        consumer.commit(&committed, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();
    let dir = broker.stop().await;
    let broker = Running::start_in(dir, |_| {}).await;
    let address = broker.address.clone();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config(&address).set("group.id", "lag-tools").create().unwrap();
        let mut asked = TopicPartitionList::new();
        asked.add_partition("t", 0);
        asked.add_partition("t", 1);
        let found = consumer.committed_offsets(asked, TIMEOUT).unwrap();
        assert_eq!(found.elements()[0].offset(), Offset::Offset(42));
        assert_eq!(found.elements()[1].offset(), Offset::Invalid);
        let groups = consumer.fetch_group_list(None, TIMEOUT).unwrap();
        assert_eq!(groups.groups()[0].name(), "lag-tools");
    })
    .await
    .unwrap();
    broker.stop_and_remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_subscribers_share_a_topic() {
    let broker = Running::start().await;
    let address = broker.address.clone();
    create(&address, "t", 4).await;
    tokio::task::spawn_blocking(move || {
        produce(&address, "t", 4, 0, 4000);
        let subscriber = || {
            let consumer: BaseConsumer =
                config(&address).set("group.id", "shared").set("auto.offset.reset", "earliest").set("session.timeout.ms", "6000").create().unwrap();
            consumer.subscribe(&["t"]).unwrap();
            consumer
        };
        let (a, b) = (subscriber(), subscriber());
        let mut numbers = Vec::new();
        let started = Instant::now();
        while numbers.len() < 4000 {
            assert!(started.elapsed() < Duration::from_secs(60), "only {} messages", numbers.len());
            for consumer in [&a, &b] {
                let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
                let message = message.unwrap();
                let text = std::str::from_utf8(message.payload().unwrap()).unwrap();
                numbers.push(text.split(' ').next().unwrap().parse::<usize>().unwrap());
            }
        }
        let (of_a, of_b) = (a.assignment().unwrap().count(), b.assignment().unwrap().count());
        assert_eq!((of_a, of_b), (2, 2));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..4000).collect::<Vec<_>>());
    })
    .await
    .unwrap();
    broker.stop_and_remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactional_producers_are_refused() {
    let broker = Running::start().await;
    let address = broker.address.clone();
    tokio::task::spawn_blocking(move || {
        let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> = config(&address).set("transactional.id", "tx").create().unwrap();
        let error = producer.init_transactions(TIMEOUT).unwrap_err();
        let KafkaError::Transaction(error) = error else { panic!("{error}") };
        assert!(error.is_fatal() && error.string().contains("does not support transactions"), "{error}");
    })
    .await
    .unwrap();
    broker.stop_and_remove().await;
}

#[tokio::test]
async fn two_brokers_do_not_share_data_or_a_port() {
    let broker = Running::start().await;
    let options = crate::BrokerOptions::new(([127, 0, 0, 1], 0).into(), broker.dir.clone());
    let second = crate::Broker::open(options, Default::default()).await;
    assert!(matches!(second, Err(crate::BrokerError::DataDirInUse { .. })));
    let options = crate::BrokerOptions::new(broker.address.parse().unwrap(), broker.dir.join("other"));
    let second = crate::Broker::open(options, Default::default()).await;
    assert!(matches!(second, Err(crate::BrokerError::Listen { .. })));
    broker.stop_and_remove().await;
}
