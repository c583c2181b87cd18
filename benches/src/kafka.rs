//! Topics of a benchmark: filled once, and read by nothing but librdkafka to see what this machine can do at most.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::Result;
use crate::events::Event;

/// Partitions of the topics.
pub(crate) const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(120);

/// How events are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    Json,
    /// With the registry's id of the schema.
    Avro(u32),
}

/// Sends `records` events to the topic, which the broker makes; their bytes.
pub(crate) fn fill(bootstrap: &str, topic: &str, records: u64, format: Format) -> Result<u64> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("linger.ms", "50")
        .set("batch.size", "524288")
        .set("acks", "all")
        .set("queue.buffering.max.messages", "500000");
    let producer: BaseProducer = config.create().map_err(|e| format!("cannot make a producer: {e}"))?;
    // The broker makes topics that are asked for, with three partitions.
    let deadline = Instant::now() + PATIENCE;
    while producer.client().fetch_metadata(Some(topic), Duration::from_secs(10)).map_or(0, |m| m.topics().first().map_or(0, |t| t.partitions().len()))
        != PARTITIONS as usize
    {
        if Instant::now() > deadline {
            return Err(format!("the broker does not make topic {topic} with {PARTITIONS} partitions"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (mut value, mut bytes) = (Vec::new(), 0);
    for n in 0..records {
        let event = Event::new(n);
        match format {
            Format::Json => event.json(&mut value),
            Format::Avro(id) => event.avro(id, &mut value),
        }
        bytes += value.len() as u64;
        loop {
            match producer.send(BaseRecord::<(), [u8]>::to(topic).partition((n % PARTITIONS as u64) as i32).payload(&value)) {
                Ok(()) => break,
                Err((e, _)) if e.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    producer.poll(Duration::from_millis(20));
                }
                Err((e, _)) => return Err(format!("cannot send to {topic}: {e}")),
            }
        }
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE).map_err(|e| format!("the broker does not take all of {topic}: {e}"))?;
    Ok(bytes)
}

/// Reads the whole topic and does nothing with it, a consumer to each partition: messages and seconds.
pub(crate) fn consume(bootstrap: &str, topic: &str) -> Result<(u64, f64)> {
    let started = Instant::now();
    let threads: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
            std::thread::spawn(move || consume_partition(&bootstrap, &topic, partition))
        })
        .collect();
    let mut all = 0;
    for thread in threads {
        all += thread.join().map_err(|_| "a consumer panicked".to_owned())??;
    }
    Ok((all, started.elapsed().as_secs_f64()))
}

fn consume_partition(bootstrap: &str, topic: &str, partition: i32) -> Result<u64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", "bench").set("enable.auto.commit", "false").set("check.crcs", "false");
    config.set("queued.min.messages", "100000").set("fetch.message.max.bytes", "1048576").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().map_err(|e| format!("cannot make a consumer: {e}"))?;
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{what} of {topic}/{partition}: {e}");
    let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).map_err(|e| failed("ends", &e))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(|e| failed("assignment", &e))?;
    consumer.assign(&list).map_err(|e| failed("assignment", &e))?;
    let (mut seen, mut bytes) = (0, 0_usize);
    let deadline = Instant::now() + PATIENCE;
    while seen < (high - low) as u64 {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => {
                seen += 1;
                bytes += message.payload_len();
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => break,
            Some(Err(e)) => return Err(failed("reading", &e)),
            None if Instant::now() > deadline => return Err(failed("reading", &"too slow")),
            None => {}
        }
    }
    std::hint::black_box(bytes);
    Ok(seen)
}
