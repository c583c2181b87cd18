//! OffsetCommit and OffsetFetch.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, TopicName};

use super::{Caller, blocking, text};
use crate::broker::Shared;
use crate::offsets::{Committed, METADATA_BYTES_MAX};

/// First version that asks for several groups at once.
const GROUPS_VERSION: i16 = 8;

pub(super) async fn commit(shared: Arc<Shared>, request: OffsetCommitRequest, _caller: Caller) -> OffsetCommitResponse {
    let group = request.group_id.to_string();
    let allowed = shared.groups.check_commit(&group, &request.member_id, request.generation_id_or_member_epoch);
    let mut positions = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in &request.topics {
        let topic = shared.topics.get(&wanted.name);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for partition in &wanted.partitions {
            let index = partition.partition_index;
            let metadata = partition.committed_metadata.as_ref().map(|m| m.to_string());
            let exists = topic.as_ref().is_some_and(|t| t.partition(index).is_some());
            let error = match &allowed {
                Err(error) => Some(*error),
                Ok(()) if !exists => Some(ResponseError::UnknownTopicOrPartition),
                Ok(()) if metadata.as_ref().is_some_and(|m| m.len() > METADATA_BYTES_MAX) => Some(ResponseError::OffsetMetadataTooLarge),
                Ok(()) => None,
            };
            if error.is_none() {
                let (offset, leader_epoch) = (partition.committed_offset, partition.committed_leader_epoch);
                positions.push((wanted.name.to_string(), index, Committed { offset, leader_epoch, metadata }));
            }
            let response = OffsetCommitResponsePartition::default().with_partition_index(index);
            partitions.push(response.with_error_code(error.map_or(0, |e| e.code())));
        }
        let response = OffsetCommitResponseTopic::default().with_name(wanted.name.clone());
        topics.push(response.with_partitions(partitions));
    }
    if !positions.is_empty() {
        let failed = match blocking(move || shared.offsets.commit(&group, positions)).await {
            Some(Ok(true)) => None,
            Some(Ok(false)) => Some(ResponseError::GroupMaxSizeReached),
            Some(Err(error)) => {
                tracing::error!(%error, "cannot store committed offsets");
                Some(ResponseError::KafkaStorageError)
            }
            None => Some(ResponseError::UnknownServerError),
        };
        if let Some(error) = failed {
            for partition in topics.iter_mut().flat_map(|t| t.partitions.iter_mut()) {
                partition.error_code = error.code();
            }
        }
    }
    OffsetCommitResponse::default().with_topics(topics)
}

pub(super) async fn fetch(shared: Arc<Shared>, request: OffsetFetchRequest, caller: Caller) -> OffsetFetchResponse {
    if caller.version >= GROUPS_VERSION {
        let groups = request.groups.into_iter().map(|wanted| {
            let asked = wanted.topics.map(|topics| topics.into_iter().map(|t| (t.name.to_string(), t.partition_indexes)).collect());
            let found = positions(&shared, &wanted.group_id, asked).into_iter().map(|(topic, partitions)| {
                let partitions = partitions.into_iter().map(|(index, committed)| {
                    let response = OffsetFetchResponsePartitions::default().with_partition_index(index);
                    let Some(c) = committed else { return response.with_committed_offset(-1).with_metadata(empty()) };
                    response
                        .with_committed_offset(c.offset)
                        .with_committed_leader_epoch(c.leader_epoch)
                        .with_metadata(c.metadata.as_deref().map(text).or_else(empty))
                });
                let response = OffsetFetchResponseTopics::default().with_name(TopicName(text(&topic)));
                response.with_partitions(partitions.collect())
            });
            let topics = found.collect();
            OffsetFetchResponseGroup::default().with_group_id(wanted.group_id).with_topics(topics)
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let asked = request.topics.map(|topics| topics.into_iter().map(|t| (t.name.to_string(), t.partition_indexes)).collect());
    let topics = positions(&shared, &request.group_id, asked).into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(index, committed)| {
            let response = OffsetFetchResponsePartition::default().with_partition_index(index);
            let Some(c) = committed else { return response.with_committed_offset(-1).with_metadata(empty()) };
            let response = response.with_committed_offset(c.offset).with_metadata(c.metadata.as_deref().map(text).or_else(empty));
            if caller.version >= 5 { response.with_committed_leader_epoch(c.leader_epoch) } else { response }
        });
        let response = OffsetFetchResponseTopic::default().with_name(TopicName(text(&topic)));
        response.with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

fn empty() -> Option<kafka_protocol::protocol::StrBytes> {
    Some(kafka_protocol::protocol::StrBytes::new())
}

type Positions = Vec<(String, Vec<(i32, Option<Committed>)>)>;

/// Committed positions of the partitions asked for (absent ones as `None`), or all that the group has.
fn positions(shared: &Shared, group: &str, asked: Option<Vec<(String, Vec<i32>)>>) -> Positions {
    let Some(asked) = asked else {
        let mut all: Positions = Vec::new();
        for (topic, partition, committed) in shared.offsets.all(group) {
            match all.last_mut() {
                Some((name, partitions)) if *name == topic => partitions.push((partition, Some(committed))),
                _ => all.push((topic, vec![(partition, Some(committed))])),
            }
        }
        return all;
    };
    let found = asked.into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|p| (p, shared.offsets.get(group, &topic, p))).collect();
        (topic, partitions)
    });
    found.collect()
}
