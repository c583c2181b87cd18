//! The log of one partition: segments in order, one writer, many readers, retention, repair at start.
//!
//! All functions here block on the file system; callers run them off the async threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use parking_lot::{Mutex, RwLock};

use super::batch::{BatchError, BatchHeader};
use super::producers::{ProducerStates, Sequence};
use super::segment::{Located, Segment, now_ms};

/// Holds the low watermark when it lies inside a segment (DeleteRecords); absent otherwise.
const LOG_START_FILE: &str = "log-start-offset";

/// How large and how old a log may grow.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// A segment rolls before it would exceed this.
    pub segment_bytes: u64,
    /// Largest batch accepted.
    pub max_batch_bytes: usize,
    /// Segments not appended to for longer are removed. `None` keeps them.
    pub retention: Option<Duration>,
    /// The oldest segments are removed while the rest still holds this much. `None` keeps them.
    pub retention_bytes: Option<u64>,
}

/// Result of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: i64,
    /// The batch was stored before; nothing was written now.
    pub duplicate: bool,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not one valid batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Not exactly one batch.
    #[error("a partition's records must be exactly one record batch")]
    NotOneBatch,
    /// Larger than `max_batch_bytes`.
    #[error("record batch of {bytes} bytes exceeds max.message.bytes = {limit}")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A batch of this producer is missing before this one.
    #[error("sequence {sequence} of producer {producer_id} does not follow the last one")]
    OutOfOrder {
        /// The producer.
        producer_id: i64,
        /// First sequence of the refused batch.
        sequence: i32,
    },
    /// A newer epoch of this producer has written already.
    #[error("producer {producer_id} was replaced by a newer epoch")]
    StaleEpoch {
        /// The producer.
        producer_id: i64,
    },
    /// Disk full, permission, hardware.
    #[error("cannot write the log")]
    Io(#[from] io::Error),
}

/// A partition's log.
#[derive(Debug)]
pub struct PartitionLog {
    dir: PathBuf,
    /// Never empty; ascending; the last one is written to.
    segments: RwLock<Vec<Arc<Segment>>>,
    log_start: AtomicI64,
    next_offset: AtomicI64,
    dirty: AtomicBool,
    writer: Mutex<ProducerStates>,
}

impl PartitionLog {
    /// Opens or makes the log in `dir`. Repairs what a killed process left half written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut bases: Vec<i64> = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let base = name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse::<i64>().ok());
            bases.extend(base);
        }
        bases.sort_unstable();
        let mut producers = ProducerStates::default();
        let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(bases.len().max(1));
        let last = bases.last().copied();
        for base in bases {
            let path = dir.join(super::segment::file_name(base));
            let is_last = Some(base) == last;
            let (segment, cut) = Segment::recover(path.clone(), base, is_last, |h| producers.record(h))?;
            if cut > 0 && is_last {
                tracing::warn!(path = %path.display(), cut_bytes = cut, "cut off an incomplete record batch");
            } else if cut > 0 {
                // offsets of later segments stay as they are: consumers step over the hole
                tracing::error!(path = %path.display(), cut_bytes = cut, "damaged segment: records are lost");
            }
            if !is_last {
                segment.seal()?;
            }
            segments.push(Arc::new(segment));
        }
        let stored_start = read_log_start(dir);
        if segments.is_empty() {
            segments.push(Arc::new(Segment::create(dir, stored_start.unwrap_or(0))?));
        }
        let next_offset = segments.last().map_or(0, |s| s.next_offset());
        let first_offset = segments.first().map_or(0, |s| s.base_offset());
        let log_start = stored_start.unwrap_or(0).clamp(first_offset, next_offset.max(first_offset));
        Ok(Self {
            dir: dir.to_owned(),
            segments: RwLock::new(segments),
            log_start: AtomicI64::new(log_start),
            next_offset: AtomicI64::new(next_offset),
            dirty: AtomicBool::new(false),
            writer: Mutex::new(producers),
        })
    }

    /// Appends one batch as a client sent it. Once this returns, readers see it, and it survives the death of the
    /// process (not of the machine: that takes a flush).
    pub fn append(&self, records: &Bytes, limits: &LogLimits) -> Result<Appended, AppendError> {
        let mut header = BatchHeader::parse_checked(records)?;
        if header.size != records.len() {
            return Err(AppendError::NotOneBatch);
        }
        if header.size > limits.max_batch_bytes {
            return Err(AppendError::TooLarge { bytes: header.size, limit: limits.max_batch_bytes });
        }
        header.check_from_client()?;
        let mut producers = self.writer.lock();
        match producers.check(&header) {
            Sequence::Append => {}
            Sequence::Duplicate { base_offset } => return Ok(Appended { base_offset, duplicate: true }),
            Sequence::OutOfOrder => {
                let (producer_id, sequence) = (header.producer_id, header.base_sequence);
                return Err(AppendError::OutOfOrder { producer_id, sequence });
            }
            Sequence::StaleEpoch => return Err(AppendError::StaleEpoch { producer_id: header.producer_id }),
        }
        header.base_offset = self.next_offset.load(Ordering::Relaxed);
        let mut active = self.active();
        if active.len() > 0 && active.len() + header.size as u64 > limits.segment_bytes {
            active = self.roll()?;
        }
        active.append(&header, records)?;
        producers.record(&header);
        self.dirty.store(true, Ordering::Relaxed);
        self.next_offset.store(header.last_offset() + 1, Ordering::Release);
        Ok(Appended { base_offset: header.base_offset, duplicate: false })
    }

    /// Whole batches from the one that holds `offset` on, within one segment. `None`: the offset is outside
    /// `[log_start, next_offset]`. Empty: nothing there yet, or the first batch is larger than `max_bytes` and
    /// `at_least_one` is not set.
    pub fn read(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> io::Result<Option<Bytes>> {
        if offset < self.log_start() || offset > self.next_offset() {
            return Ok(None);
        }
        for segment in self.segments_from(offset) {
            match segment.locate(offset) {
                Ok(Located::At(position)) => return segment.read(position, max_bytes, at_least_one).map(Some),
                Ok(Located::Beyond) => {}
                // retention removed it since the list was taken
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(Bytes::new()))
    }

    /// Bytes from about `offset` to the end, without touching the disk.
    pub fn bytes_after(&self, offset: i64) -> u64 {
        if offset >= self.next_offset() {
            return 0;
        }
        let segments = self.segments_from(offset);
        let before = segments.first().map_or(0, |s| s.indexed_position(offset));
        segments.iter().map(|s| s.len()).sum::<u64>().saturating_sub(before)
    }

    /// First record whose timestamp is at least `timestamp_ms`: its offset and timestamp.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> io::Result<Option<(i64, i64)>> {
        let start = self.log_start();
        for segment in self.segments_from(start) {
            if segment.max_timestamp_ms() < timestamp_ms {
                continue;
            }
            let mut candidates = Vec::new();
            segment.walk(0, |position, header| {
                if header.last_offset() >= start && header.max_timestamp_ms >= timestamp_ms {
                    candidates.push(position);
                }
                // a second one in case the matching records of the first lie before the log's start
                candidates.len() < 2
            })?;
            for position in candidates {
                let records = decode(segment.read(position, 0, true)?)?;
                let hit = records.into_iter().find(|(offset, t)| *offset >= start && *t >= timestamp_ms);
                if hit.is_some() {
                    return Ok(hit);
                }
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp: its offset and timestamp.
    pub fn offset_of_max_timestamp(&self) -> io::Result<Option<(i64, i64)>> {
        let segments = self.segments_from(self.log_start());
        let largest = segments.iter().map(|s| s.max_timestamp_ms()).max().unwrap_or(i64::MIN);
        if largest == i64::MIN {
            return Ok(None);
        }
        self.offset_for_timestamp(largest)
    }

    /// Removes segments that the limits no longer cover. Returns their number.
    pub fn enforce_retention(&self, limits: &LogLimits) -> io::Result<usize> {
        let _writer = self.writer.lock();
        let now = now_ms();
        let expired = |segment: &Segment, retention: Duration| now.saturating_sub(segment.last_append_ms()) > retention.as_millis() as i64;
        if let Some(retention) = limits.retention {
            let active = self.active();
            let age_ms = now.saturating_sub(active.created_ms());
            // a segment that never fills would never expire: roll it after a quarter of the retention
            let roll_due = age_ms > (retention.as_millis() / 4) as i64;
            if active.len() > 0 && (roll_due || expired(&active, retention)) {
                self.roll()?;
            }
        }
        let mut removed = Vec::new();
        {
            let mut segments = self.segments.write();
            let mut total: u64 = segments.iter().map(|s| s.len()).sum();
            while segments.len() > 1 {
                let Some(first) = segments.first() else { break };
                let too_old = limits.retention.is_some_and(|r| expired(first, r));
                let too_much = limits.retention_bytes.is_some_and(|max| total - first.len() >= max);
                let deleted = first.next_offset() <= self.log_start();
                if !(too_old || too_much || deleted) {
                    break;
                }
                total -= first.len();
                removed.push(segments.remove(0));
            }
            if let Some(first) = segments.first() {
                self.log_start.fetch_max(first.base_offset(), Ordering::AcqRel);
            }
        }
        for segment in &removed {
            segment.remove()?;
        }
        Ok(removed.len())
    }

    /// Raises the low watermark to `offset` (-1: to the end). Returns the new one, `None` if out of range.
    pub fn delete_before(&self, offset: i64) -> io::Result<Option<i64>> {
        let _writer = self.writer.lock();
        let end = self.next_offset();
        let offset = if offset == -1 { end } else { offset };
        if offset < 0 || offset > end {
            return Ok(None);
        }
        if offset > self.log_start() {
            let pending = self.dir.join(format!("{LOG_START_FILE}.new"));
            std::fs::write(&pending, offset.to_string())?;
            std::fs::rename(&pending, self.dir.join(LOG_START_FILE))?;
            self.log_start.store(offset, Ordering::Release);
        }
        Ok(Some(self.log_start()))
    }

    /// Forces everything written so far to the disk.
    pub fn flush(&self) -> io::Result<()> {
        if self.dirty.swap(false, Ordering::Relaxed) {
            let result = self.active().sync();
            if result.is_err() {
                self.dirty.store(true, Ordering::Relaxed);
            }
            return result;
        }
        Ok(())
    }

    /// Offset of the first record that can be read.
    pub fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// Offset that the next record gets: the high watermark.
    pub fn next_offset(&self) -> i64 {
        self.next_offset.load(Ordering::Acquire)
    }

    /// Bytes on disk.
    #[cfg(test)]
    pub fn size_bytes(&self) -> u64 {
        self.segments.read().iter().map(|s| s.len()).sum()
    }

    /// Largest producer id in the log.
    pub fn largest_producer_id(&self) -> Option<i64> {
        self.writer.lock().largest_id()
    }

    fn active(&self) -> Arc<Segment> {
        let segments = self.segments.read();
        // the list is never empty: `open` makes a segment, retention keeps one
        Arc::clone(&segments[segments.len() - 1])
    }

    /// Starts a new segment at the end of the log. Callers hold the writer.
    fn roll(&self) -> io::Result<Arc<Segment>> {
        let next = Arc::new(Segment::create(&self.dir, self.next_offset())?);
        let full = self.active();
        self.segments.write().push(Arc::clone(&next));
        full.seal()?;
        Ok(next)
    }

    fn segments_from(&self, offset: i64) -> Vec<Arc<Segment>> {
        let segments = self.segments.read();
        let first = segments.partition_point(|s| s.base_offset() <= offset).saturating_sub(1);
        segments[first..].to_vec()
    }
}

fn read_log_start(dir: &Path) -> Option<i64> {
    std::fs::read_to_string(dir.join(LOG_START_FILE)).ok()?.trim().parse().ok()
}

/// Offsets and timestamps of a batch's records.
fn decode(mut batch: Bytes) -> io::Result<Vec<(i64, i64)>> {
    let set = RecordBatchDecoder::decode(&mut batch).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    Ok(set.records.iter().map(|r| (r.offset, r.timestamp)).collect())
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
