//! A thread that reads a task's units one after another into a bounded channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{self, Receiver, Sender};

use chainalytics_common::{Error, Result};

use crate::batch::Unit;
use crate::decode::RecordChunk;
use crate::kafka::{KafkaOptions, KafkaRangeReader, RangeSink, RangeStats};

/// Chunks that wait between reading and decoding.
const CHUNKS_MAX: usize = 2;

/// What the reading thread hands over, in order.
pub(super) enum Fed {
    /// A chunk of the unit at this position.
    Chunk(usize, RecordChunk),
    /// The unit at this position was read to its end.
    Done(usize, RangeStats),
    /// Reading failed; nothing follows.
    Failed(Error),
}

/// The receiving end; dropping it stops the thread.
pub(super) struct Feed {
    receiver: Receiver<Fed>,
    closed: Arc<AtomicBool>,
}

impl Feed {
    pub(super) fn start(options: KafkaOptions, units: Vec<Unit>) -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let closed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&closed);
        // The handle is not kept: the thread ends at its next poll once `closed` is set or the channel is gone.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_all(&options, &units, &sender, &flag) {
                let _ = sender.blocking_send(Fed::Failed(error));
            }
        });
        Self { receiver, closed }
    }

    /// The next thing; `None` once all units are done.
    pub(super) async fn next(&mut self) -> Option<Fed> {
        self.receiver.recv().await
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
    }
}

fn read_all(options: &KafkaOptions, units: &[Unit], sender: &Sender<Fed>, closed: &AtomicBool) -> Result<()> {
    let rows = units.iter().map(Unit::len).max().unwrap_or(0);
    let reader = KafkaRangeReader::new(options, rows)?;
    for (position, unit) in units.iter().enumerate() {
        let stats = reader.read(unit, &mut ChannelSink { position, sender, closed })?;
        if sender.blocking_send(Fed::Done(position, stats)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

struct ChannelSink<'a> {
    position: usize,
    sender: &'a Sender<Fed>,
    closed: &'a AtomicBool,
}

impl RangeSink for ChannelSink<'_> {
    fn chunk(&mut self, chunk: RecordChunk) -> bool {
        self.sender.blocking_send(Fed::Chunk(self.position, chunk)).is_ok()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
