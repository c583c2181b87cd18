//! Ids of topics, which rdkafka has no safe call for. One of this crate's two modules with unsafe code (`native` is the other).
//!
//! A topic that is deleted and made anew keeps its name; only the id (KIP-516, brokers from 2.8) tells the two apart.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Text of the id that stands for none.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Frees what librdkafka handed over, whatever way the function is left.
struct Owned<T> {
    handle: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(handle: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Self, KafkaError> {
        let handle = NonNull::new(handle).ok_or(KafkaError::Global(RDKafkaErrorCode::CriticalSystemResource))?;
        Ok(Self { handle, free })
    }

    fn as_ptr(&self) -> *mut T {
        self.handle.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the handle came from the constructor that `free` belongs to, and is freed once, here.
        unsafe { (self.free)(self.handle.as_ptr()) };
    }
}

/// Ids of those of the topics that exist and whose brokers tell ids, in Kafka's own text form. Blocks up to `timeout`.
///
/// # Errors
/// librdkafka's: no answer in time.
pub(super) fn topic_ids<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, String>, KafkaError> {
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names = topics.iter().map(|topic| CString::new(topic.as_str())).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(KafkaError::Nul)?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let client = consumer.client().native_ptr();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);

    // SAFETY: `client` is a live handle, borrowed through `consumer` for the whole function. The collection copies the
    // `pointers.len()` names, which outlive the call.
    let (queue, wanted, options) = unsafe {
        let queue = Owned::new(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy)?;
        let collection = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let wanted = Owned::new(collection, native::rd_kafka_TopicCollection_destroy)?;
        let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = native::rd_kafka_AdminOptions_new(client, operation);
        (queue, wanted, Owned::new(options, native::rd_kafka_AdminOptions_destroy)?)
    };
    let mut text = [0; 256];
    // SAFETY: `options` is live; `text` has the room that is said.
    let set = unsafe { native::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), timeout_ms, text.as_mut_ptr(), text.len()) };
    if set != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(KafkaError::AdminOp(set.into()));
    }
    // SAFETY: client, collection, options and queue are live; the request copies what it needs of them. The event is ours
    // once polled. The wait is a little longer than the request's own time-out, which answers with an event, too.
    let event = unsafe {
        native::rd_kafka_DescribeTopics(client, wanted.as_ptr(), options.as_ptr(), queue.as_ptr());
        native::rd_kafka_queue_poll(queue.as_ptr(), timeout_ms.saturating_add(500))
    };
    let event = Owned::new(event, native::rd_kafka_event_destroy).map_err(|_| KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut))?;
    // SAFETY: the event is live.
    let error = unsafe { native::rd_kafka_event_error(event.as_ptr()) };
    if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(KafkaError::AdminOp(error.into()));
    }
    Ok(read(&event))
}

fn read(event: &Owned<native::rd_kafka_event_t>) -> BTreeMap<String, String> {
    let mut ids = BTreeMap::new();
    // SAFETY: the event is live, and so is everything that is reached from it: descriptions, names and ids belong to it.
    // `DescribeTopics_result_topics` gives `count` descriptions, none of them null.
    unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return ids;
        }
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() {
            return ids;
        }
        for position in 0..count {
            let topic = *topics.add(position);
            if native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic)) != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                continue;
            }
            let name = native::rd_kafka_TopicDescription_name(topic);
            let id = native::rd_kafka_TopicDescription_topic_id(topic);
            if name.is_null() || id.is_null() {
                continue;
            }
            let id = native::rd_kafka_Uuid_base64str(id);
            if id.is_null() {
                continue;
            }
            let id = CStr::from_ptr(id).to_string_lossy().into_owned();
            if id != NO_ID {
                ids.insert(CStr::from_ptr(name).to_string_lossy().into_owned(), id);
            }
        }
    }
    ids
}
