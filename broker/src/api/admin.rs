//! Topics created, extended, emptied, described, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{Caller, blocking, text};
use crate::broker::{NODE_ID, Shared};
use crate::topics::TopicError;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Sources of a setting, as DescribeConfigs numbers them.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;

pub(super) async fn create_topics(shared: Arc<Shared>, request: CreateTopicsRequest, caller: Caller) -> CreateTopicsResponse {
    let broker = Arc::clone(&shared);
    let results = blocking(move || {
        let create = |topic| create_topic(&broker, topic, request.validate_only, caller.version);
        request.topics.into_iter().map(create).collect()
    });
    let results: Vec<CreatableTopicResult> = results.await.unwrap_or_default();
    shared.changed();
    CreateTopicsResponse::default().with_topics(results)
}

fn create_topic(shared: &Shared, topic: CreatableTopic, validate_only: bool, version: i16) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(topic.name.clone()).with_error_message(None);
    let failed = |error: &TopicError| {
        let result = result.clone().with_error_code(error.code.code());
        result.with_error_message(Some(text(&error.message)))
    };
    if topic.replication_factor > 1 {
        let message = "a single broker keeps one replica of each partition".to_owned();
        return failed(&TopicError { code: ResponseError::InvalidReplicationFactor, message });
    }
    let partitions = match (topic.num_partitions, topic.assignments.len()) {
        (-1, 0) => shared.options.default_partitions,
        (-1, assigned) => assigned as i32,
        (count, _) => count,
    };
    let configs: BTreeMap<String, String> =
        topic.configs.iter().filter_map(|c| c.value.as_ref().map(|value| (c.name.to_string(), value.to_string()))).collect();
    match shared.topics.create(&topic.name, partitions, configs, validate_only) {
        Ok(created) => {
            let result = if version >= 5 { result.with_num_partitions(partitions).with_replication_factor(1) } else { result };
            match created {
                Some(topic) if version >= 7 => result.with_topic_id(topic.id()),
                _ => result,
            }
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn delete_topics(shared: Arc<Shared>, request: DeleteTopicsRequest, caller: Caller) -> DeleteTopicsResponse {
    let broker = Arc::clone(&shared);
    let results = blocking(move || {
        let by_state = request.topics.into_iter().map(|t| (t.name, t.topic_id));
        let by_name = request.topic_names.into_iter().map(|name| (Some(name), uuid::Uuid::nil()));
        let mut results = Vec::new();
        for (name, id) in by_state.chain(by_name) {
            let by_id = || broker.topics.get_by_id(id).map(|t| TopicName(text(t.name())));
            let Some(name) = name.or_else(by_id) else {
                let result = DeletableTopicResult::default().with_name(None).with_topic_id(id);
                results.push(result.with_error_code(ResponseError::UnknownTopicId.code()));
                continue;
            };
            let result = DeletableTopicResult::default().with_name(Some(name.clone()));
            results.push(match broker.topics.delete(&name) {
                Ok(id) => {
                    if let Err(error) = broker.offsets.remove_topic(&name) {
                        tracing::warn!(%error, "cannot remove a deleted topic's committed offsets");
                    }
                    if caller.version >= 6 { result.with_topic_id(id) } else { result }
                }
                Err(error) => {
                    let result = result.with_error_code(error.code.code());
                    let explains = caller.version >= 5;
                    if explains { result.with_error_message(Some(text(&error.message))) } else { result }
                }
            });
        }
        results
    });
    let results = results.await.unwrap_or_default();
    shared.changed();
    DeleteTopicsResponse::default().with_responses(results)
}

pub(super) async fn create_partitions(shared: Arc<Shared>, request: CreatePartitionsRequest, _caller: Caller) -> CreatePartitionsResponse {
    let results = blocking(move || {
        let grow = |topic: kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic| {
            let grown = shared.topics.grow(&topic.name, topic.count, request.validate_only);
            let result = CreatePartitionsTopicResult::default().with_name(topic.name).with_error_message(None);
            match grown {
                Ok(()) => result,
                Err(error) => result.with_error_code(error.code.code()).with_error_message(Some(text(&error.message))),
            }
        };
        request.topics.into_iter().map(grow).collect()
    });
    CreatePartitionsResponse::default().with_results(results.await.unwrap_or_default())
}

pub(super) async fn delete_records(shared: Arc<Shared>, request: DeleteRecordsRequest, _caller: Caller) -> DeleteRecordsResponse {
    let broker = Arc::clone(&shared);
    let topics = blocking(move || {
        let mut topics = Vec::new();
        for wanted in request.topics {
            let topic = broker.topics.get(&wanted.name);
            let partitions = wanted.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let result = DeleteRecordsPartitionResult::default().with_partition_index(index).with_low_watermark(-1);
                let Some(log) = topic.as_ref().and_then(|t| t.partition(index)) else {
                    return result.with_error_code(ResponseError::UnknownTopicOrPartition.code());
                };
                match log.delete_before(partition.offset) {
                    Ok(Some(low)) => result.with_low_watermark(low),
                    Ok(None) => result.with_error_code(ResponseError::OffsetOutOfRange.code()),
                    Err(error) => {
                        tracing::error!(%error, "cannot move a log's start");
                        result.with_error_code(ResponseError::KafkaStorageError.code())
                    }
                }
            });
            let partitions = partitions.collect();
            topics.push(DeleteRecordsTopicResult::default().with_name(wanted.name).with_partitions(partitions));
        }
        topics
    });
    let topics = topics.await.unwrap_or_default();
    shared.changed();
    DeleteRecordsResponse::default().with_topics(topics)
}

pub(super) async fn describe_configs(shared: Arc<Shared>, request: DescribeConfigsRequest, _caller: Caller) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| describe_resource(&shared, resource));
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe_resource(shared: &Shared, resource: DescribeConfigsResource) -> DescribeConfigsResult {
    let name = resource.resource_name.to_string();
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name)
        .with_error_message(None);
    let wanted = |key: &str| resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| **k == *key));
    let entry = |key: &'static str, value: String, source: i8, read_only: bool| {
        DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_static_str(key))
            .with_value(Some(StrBytes::from_string(value)))
            .with_config_source(source)
            .with_read_only(read_only)
    };
    let configs: Vec<DescribeConfigsResourceResult> = match resource.resource_type {
        RESOURCE_TOPIC => {
            let Some(topic) = shared.topics.get(&name) else {
                return result.with_error_code(ResponseError::UnknownTopicOrPartition.code());
            };
            let own = |set: bool| if set { SOURCE_TOPIC } else { SOURCE_DEFAULT };
            let configs = topic.configs().into_iter().filter(|(key, ..)| wanted(key));
            configs.map(|(key, value, set)| entry(key, value, own(set), false)).collect()
        }
        RESOURCE_BROKER if name == NODE_ID.to_string() || name.is_empty() => {
            let options = &shared.options;
            let configs = [
                ("auto.create.topics.enable", options.auto_create_topics.to_string()),
                ("default.replication.factor", "1".to_owned()),
                ("num.partitions", options.default_partitions.to_string()),
                ("socket.request.max.bytes", options.request_bytes_max.to_string()),
                ("message.max.bytes", options.log.max_batch_bytes.to_string()),
            ];
            let configs = configs.into_iter().filter(|(key, _)| wanted(key));
            configs.map(|(key, value)| entry(key, value, SOURCE_DEFAULT, true)).collect()
        }
        _ => return result.with_error_code(ResponseError::InvalidRequest.code()),
    };
    result.with_configs(configs)
}
