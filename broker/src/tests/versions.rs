//! Every API is called in every version offered: a field that an old version lacks must not break its answer.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::Running;
use crate::api::VERSIONS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

fn group() -> GroupId {
    GroupId(StrBytes::from_static_str("g"))
}

/// A request that makes the handler fill as much of the answer as it can, also with errors.
fn body(api: ApiKey, v: i16, out: &mut BytesMut) {
    let encoded = match api {
        ApiKey::Produce => {
            let batch = |i| {
                produce_request::PartitionProduceData::default()
                    .with_index(i)
                    .with_records(Some(crate::log::batch::tests::client_batch(2, None, 0).into()))
            };
            let topic = produce_request::TopicProduceData::default().with_name(name()).with_partition_data(vec![
                batch(0),
                batch(9),
                batch(1).with_records(None),
            ]);
            ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]).encode(out, v)
        }
        ApiKey::Fetch => {
            let partition =
                |i, offset| fetch_request::FetchPartition::default().with_partition(i).with_fetch_offset(offset).with_partition_max_bytes(1000);
            let topic = fetch_request::FetchTopic::default().with_partitions(vec![partition(0, 0), partition(1, 99), partition(9, 0)]);
            let topic = if v < 13 { topic.with_topic(name()) } else { topic };
            FetchRequest::default().with_max_bytes(1000).with_topics(vec![topic]).encode(out, v)
        }
        ApiKey::ListOffsets => {
            let partition = |i, t| list_offsets_request::ListOffsetsPartition::default().with_partition_index(i).with_timestamp(t);
            let topic = list_offsets_request::ListOffsetsTopic::default().with_name(name()).with_partitions(vec![
                partition(0, -1),
                partition(0, -2),
                partition(0, -3),
                partition(0, 5),
                partition(9, -1),
            ]);
            ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]).encode(out, v)
        }
        ApiKey::Metadata => {
            let named = metadata_request::MetadataRequestTopic::default().with_name(Some(name()));
            let missing = metadata_request::MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_static_str("missing"))));
            MetadataRequest::default().with_topics(Some(vec![named, missing])).encode(out, v)
        }
        ApiKey::OffsetCommit => {
            let partition = |i| {
                offset_commit_request::OffsetCommitRequestPartition::default()
                    .with_partition_index(i)
                    .with_committed_offset(5)
                    .with_committed_metadata(Some(StrBytes::from_static_str("m")))
            };
            let topic =
                offset_commit_request::OffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![partition(0), partition(9)]);
            OffsetCommitRequest::default().with_group_id(group()).with_generation_id_or_member_epoch(-1).with_topics(vec![topic]).encode(out, v)
        }
        ApiKey::OffsetFetch if v >= 8 => {
            let topic = offset_fetch_request::OffsetFetchRequestTopics::default().with_name(name()).with_partition_indexes(vec![0, 1]);
            let group = offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![topic]));
            OffsetFetchRequest::default().with_groups(vec![group]).encode(out, v)
        }
        ApiKey::OffsetFetch => {
            let topic = offset_fetch_request::OffsetFetchRequestTopic::default().with_name(name()).with_partition_indexes(vec![0, 1]);
            OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topic])).encode(out, v)
        }
        ApiKey::FindCoordinator => {
            let request = FindCoordinatorRequest::default();
            let request = if v >= 1 { request.with_key_type(1) } else { request };
            let key = StrBytes::from_static_str("g");
            if v >= 4 { request.with_coordinator_keys(vec![key]) } else { request.with_key(key) }.encode(out, v)
        }
        ApiKey::JoinGroup => {
            let protocol = join_group_request::JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("range"));
            JoinGroupRequest::default()
                .with_group_id(GroupId(StrBytes::from_string(format!("join-{v}"))))
                .with_session_timeout_ms(10_000)
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![protocol])
                .encode(out, v)
        }
        ApiKey::Heartbeat => HeartbeatRequest::default().with_group_id(group()).encode(out, v),
        ApiKey::LeaveGroup => {
            let request = LeaveGroupRequest::default().with_group_id(group());
            let member = leave_group_request::MemberIdentity::default();
            if v >= 3 { request.with_members(vec![member]) } else { request }.encode(out, v)
        }
        ApiKey::SyncGroup => SyncGroupRequest::default().with_group_id(group()).encode(out, v),
        ApiKey::DescribeGroups => {
            let joined = GroupId(StrBytes::from_static_str("join-7"));
            DescribeGroupsRequest::default().with_groups(vec![group(), joined]).encode(out, v)
        }
        ApiKey::ListGroups => ListGroupsRequest::default().encode(out, v),
        ApiKey::ApiVersions => ApiVersionsRequest::default().encode(out, v),
        ApiKey::CreateTopics => {
            let topic = |n: &'static str, partitions| {
                create_topics_request::CreatableTopic::default()
                    .with_name(TopicName(StrBytes::from_static_str(n)))
                    .with_num_partitions(partitions)
                    .with_replication_factor(1)
            };
            let topics = vec![topic("t", 2), topic("bad name", 1), topic("u", 0)];
            CreateTopicsRequest::default().with_topics(topics).encode(out, v)
        }
        ApiKey::DeleteTopics => {
            let missing = TopicName(StrBytes::from_static_str("missing"));
            let request = DeleteTopicsRequest::default();
            if v >= 6 {
                let state = delete_topics_request::DeleteTopicState::default();
                let unknown = state.clone().with_name(None).with_topic_id(uuid::Uuid::new_v4());
                request.with_topics(vec![state.with_name(Some(missing)), unknown])
            } else {
                request.with_topic_names(vec![missing])
            }
            .encode(out, v)
        }
        ApiKey::DeleteRecords => {
            let partition = |i| delete_records_request::DeleteRecordsPartition::default().with_partition_index(i).with_offset(1);
            let topic = delete_records_request::DeleteRecordsTopic::default().with_name(name()).with_partitions(vec![partition(0), partition(9)]);
            DeleteRecordsRequest::default().with_topics(vec![topic]).encode(out, v)
        }
        ApiKey::InitProducerId => InitProducerIdRequest::default().with_transactional_id(None).encode(out, v),
        ApiKey::OffsetForLeaderEpoch => {
            let partition = |i| offset_for_leader_epoch_request::OffsetForLeaderPartition::default().with_partition(i).with_leader_epoch(0);
            let topic =
                offset_for_leader_epoch_request::OffsetForLeaderTopic::default().with_topic(name()).with_partitions(vec![partition(0), partition(9)]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![topic]).encode(out, v)
        }
        ApiKey::DescribeConfigs => {
            let resource = |kind, n: &'static str| {
                describe_configs_request::DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(StrBytes::from_static_str(n))
                    .with_configuration_keys(None)
            };
            let resources = vec![resource(2, "t"), resource(2, "missing"), resource(4, "1"), resource(8, "x")];
            DescribeConfigsRequest::default().with_resources(resources).encode(out, v)
        }
        ApiKey::CreatePartitions => {
            let topic = |n: &'static str| {
                create_partitions_request::CreatePartitionsTopic::default()
                    .with_name(TopicName(StrBytes::from_static_str(n)))
                    .with_count(3 + i32::from(v))
                    .with_assignments(None)
            };
            CreatePartitionsRequest::default().with_topics(vec![topic("t"), topic("missing")]).encode(out, v)
        }
        ApiKey::DeleteGroups => DeleteGroupsRequest::default().with_groups_names(vec![group()]).encode(out, v),
        ApiKey::DescribeCluster => DescribeClusterRequest::default().encode(out, v),
        other => panic!("no request for {other:?}"),
    };
    encoded.unwrap_or_else(|e| panic!("{api:?} {v}: {e}"));
}

#[tokio::test]
async fn every_version_is_answered() {
    let broker = Running::start().await;
    let mut stream = TcpStream::connect(&broker.address).await.unwrap();
    // topics first, so that the others have something to talk about
    let mut apis = VERSIONS.to_vec();
    apis.sort_by_key(|(api, ..)| *api != ApiKey::CreateTopics);
    for (api, lowest, highest) in apis {
        for version in lowest..=highest {
            let header = RequestHeader::default()
                .with_request_api_key(api as i16)
                .with_request_api_version(version)
                .with_correlation_id(1)
                .with_client_id(Some(StrBytes::from_static_str("c")));
            let mut frame = BytesMut::new();
            frame.put_i32(0);
            header.encode(&mut frame, api.request_header_version(version)).unwrap();
            body(api, version, &mut frame);
            let length = (frame.len() - 4) as i32;
            frame[..4].copy_from_slice(&length.to_be_bytes());
            stream.write_all(&frame).await.unwrap();
            let size = stream.read_i32().await.unwrap_or_else(|e| panic!("{api:?} {version}: {e}"));
            let mut answer = vec![0; size as usize];
            stream.read_exact(&mut answer).await.unwrap();
            let mut answer = bytes::Bytes::from(answer);
            use kafka_protocol::protocol::Decodable;
            ResponseHeader::decode(&mut answer, api.response_header_version(version)).unwrap();
            macro_rules! whole {
                ($($key:ident => $response:ty),* $(,)?) => {
                    match api {
                        $(ApiKey::$key => { <$response>::decode(&mut answer, version).unwrap(); })*
                        other => panic!("no response for {other:?}"),
                    }
                };
            }
            whole!(
                Produce => ProduceResponse, Fetch => FetchResponse, ListOffsets => ListOffsetsResponse,
                Metadata => MetadataResponse, OffsetCommit => OffsetCommitResponse, OffsetFetch => OffsetFetchResponse,
                FindCoordinator => FindCoordinatorResponse, JoinGroup => JoinGroupResponse,
                Heartbeat => HeartbeatResponse, LeaveGroup => LeaveGroupResponse, SyncGroup => SyncGroupResponse,
                DescribeGroups => DescribeGroupsResponse, ListGroups => ListGroupsResponse,
                ApiVersions => ApiVersionsResponse, CreateTopics => CreateTopicsResponse,
                DeleteTopics => DeleteTopicsResponse, DeleteRecords => DeleteRecordsResponse,
                InitProducerId => InitProducerIdResponse, OffsetForLeaderEpoch => OffsetForLeaderEpochResponse,
                DescribeConfigs => DescribeConfigsResponse, CreatePartitions => CreatePartitionsResponse,
                DeleteGroups => DeleteGroupsResponse, DescribeCluster => DescribeClusterResponse,
            );
            assert!(answer.is_empty(), "{api:?} {version} leaves {} bytes", answer.len());
        }
    }
    broker.stop_and_remove().await;
}
