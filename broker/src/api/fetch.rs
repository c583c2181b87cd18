//! Fetch: waits until there is enough, then reads whole batches.
//!
//! Fetch sessions (KIP-227) are not kept: each answer says session 0, and clients then send all partitions each time.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Caller, blocking};
use crate::broker::{BUDGET_UNIT_BYTES, Shared};
use crate::log::{LEADER_EPOCH, PartitionLog};
use crate::topics::Topic;

/// First version that names topics by id.
const TOPIC_ID_VERSION: i16 = 13;

/// Answers a fetch; the permit covers the answer's memory until it is sent.
pub(super) async fn fetch(shared: Arc<Shared>, request: FetchRequest, caller: Caller) -> (FetchResponse, Option<OwnedSemaphorePermit>) {
    if request.session_id != 0 {
        let code = ResponseError::FetchSessionIdNotFound.code();
        return (FetchResponse::default().with_error_code(code), None);
    }
    let request = Arc::new(request);
    wait(&shared, &request, caller.version).await;
    let wanted = usize::try_from(request.max_bytes).unwrap_or(0).min(shared.options.fetch_bytes_max);
    let present = available(&shared, &request, caller.version).unwrap_or(wanted as u64);
    // one batch may come although it exceeds what was asked for
    let size = wanted.min(usize::try_from(present).unwrap_or(usize::MAX)).max(BUDGET_UNIT_BYTES);
    let units = size.div_ceil(BUDGET_UNIT_BYTES) as u32;
    let budget = Arc::clone(&shared.fetch_budget).acquire_many_owned(units);
    let Ok(Ok(budget)) = tokio::time::timeout(shared.options.io_timeout, budget).await else {
        let code = ResponseError::RequestTimedOut.code();
        return (FetchResponse::default().with_error_code(code), None);
    };
    let version = caller.version;
    let responses = blocking(move || read(&shared, &request, version, wanted)).await;
    let response = match responses {
        Some(responses) => FetchResponse::default().with_responses(responses),
        None => FetchResponse::default().with_error_code(ResponseError::UnknownServerError.code()),
    };
    (response, Some(budget))
}

/// Returns when the fetch can be answered: enough bytes, an error to report, or its time is over.
async fn wait(shared: &Shared, request: &FetchRequest, version: i16) {
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + max_wait.min(shared.options.fetch_wait_max);
    let min_bytes = u64::try_from(request.min_bytes).unwrap_or(0);
    let mut changes = shared.changes.subscribe();
    loop {
        changes.borrow_and_update();
        match available(shared, request, version) {
            None => return,
            Some(bytes) if bytes >= min_bytes => return,
            Some(_) => {}
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            changed = tokio::time::timeout_at(deadline, changes.changed()) => {
                if !matches!(changed, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// About how many bytes could be sent now; `None` if some partition has an error to report.
fn available(shared: &Shared, request: &FetchRequest, version: i16) -> Option<u64> {
    let mut total = 0;
    for wanted in &request.topics {
        let topic = resolve(shared, wanted, version)?;
        for partition in &wanted.partitions {
            let log = topic.partition(partition.partition)?;
            if !(log.log_start()..=log.next_offset()).contains(&partition.fetch_offset) {
                return None;
            }
            let limit = u64::try_from(partition.partition_max_bytes).unwrap_or(0);
            total += log.bytes_after(partition.fetch_offset).min(limit.max(1));
        }
    }
    Some(total)
}

fn resolve(shared: &Shared, wanted: &kafka_protocol::messages::fetch_request::FetchTopic, version: i16) -> Option<Arc<Topic>> {
    if version >= TOPIC_ID_VERSION { shared.topics.get_by_id(wanted.topic_id) } else { shared.topics.get(&wanted.topic) }
}

fn read(shared: &Shared, request: &FetchRequest, version: i16, max_bytes: usize) -> Vec<FetchableTopicResponse> {
    let mut left = max_bytes;
    // the first batch found is sent whatever its size, or a consumer could never get past it
    let mut nothing_yet = true;
    let mut responses = Vec::with_capacity(request.topics.len());
    for wanted in &request.topics {
        let topic = resolve(shared, wanted, version);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for partition in &wanted.partitions {
            let data = PartitionData::default().with_partition_index(partition.partition);
            let Some(topic) = &topic else {
                let error = if version >= TOPIC_ID_VERSION { ResponseError::UnknownTopicId } else { ResponseError::UnknownTopicOrPartition };
                partitions.push(failed(data, error, None));
                continue;
            };
            let Some(log) = topic.partition(partition.partition) else {
                partitions.push(failed(data, ResponseError::UnknownTopicOrPartition, None));
                continue;
            };
            if partition.current_leader_epoch > LEADER_EPOCH {
                partitions.push(failed(data, ResponseError::UnknownLeaderEpoch, Some(log)));
                continue;
            }
            let limit = usize::try_from(partition.partition_max_bytes).unwrap_or(0).min(left);
            let found = log.read(partition.fetch_offset, limit, nothing_yet);
            // taken after the read, so that it is never below a record that comes along
            let high_watermark = log.next_offset();
            match found {
                Ok(Some(records)) => {
                    left = left.saturating_sub(records.len());
                    nothing_yet &= records.is_empty();
                    let data = data.with_high_watermark(high_watermark).with_last_stable_offset(high_watermark);
                    partitions.push(data.with_log_start_offset(log.log_start()).with_records(Some(records)));
                }
                Ok(None) => partitions.push(failed(data, ResponseError::OffsetOutOfRange, Some(log))),
                Err(error) => {
                    let (topic, partition) = (topic.name(), partition.partition);
                    tracing::error!(topic, partition, %error, "read failed");
                    partitions.push(failed(data, ResponseError::KafkaStorageError, Some(log)));
                }
            }
        }
        let response = FetchableTopicResponse::default().with_partitions(partitions);
        responses.push(if version >= TOPIC_ID_VERSION { response.with_topic_id(wanted.topic_id) } else { response.with_topic(wanted.topic.clone()) });
    }
    responses
}

fn failed(data: PartitionData, error: ResponseError, log: Option<&Arc<PartitionLog>>) -> PartitionData {
    let high_watermark = log.map_or(-1, |l| l.next_offset());
    data.with_error_code(error.code())
        .with_high_watermark(high_watermark)
        .with_last_stable_offset(high_watermark)
        .with_log_start_offset(log.map_or(-1, |l| l.log_start()))
}
