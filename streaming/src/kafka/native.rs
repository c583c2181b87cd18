//! librdkafka's queue of one partition, read many records at a call. One of this crate's two modules with unsafe code
//! (`topic_ids` is the other).
//!
//! rdkafka's own `poll` takes a lock, an event and an allocation per record; `rd_kafka_consume_batch_queue` takes one
//! lock for a batch, needs no consumer group, and its end-of-partition signal carries the offset.

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaMessage, RDKafkaQueue, RDKafkaTopic};

/// One thing that a partition's queue gave.
pub(super) enum Polled<'m> {
    Record {
        offset: i64,
        /// Milliseconds since the epoch, -1 if there is none.
        timestamp_ms: i64,
        key: Option<&'m [u8]>,
        value: Option<&'m [u8]>,
    },
    /// Everything before `offset` has been fetched, and the log ends there for now.
    End {
        offset: i64,
    },
    Error {
        code: RDKafkaErrorCode,
        text: String,
    },
}

/// A partition being fetched from a start offset on, until dropped.
pub(super) struct PartitionQueue<'c, C: ConsumerContext> {
    /// Keeps the client alive: topic and queue must not outlive it.
    _consumer: &'c BaseConsumer<C>,
    topic: NonNull<RDKafkaTopic>,
    queue: NonNull<RDKafkaQueue>,
    partition: i32,
    batch: Vec<*mut RDKafkaMessage>,
}

impl<'c, C: ConsumerContext> PartitionQueue<'c, C> {
    /// Starts fetching at `offset`; at most `batch_max` records come from one poll.
    pub(super) fn start(consumer: &'c BaseConsumer<C>, topic: &str, partition: i32, offset: i64, batch_max: usize) -> Result<Self, KafkaError> {
        let name = CString::new(topic).map_err(KafkaError::Nul)?;
        let client = consumer.client().native_ptr();
        // SAFETY: `client` is a live handle, borrowed through `consumer` for 'c; `name` outlives the call; a null
        // configuration means the client's defaults.
        let topic = unsafe { native::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut()) };
        let Some(topic) = NonNull::new(topic) else { return Err(KafkaError::Global(last_error())) };
        // SAFETY: `client` is a live handle.
        let Some(queue) = NonNull::new(unsafe { native::rd_kafka_queue_new(client) }) else {
            // SAFETY: `topic` was made above and is used no more.
            unsafe { native::rd_kafka_topic_destroy(topic.as_ptr()) };
            return Err(KafkaError::Global(RDKafkaErrorCode::CriticalSystemResource));
        };
        // SAFETY: topic and queue are live and belong to the same client.
        let started = unsafe { native::rd_kafka_consume_start_queue(topic.as_ptr(), partition, offset, queue.as_ptr()) };
        if started != 0 {
            let error = last_error();
            // SAFETY: made above, used no more; nothing was started on them.
            unsafe {
                native::rd_kafka_queue_destroy(queue.as_ptr());
                native::rd_kafka_topic_destroy(topic.as_ptr());
            }
            return Err(KafkaError::Global(error));
        }
        Ok(Self { _consumer: consumer, topic, queue, partition, batch: vec![ptr::null_mut(); batch_max.max(1)] })
    }

    /// Gives up to `max` things to `take`, waiting up to `timeout` for that many. Returns how many there were.
    pub(super) fn poll(&mut self, timeout: Duration, max: usize, mut take: impl FnMut(Polled<'_>)) -> usize {
        let max = max.clamp(1, self.batch.len());
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is live and `batch` has room for `max` pointers. At most `max` of them are set to messages
        // that we own from then on.
        let count = unsafe { native::rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout_ms, self.batch.as_mut_ptr(), max) };
        let count = usize::try_from(count).unwrap_or(0).min(max);
        for message in &self.batch[..count] {
            let Some(message) = NonNull::new(*message) else { continue };
            let owned = OwnedMessage(message);
            take(owned.read());
        }
        count
    }
}

impl<C: ConsumerContext> Drop for PartitionQueue<'_, C> {
    fn drop(&mut self) {
        // SAFETY: both were made in `start` and are destroyed once, here; the client is still alive. Stopping waits for
        // the fetcher to let go of the queue.
        unsafe {
            native::rd_kafka_consume_stop(self.topic.as_ptr(), self.partition);
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
            native::rd_kafka_topic_destroy(self.topic.as_ptr());
        }
    }
}

/// A message that is given back to librdkafka when dropped, even if its reader panics.
struct OwnedMessage(NonNull<RDKafkaMessage>);

impl OwnedMessage {
    fn read(&self) -> Polled<'_> {
        // SAFETY: a message that librdkafka handed over and that has not been destroyed.
        let message = unsafe { self.0.as_ref() };
        match RDKafkaErrorCode::from(message.err) {
            RDKafkaErrorCode::NoError => {
                // SAFETY: as above; the type of the timestamp is not asked for.
                let timestamp_ms = unsafe { native::rd_kafka_message_timestamp(self.0.as_ptr(), ptr::null_mut()) };
                Polled::Record {
                    offset: message.offset,
                    timestamp_ms,
                    key: self.bytes(message.key.cast(), message.key_len),
                    value: self.bytes(message.payload.cast(), message.len),
                }
            }
            RDKafkaErrorCode::PartitionEOF => Polled::End { offset: message.offset },
            code => {
                // An error's payload is its text.
                let text = self.bytes(message.payload.cast(), message.len).unwrap_or_default();
                Polled::Error { code, text: String::from_utf8_lossy(text).into_owned() }
            }
        }
    }

    fn bytes(&self, start: *const u8, len: usize) -> Option<&[u8]> {
        if start.is_null() {
            return None;
        }
        // SAFETY: librdkafka gives `len` readable bytes at a non-null key or payload, which live as long as the message.
        Some(unsafe { slice::from_raw_parts(start, len) })
    }
}

impl Drop for OwnedMessage {
    fn drop(&mut self) {
        // SAFETY: handed over by `rd_kafka_consume_batch_queue`, destroyed once.
        unsafe { native::rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

fn last_error() -> RDKafkaErrorCode {
    // SAFETY: reads this thread's last error.
    RDKafkaErrorCode::from(unsafe { native::rd_kafka_last_error() })
}
