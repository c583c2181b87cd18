//! Requests: which are understood, in which versions, and who answers them.

mod admin;
mod fetch;
mod groups;
mod list_offsets;
mod metadata;
mod offsets;
mod produce;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader, ResponseHeader, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::broker::Shared;
use crate::connection::Answer;

/// Versions answered: api, lowest, highest. What stands here works; what doesn't is not offered, so that clients choose
/// another way or say that the broker lacks it.
pub(crate) const VERSIONS: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 3, 11),
    (ApiKey::Fetch, 4, 16),
    (ApiKey::ListOffsets, 1, 7),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::OffsetCommit, 2, 8),
    (ApiKey::OffsetFetch, 1, 8),
    (ApiKey::FindCoordinator, 0, 4),
    (ApiKey::JoinGroup, 0, 7),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 4),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 4),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 4),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::DescribeCluster, 0, 1),
];

/// A request that cannot be answered; its connection is closed, as Apache Kafka does.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Not a request at all, or one for an API that was not offered.
    #[error("unknown or unsupported request: api key {api_key}, version {version}")]
    Unsupported {
        /// The key.
        api_key: i16,
        /// The version.
        version: i16,
    },
    /// Bytes that don't decode.
    #[error("malformed {api:?} request: {reason}")]
    Malformed {
        /// The API, if known so far.
        api: Option<ApiKey>,
        /// The decoder's words.
        reason: String,
    },
    /// A defect of the broker.
    #[error("cannot encode the answer to {api:?} version {version}: {reason}")]
    Encode {
        /// The API.
        api: ApiKey,
        /// The version.
        version: i16,
        /// The encoder's words.
        reason: String,
    },
}

/// What a handler may want to know about the request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub version: i16,
    pub client_id: String,
    pub peer: SocketAddr,
}

/// Decodes a request, has it answered, encodes the answer.
pub async fn answer(shared: &Arc<Shared>, frame: Bytes, peer: SocketAddr) -> Result<Answer, ProtocolError> {
    let malformed = |api, reason: String| ProtocolError::Malformed { api, reason };
    let (Some(key), Some(version)) = (be_i16(&frame, 0), be_i16(&frame, 2)) else {
        return Err(malformed(None, "shorter than a header".to_owned()));
    };
    let unsupported = ProtocolError::Unsupported { api_key: key, version };
    let Some(&(api, lowest, highest)) = VERSIONS.iter().find(|(api, ..)| *api as i16 == key) else {
        return Err(unsupported);
    };
    if !(lowest..=highest).contains(&version) {
        if api == ApiKey::ApiVersions {
            // a newer client finds out with version 0 what it may use
            let correlation_id = be_i32(&frame, 4).unwrap_or(0);
            let body = api_versions().with_error_code(ResponseError::UnsupportedVersion.code());
            return encode(api, 0, correlation_id, &body);
        }
        return Err(unsupported);
    }
    let mut body = frame;
    let header = RequestHeader::decode(&mut body, api.request_header_version(version)).map_err(|e| malformed(Some(api), e.to_string()))?;
    let client_id = header.client_id.as_ref().map_or_else(String::new, |id| id.to_string());
    let caller = Caller { version, client_id, peer };
    let id = header.correlation_id;

    macro_rules! answered {
        ($request:ty, $handler:expr) => {{
            let request = <$request>::decode(&mut body, version).map_err(|e| malformed(Some(api), e.to_string()))?;
            let response = $handler(Arc::clone(shared), request, caller).await;
            encode(api, version, id, &response)
        }};
    }
    match api {
        ApiKey::Produce => {
            let request = ProduceRequest::decode(&mut body, version).map_err(|e| malformed(Some(api), e.to_string()))?;
            let wants_answer = request.acks != 0;
            let response = produce::produce(Arc::clone(shared), request, caller).await;
            if wants_answer { encode(api, version, id, &response) } else { Ok(Answer::default()) }
        }
        ApiKey::Fetch => {
            let request = FetchRequest::decode(&mut body, version).map_err(|e| malformed(Some(api), e.to_string()))?;
            drop(body);
            let (response, budget) = fetch::fetch(Arc::clone(shared), request, caller).await;
            encode(api, version, id, &response).map(|answer| Answer { budget, ..answer })
        }
        ApiKey::ApiVersions => encode(api, version, id, &api_versions()),
        ApiKey::ListOffsets => answered!(ListOffsetsRequest, list_offsets::list_offsets),
        ApiKey::OffsetForLeaderEpoch => answered!(OffsetForLeaderEpochRequest, list_offsets::epoch_end),
        ApiKey::Metadata => answered!(MetadataRequest, metadata::metadata),
        ApiKey::DescribeCluster => answered!(DescribeClusterRequest, metadata::describe_cluster),
        ApiKey::CreateTopics => answered!(CreateTopicsRequest, admin::create_topics),
        ApiKey::DeleteTopics => answered!(DeleteTopicsRequest, admin::delete_topics),
        ApiKey::CreatePartitions => answered!(CreatePartitionsRequest, admin::create_partitions),
        ApiKey::DeleteRecords => answered!(DeleteRecordsRequest, admin::delete_records),
        ApiKey::DescribeConfigs => answered!(DescribeConfigsRequest, admin::describe_configs),
        ApiKey::InitProducerId => answered!(InitProducerIdRequest, produce::init_producer_id),
        ApiKey::FindCoordinator => answered!(FindCoordinatorRequest, groups::find_coordinator),
        ApiKey::JoinGroup => answered!(JoinGroupRequest, groups::join),
        ApiKey::SyncGroup => answered!(SyncGroupRequest, groups::sync),
        ApiKey::Heartbeat => answered!(HeartbeatRequest, groups::heartbeat),
        ApiKey::LeaveGroup => answered!(LeaveGroupRequest, groups::leave),
        ApiKey::ListGroups => answered!(ListGroupsRequest, groups::list),
        ApiKey::DescribeGroups => answered!(DescribeGroupsRequest, groups::describe),
        ApiKey::DeleteGroups => answered!(DeleteGroupsRequest, groups::delete),
        ApiKey::OffsetCommit => answered!(OffsetCommitRequest, offsets::commit),
        ApiKey::OffsetFetch => answered!(OffsetFetchRequest, offsets::fetch),
        _ => Err(unsupported),
    }
}

fn api_versions() -> ApiVersionsResponse {
    let versions = VERSIONS
        .iter()
        .map(|(api, lowest, highest)| ApiVersion::default().with_api_key(*api as i16).with_min_version(*lowest).with_max_version(*highest));
    ApiVersionsResponse::default().with_api_keys(versions.collect())
}

fn encode(api: ApiKey, version: i16, correlation_id: i32, body: &impl Encodable) -> Result<Answer, ProtocolError> {
    let failed = |reason: String| ProtocolError::Encode { api, version, reason };
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let size = body.compute_size(version).map_err(|e| failed(e.to_string()))?;
    // length, correlation id, tags
    let mut frame = BytesMut::with_capacity(size + 16);
    frame.extend_from_slice(&[0; 4]);
    header.encode(&mut frame, api.response_header_version(version)).map_err(|e| failed(e.to_string()))?;
    body.encode(&mut frame, version).map_err(|e| failed(e.to_string()))?;
    let length = i32::try_from(frame.len() - 4).map_err(|e| failed(e.to_string()))?;
    if let Some(field) = frame.get_mut(..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    Ok(Answer { frame: Some(frame), budget: None })
}

/// Runs file-system work off the async threads. `None` only if it panicked.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "blocking work died");
            None
        }
    }
}

/// An owned text that doesn't hold the request's buffer.
pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn be_i16(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be_i32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
