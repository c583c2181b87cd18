//! ListOffsets and OffsetForLeaderEpoch: positions by time and by epoch.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{Caller, blocking};
use crate::broker::Shared;
use crate::log::{LEADER_EPOCH, PartitionLog};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// Offsets: earliest, latest, of the largest timestamp, or of the first record not older than a timestamp.
pub(super) async fn list_offsets(shared: Arc<Shared>, request: ListOffsetsRequest, caller: Caller) -> ListOffsetsResponse {
    let topics = blocking(move || {
        let mut topics = Vec::with_capacity(request.topics.len());
        for wanted in request.topics {
            let topic = shared.topics.get(&wanted.name);
            let partitions = wanted.partitions.iter().map(|partition| {
                let response =
                    ListOffsetsPartitionResponse::default().with_partition_index(partition.partition_index).with_timestamp(-1).with_offset(-1);
                let log = topic.as_ref().and_then(|t| t.partition(partition.partition_index));
                let Some(log) = log else {
                    return response.with_error_code(ResponseError::UnknownTopicOrPartition.code());
                };
                match position(log, partition.timestamp) {
                    Ok(Some((offset, timestamp))) => {
                        let response = response.with_offset(offset).with_timestamp(timestamp);
                        if caller.version >= 4 { response.with_leader_epoch(LEADER_EPOCH) } else { response }
                    }
                    Ok(None) => response,
                    Err(error) => {
                        tracing::error!(%error, "cannot look up an offset");
                        response.with_error_code(ResponseError::KafkaStorageError.code())
                    }
                }
            });
            let partitions = partitions.collect();
            topics.push(ListOffsetsTopicResponse::default().with_name(wanted.name).with_partitions(partitions));
        }
        topics
    });
    ListOffsetsResponse::default().with_topics(topics.await.unwrap_or_default())
}

fn position(log: &PartitionLog, timestamp: i64) -> std::io::Result<Option<(i64, i64)>> {
    match timestamp {
        LATEST => Ok(Some((log.next_offset(), -1))),
        EARLIEST => Ok(Some((log.log_start(), -1))),
        MAX_TIMESTAMP => log.offset_of_max_timestamp(),
        _ => log.offset_for_timestamp(timestamp),
    }
}

/// There is one leader epoch only; it ends where the log ends.
pub(super) async fn epoch_end(shared: Arc<Shared>, request: OffsetForLeaderEpochRequest, _caller: Caller) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|wanted| {
        let topic = shared.topics.get(&wanted.topic);
        let partitions = wanted.partitions.iter().map(|partition| {
            let response = EpochEndOffset::default().with_partition(partition.partition);
            match topic.as_ref().and_then(|t| t.partition(partition.partition)) {
                None => response.with_error_code(ResponseError::UnknownTopicOrPartition.code()),
                Some(_) if partition.leader_epoch > LEADER_EPOCH => response,
                Some(log) => response.with_leader_epoch(LEADER_EPOCH).with_end_offset(log.next_offset()),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(wanted.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
