//! Requests written by hand where a client library would not send them.

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, CreateTopicsRequest, CreateTopicsResponse, FetchRequest, FetchResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Running;
use crate::log::batch::tests::client_batch;

async fn call<R: Decodable>(stream: &mut TcpStream, api: ApiKey, version: i16, request: &impl Encodable) -> R {
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    let mut frame = BytesMut::new();
    header.encode(&mut frame, api.request_header_version(version)).unwrap();
    request.encode(&mut frame, version).unwrap();
    stream.write_i32(frame.len() as i32).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let size = stream.read_i32().await.unwrap();
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).await.unwrap();
    let mut body = Bytes::from(body);
    // ApiVersions answers in version 0 when the version asked for is unknown
    let version = if api == ApiKey::ApiVersions && version > 4 { 0 } else { version };
    let header = ResponseHeader::decode(&mut body, api.response_header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 7);
    R::decode(&mut body, version).unwrap()
}

async fn create(stream: &mut TcpStream, name: &'static str) {
    let topic = kafka_protocol::messages::create_topics_request::CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(name)))
        .with_num_partitions(2)
        .with_replication_factor(-1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000);
    let response: CreateTopicsResponse = call(stream, ApiKey::CreateTopics, 7, &request).await;
    assert_eq!(response.topics[0].error_code, 0);
}

async fn produce(stream: &mut TcpStream, topic: &'static str, batch: Vec<u8>) -> (i16, i64) {
    let partition = PartitionProduceData::default().with_index(0).with_records(Some(Bytes::from(batch)));
    let data = TopicProduceData::default().with_name(TopicName(StrBytes::from_static_str(topic))).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![data]);
    let response: ProduceResponse = call(stream, ApiKey::Produce, 9, &request).await;
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

#[tokio::test]
async fn duplicates_are_dropped_and_gaps_refused() {
    let broker = Running::start().await;
    let mut stream = TcpStream::connect(&broker.address).await.unwrap();
    create(&mut stream, "t").await;
    assert_eq!(produce(&mut stream, "t", client_batch(10, Some((9, 0, 0)), 0)).await, (0, 0));
    assert_eq!(produce(&mut stream, "t", client_batch(10, Some((9, 0, 10)), 0)).await, (0, 10));
    assert_eq!(produce(&mut stream, "t", client_batch(10, Some((9, 0, 0)), 0)).await, (0, 0));
    let gap = produce(&mut stream, "t", client_batch(10, Some((9, 0, 30)), 0)).await;
    assert_eq!(gap, (ResponseError::OutOfOrderSequenceNumber.code(), -1));
    let unknown = produce(&mut stream, "missing", client_batch(1, None, 0)).await;
    assert_eq!(unknown.0, ResponseError::UnknownTopicOrPartition.code());
    let mut damaged = client_batch(1, None, 0);
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(produce(&mut stream, "t", damaged).await.0, ResponseError::CorruptMessage.code());
    assert_eq!(produce(&mut stream, "t", client_batch(1, None, 0)).await, (0, 20));
    broker.stop_and_remove().await;
}

#[tokio::test]
async fn a_waiting_fetch_is_woken_by_an_append() {
    let broker = Running::start().await;
    let mut stream = TcpStream::connect(&broker.address).await.unwrap();
    create(&mut stream, "t").await;
    let metadata = MetadataRequest::default().with_topics(None);
    let metadata: MetadataResponse = call(&mut stream, ApiKey::Metadata, 12, &metadata).await;
    let id = metadata.topics[0].topic_id;
    let fetch = |offset: i64, max_wait_ms: i32| {
        let partition = FetchPartition::default().with_partition(0).with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic_id(id).with_partitions(vec![partition]);
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(max_wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_topics(vec![topic])
    };
    let empty: FetchResponse = call(&mut stream, ApiKey::Fetch, 13, &fetch(0, 50)).await;
    assert!(empty.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
    let mut other = TcpStream::connect(&broker.address).await.unwrap();
    let started = std::time::Instant::now();
    let waiting = fetch(0, 20_000);
    let waiting = call::<FetchResponse>(&mut stream, ApiKey::Fetch, 13, &waiting);
    let (fetched, produced) = tokio::join!(waiting, async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        produce(&mut other, "t", client_batch(3, None, 0)).await
    });
    assert_eq!(produced, (0, 0));
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
    let partition = &fetched.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.high_watermark, partition.log_start_offset), (0, 3, 0));
    assert!(!partition.records.as_ref().unwrap().is_empty());
    let beyond: FetchResponse = call(&mut stream, ApiKey::Fetch, 13, &fetch(4, 20_000)).await;
    assert_eq!(beyond.responses[0].partitions[0].error_code, ResponseError::OffsetOutOfRange.code());
    broker.stop_and_remove().await;
}

#[tokio::test]
async fn newer_clients_learn_the_versions_and_garbage_is_cut_off() {
    let broker = Running::start().await;
    let mut stream = TcpStream::connect(&broker.address).await.unwrap();
    let request = ApiVersionsRequest::default();
    // the body of an unknown version is not looked at
    let header = |version: i16| {
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&(ApiKey::ApiVersions as i16).to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&7i32.to_be_bytes());
        frame
    };
    let frame = header(99);
    stream.write_i32(frame.len() as i32).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let size = stream.read_i32().await.unwrap();
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).await.unwrap();
    let mut body = Bytes::from(body).slice(4..);
    let versions = ApiVersionsResponse::decode(&mut body, 0).unwrap();
    assert_eq!(versions.error_code, ResponseError::UnsupportedVersion.code());
    assert_eq!(versions.api_keys.len(), crate::api::VERSIONS.len());
    let versions: ApiVersionsResponse = call(&mut stream, ApiKey::ApiVersions, 3, &request).await;
    assert_eq!(versions.error_code, 0);

    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 4, 0x7f, 0x7f, 0, 0], &[0, 0, 0, 1, 0], &[255; 8]] {
        let mut stream = TcpStream::connect(&broker.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok() && rest.is_empty());
    }
    broker.stop_and_remove().await;
}
