//! Produce and InitProducerId.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse, ProducerId};

use super::{Caller, blocking, text};
use crate::broker::Shared;
use crate::log::{AppendError, BatchError};
use crate::topics::Topic;

/// Appends each partition's batch and says where it went.
pub(super) async fn produce(shared: Arc<Shared>, request: ProduceRequest, caller: Caller) -> ProduceResponse {
    let refused = if !(-1..=1).contains(&request.acks) {
        Some(ResponseError::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        Some(ResponseError::TransactionalIdAuthorizationFailed)
    } else {
        None
    };
    let broker = Arc::clone(&shared);
    let responses = blocking(move || {
        let mut responses = Vec::with_capacity(request.topic_data.len());
        for data in request.topic_data {
            let topic = broker.topics.get(&data.name);
            let partitions = data.partition_data.into_iter().map(|partition| {
                let response = PartitionProduceResponse::default().with_index(partition.index).with_base_offset(-1);
                match refused {
                    Some(error) => response.with_error_code(error.code()),
                    None => append(&broker, topic.as_deref(), &data.name, partition, response, &caller),
                }
            });
            let partitions = partitions.collect();
            responses.push(TopicProduceResponse::default().with_name(data.name).with_partition_responses(partitions));
        }
        responses
    });
    let responses = responses.await.unwrap_or_default();
    shared.changed();
    ProduceResponse::default().with_responses(responses)
}

fn append(
    shared: &Shared,
    topic: Option<&Topic>,
    name: &str,
    data: PartitionProduceData,
    response: PartitionProduceResponse,
    caller: &Caller,
) -> PartitionProduceResponse {
    let log = topic.and_then(|t| t.partition(data.index).map(|log| (t, log)));
    let Some((topic, log)) = log else {
        return response.with_error_code(ResponseError::UnknownTopicOrPartition.code());
    };
    let records = data.records.unwrap_or_default();
    let appended = log.append(&records, topic.limits()).and_then(|appended| {
        if shared.options.flush_each_append {
            log.flush()?;
        }
        Ok(appended)
    });
    match appended {
        Ok(appended) => response.with_base_offset(appended.base_offset).with_log_start_offset(log.log_start()),
        Err(error) => {
            let code = code_of(&error);
            let reason = match &error {
                AppendError::Io(io) => format!("{error}: {io}"),
                _ => error.to_string(),
            };
            tracing::warn!(topic = name, partition = data.index, peer = %caller.peer, reason, "append refused");
            let response = response.with_error_code(code.code());
            if caller.version >= 8 { response.with_error_message(Some(text(&reason))) } else { response }
        }
    }
}

fn code_of(error: &AppendError) -> ResponseError {
    match error {
        AppendError::Batch(BatchError::Truncated | BatchError::Crc) => ResponseError::CorruptMessage,
        AppendError::Batch(BatchError::Magic(_)) => ResponseError::UnsupportedForMessageFormat,
        AppendError::Batch(BatchError::Transactional) => ResponseError::TransactionalIdAuthorizationFailed,
        AppendError::Batch(BatchError::Invalid) | AppendError::NotOneBatch => ResponseError::InvalidRecord,
        AppendError::TooLarge { .. } => ResponseError::MessageTooLarge,
        AppendError::OutOfOrder { .. } => ResponseError::OutOfOrderSequenceNumber,
        AppendError::StaleEpoch { .. } => ResponseError::InvalidProducerEpoch,
        AppendError::Io(_) => ResponseError::KafkaStorageError,
    }
}

/// Gives an idempotent producer its id. A transactional one is refused with an error that clients treat as fatal, not
/// one that they retry for ever.
pub(super) async fn init_producer_id(shared: Arc<Shared>, request: InitProducerIdRequest, caller: Caller) -> InitProducerIdResponse {
    let failed = |error: ResponseError| InitProducerIdResponse::default().with_error_code(error.code()).with_producer_id(ProducerId(-1));
    if request.transactional_id.is_some() {
        tracing::warn!(peer = %caller.peer, "a transactional producer was refused: transactions are not supported");
        return failed(ResponseError::TransactionalIdAuthorizationFailed);
    }
    match blocking(move || shared.producer_ids.next()).await {
        Some(Ok(id)) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Some(Err(error)) => {
            tracing::error!(%error, "cannot reserve producer ids");
            failed(ResponseError::KafkaStorageError)
        }
        None => failed(ResponseError::UnknownServerError),
    }
}
