//! Against a broker within the process.
#![allow(clippy::unwrap_used)]

use super::test_broker::Broker;
use super::*;
use crate::batch::Unit;
use crate::decode::RecordChunk;

struct Collect(Vec<RecordChunk>);

impl RangeSink for Collect {
    fn chunk(&mut self, chunk: RecordChunk) -> bool {
        self.0.push(chunk);
        true
    }

    fn is_closed(&self) -> bool {
        false
    }
}

impl Collect {
    fn offsets(&self) -> Vec<i64> {
        self.0.iter().flat_map(|chunk| chunk.offsets().to_vec()).collect()
    }
}

fn broker(records: usize) -> Broker {
    let broker = Broker::start(&["events"], 2);
    broker.send("events", 0, (0..records).map(|record| format!("value-{record}")));
    broker
}

fn options(broker: &Broker) -> KafkaOptions {
    KafkaOptions { stall_timeout_ms: 3000, ..KafkaOptions::new(broker.servers()) }
}

fn unit(start: i64, end: i64) -> Unit {
    Unit { topic: "events".into(), partition: 0, start, end }
}

#[test]
fn reads_exactly_the_range() {
    let broker = broker(5000);
    let reader = KafkaRangeReader::new(&options(&broker), 5000).unwrap();
    for (start, end) in [(0, 5000), (10, 20), (4999, 5000), (0, 1), (1234, 4321)] {
        let mut sink = Collect(Vec::new());
        let stats = reader.read(&unit(start, end), &mut sink).unwrap();
        assert_eq!(sink.offsets(), (start..end).collect::<Vec<_>>());
        assert_eq!(stats.records, (end - start) as u64);
        assert_eq!(sink.0[0].value(0).unwrap(), format!("value-{start}").as_bytes());
        assert_eq!(sink.0[0].key(0).unwrap(), b"k");
    }
}

#[test]
fn a_range_behind_the_log_stalls_and_says_so() {
    let broker = broker(10);
    let options = KafkaOptions { stall_timeout_ms: 300, ..options(&broker) };
    let reader = KafkaRangeReader::new(&options, 10).unwrap();
    let error = reader.read(&unit(5, 20), &mut Collect(Vec::new())).unwrap_err();
    assert!(error.to_string().contains("the log ends at 10"), "{error}");
}

#[test]
fn an_offset_that_is_not_there_is_data_loss() {
    let broker = broker(10);
    let reader = KafkaRangeReader::new(&options(&broker), 10).unwrap();
    let error = reader.read(&unit(500, 600), &mut Collect(Vec::new())).unwrap_err();
    assert_eq!(error.code(), chainalytics_common::ErrorCode::DataLoss, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_tells_topics_and_watermarks() {
    let broker = broker(10);
    let metadata = KafkaMetadata::new(&options(&broker)).unwrap();
    let found = metadata.partitions(&["events".to_owned()]).await.unwrap();
    assert_eq!(found["events"], [0, 1]);
    let marks = metadata.watermarks("events", &[0, 1]).await.unwrap();
    assert_eq!((marks[&0].low, marks[&0].high, marks[&1].high), (0, 10, 0));
    let error = metadata.partitions(&["event".to_owned()]).await.unwrap_err();
    assert!(error.to_string().contains("events"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_told_apart() {
    let options = KafkaOptions { request_timeout_ms: 500, ..KafkaOptions::new("127.0.0.1:1") };
    let error = KafkaMetadata::new(&options).unwrap().topics().await.unwrap_err();
    assert_eq!(error.code(), chainalytics_common::ErrorCode::KafkaUnreachable, "{error}");
}
