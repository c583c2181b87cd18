//! Metadata and DescribeCluster: which topics there are, and that this node leads all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse, MetadataRequest, MetadataResponse, TopicName};

use super::{Caller, blocking, text};
use crate::broker::{NODE_ID, Shared};
use crate::log::LEADER_EPOCH;
use crate::topics::{self, Topic};

/// Describes the topics asked for, or all.
pub(super) async fn metadata(shared: Arc<Shared>, request: MetadataRequest, caller: Caller) -> MetadataResponse {
    let version = caller.version;
    let may_create = shared.options.auto_create_topics && (request.allow_auto_topic_creation || version < 4);
    let all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let topics = if all {
        shared.topics.all().iter().map(|t| describe(t)).collect()
    } else {
        let mut described = Vec::new();
        for wanted in request.topics.unwrap_or_default() {
            described.push(describe_wanted(&shared, wanted, may_create, version).await);
        }
        described
    };
    let broker = MetadataResponseBroker::default().with_node_id(BrokerId(NODE_ID)).with_host(text(&shared.host)).with_port(i32::from(shared.port));
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(&shared.cluster_id)))
        .with_controller_id(BrokerId(NODE_ID))
        .with_topics(topics)
}

async fn describe_wanted(shared: &Arc<Shared>, wanted: MetadataRequestTopic, may_create: bool, version: i16) -> MetadataResponseTopic {
    let failed = MetadataResponseTopic::default().with_topic_id(wanted.topic_id);
    let Some(name) = wanted.name else {
        return match shared.topics.get_by_id(wanted.topic_id) {
            Some(topic) => describe(&topic),
            // before version 12 the name cannot be null
            None if version < 12 => failed.with_error_code(ResponseError::UnknownTopicId.code()),
            None => failed.with_name(None).with_error_code(ResponseError::UnknownTopicId.code()),
        };
    };
    if let Some(topic) = shared.topics.get(&name) {
        return describe(&topic);
    }
    let failed = failed.with_name(Some(name.clone()));
    if let Err(error) = topics::check_name(&name) {
        return failed.with_error_code(error.code.code());
    }
    if !may_create {
        return failed.with_error_code(ResponseError::UnknownTopicOrPartition.code());
    }
    let (broker, new_name) = (Arc::clone(shared), name.to_string());
    let partitions = shared.options.default_partitions;
    let created = blocking(move || broker.topics.create(&new_name, partitions, BTreeMap::new(), false)).await;
    match created {
        Some(Ok(Some(topic))) => describe(&topic),
        // somebody else was quicker
        Some(Err(_)) if shared.topics.get(&name).is_some() => shared.topics.get(&name).map_or(failed, |topic| describe(&topic)),
        Some(Err(error)) => failed.with_error_code(error.code.code()),
        _ => failed.with_error_code(ResponseError::UnknownServerError.code()),
    }
}

fn describe(topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions().len()).map(|index| {
        MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(BrokerId(NODE_ID))
            .with_leader_epoch(LEADER_EPOCH)
            .with_replica_nodes(vec![BrokerId(NODE_ID)])
            .with_isr_nodes(vec![BrokerId(NODE_ID)])
    });
    MetadataResponseTopic::default().with_name(Some(TopicName(text(topic.name())))).with_topic_id(topic.id()).with_partitions(partitions.collect())
}

/// The cluster of one.
pub(super) async fn describe_cluster(shared: Arc<Shared>, request: DescribeClusterRequest, caller: Caller) -> DescribeClusterResponse {
    let broker = DescribeClusterBroker::default().with_broker_id(BrokerId(NODE_ID)).with_host(text(&shared.host)).with_port(i32::from(shared.port));
    let response =
        DescribeClusterResponse::default().with_cluster_id(text(&shared.cluster_id)).with_controller_id(BrokerId(NODE_ID)).with_brokers(vec![broker]);
    if caller.version >= 1 { response.with_endpoint_type(request.endpoint_type) } else { response }
}
