//! One segment file: record batches one after another, named after the offset of its first record.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::RwLock;

use super::batch::{self, BatchHeader, HEADER_BYTES};

/// A new index entry after this many bytes: 16 bytes of memory for each, one short walk over headers per read.
const INDEX_INTERVAL_BYTES: u64 = 16 * 1024;

#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    offset: i64,
    position: u64,
}

/// A segment. Written by one thread at a time (the partition's lock), read by many.
#[derive(Debug)]
pub struct Segment {
    base_offset: i64,
    path: PathBuf,
    /// Bytes that readers may see. Raised only after the bytes are written.
    len: AtomicU64,
    /// Offset after the last record.
    next_offset: AtomicI64,
    /// Largest record timestamp, `i64::MIN` while empty.
    max_timestamp_ms: AtomicI64,
    /// Wall clock of the last append: retention counts from here, so that replayed old data stays.
    last_append_ms: AtomicI64,
    created_ms: i64,
    index: RwLock<Vec<IndexEntry>>,
    /// Held open while this is the partition's active segment.
    file: RwLock<Option<Arc<File>>>,
}

/// What a reader found.
#[derive(Debug)]
pub enum Located {
    /// The batch that holds the offset, or the first one after it.
    At(u64),
    /// The segment ends before the offset.
    Beyond,
}

impl Segment {
    /// Makes an empty segment.
    pub fn create(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = dir.join(file_name(base_offset));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let now_ms = now_ms();
        Ok(Self {
            base_offset,
            path,
            len: AtomicU64::new(0),
            next_offset: AtomicI64::new(base_offset),
            max_timestamp_ms: AtomicI64::new(i64::MIN),
            last_append_ms: AtomicI64::new(now_ms),
            created_ms: now_ms,
            index: RwLock::new(Vec::new()),
            file: RwLock::new(Some(Arc::new(file))),
        })
    }

    /// Opens an existing file: walks its batches, rebuilds the index, cuts off what isn't a whole batch.
    ///
    /// `verify` also checks every checksum (the segment that was written when the process died). `seen` is called
    /// with each header in order. Returns the segment and the number of bytes cut off.
    pub fn recover(path: PathBuf, base_offset: i64, verify: bool, mut seen: impl FnMut(&BatchHeader)) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let metadata = file.metadata()?;
        let modified_ms = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or_else(now_ms, |d| d.as_millis() as i64);
        let segment = Self {
            base_offset,
            path,
            len: AtomicU64::new(0),
            next_offset: AtomicI64::new(base_offset),
            max_timestamp_ms: AtomicI64::new(i64::MIN),
            last_append_ms: AtomicI64::new(modified_ms),
            created_ms: modified_ms,
            index: RwLock::new(Vec::new()),
            file: RwLock::new(None),
        };
        let file_bytes = metadata.len();
        let mut position = 0u64;
        let mut header_bytes = [0u8; HEADER_BYTES];
        let mut body = Vec::new();
        while position + HEADER_BYTES as u64 <= file_bytes {
            file.read_exact_at(&mut header_bytes, position)?;
            let Ok(header) = BatchHeader::parse(&header_bytes) else { break };
            let fits = position + header.size as u64 <= file_bytes;
            if !fits || header.base_offset < segment.next_offset.load(Ordering::Relaxed) {
                break;
            }
            if verify {
                body.resize(header.size, 0);
                file.read_exact_at(&mut body, position)?;
                if BatchHeader::parse_checked(&body).is_err() {
                    break;
                }
            }
            segment.note(&header, position);
            seen(&header);
            position += header.size as u64;
        }
        let cut = file_bytes - position;
        if cut > 0 {
            file.set_len(position)?;
            file.sync_all()?;
        }
        *segment.file.write() = Some(Arc::new(file));
        Ok((segment, cut))
    }

    /// Appends one batch with its base offset patched in. `header` already carries that offset.
    pub fn append(&self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        let file = self.file()?;
        let position = self.len.load(Ordering::Relaxed);
        // 16 bytes on the stack instead of a copy of the batch
        let (head, rest) = batch.split_at_checked(16).ok_or(io::ErrorKind::InvalidInput)?;
        let mut patched = [0u8; 16];
        patched.copy_from_slice(head);
        batch::patch(&mut patched, header.base_offset);
        // at fixed positions, so that what a full disk left half written is overwritten by the next attempt
        file.write_all_at(rest, position + 16)?;
        file.write_all_at(&patched, position)?;
        self.last_append_ms.store(now_ms(), Ordering::Relaxed);
        self.note(header, position);
        Ok(())
    }

    fn note(&self, header: &BatchHeader, position: u64) {
        {
            let mut index = self.index.write();
            let due = index.last().is_none_or(|e| position - e.position >= INDEX_INTERVAL_BYTES);
            if due {
                index.push(IndexEntry { offset: header.base_offset, position });
            }
        }
        self.max_timestamp_ms.fetch_max(header.max_timestamp_ms, Ordering::Relaxed);
        self.next_offset.store(header.last_offset() + 1, Ordering::Release);
        self.len.store(position + header.size as u64, Ordering::Release);
    }

    /// Position of the batch with `offset`.
    pub fn locate(&self, offset: i64) -> io::Result<Located> {
        if offset >= self.next_offset() {
            return Ok(Located::Beyond);
        }
        let mut found = None;
        self.walk(self.indexed_position(offset), |position, header| {
            if header.last_offset() >= offset {
                found = Some(position);
            }
            found.is_none()
        })?;
        Ok(found.map_or(Located::Beyond, Located::At))
    }

    /// Visits batch headers from `position` on until `visit` says false or the segment ends.
    pub fn walk(&self, mut position: u64, mut visit: impl FnMut(u64, &BatchHeader) -> bool) -> io::Result<()> {
        let file = self.file()?;
        let end = self.len();
        let mut bytes = [0u8; HEADER_BYTES];
        while position + HEADER_BYTES as u64 <= end {
            file.read_exact_at(&mut bytes, position)?;
            let header = BatchHeader::parse(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if !visit(position, &header) {
                return Ok(());
            }
            position += header.size as u64;
        }
        Ok(())
    }

    /// Reads whole batches from `position`: as many as fit into `max_bytes`, the first one whatever its size if
    /// `at_least_one`.
    pub fn read(&self, position: u64, max_bytes: usize, at_least_one: bool) -> io::Result<Bytes> {
        let file = self.file()?;
        let available = usize::try_from(self.len().saturating_sub(position)).unwrap_or(usize::MAX);
        let mut buffer = vec![0u8; available.min(max_bytes)];
        file.read_exact_at(&mut buffer, position)?;
        let whole = whole_batches(&buffer);
        if whole == 0 {
            if !at_least_one {
                return Ok(Bytes::new());
            }
            let mut head = [0u8; HEADER_BYTES];
            file.read_exact_at(&mut head, position)?;
            let header = BatchHeader::parse(&head).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            buffer.resize(header.size, 0);
            file.read_exact_at(&mut buffer, position)?;
            return Ok(Bytes::from(buffer));
        }
        buffer.truncate(whole);
        Ok(Bytes::from(buffer))
    }

    /// A position at or before `offset`, from memory only.
    pub fn indexed_position(&self, offset: i64) -> u64 {
        let index = self.index.read();
        let after = index.partition_point(|e| e.offset <= offset);
        after.checked_sub(1).and_then(|i| index.get(i)).map_or(0, |e| e.position)
    }

    /// Closes the writing handle: the segment is full.
    pub fn seal(&self) -> io::Result<()> {
        if let Some(file) = self.file.write().take() {
            file.sync_data()?;
        }
        Ok(())
    }

    /// Forces the bytes to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    /// Removes the file.
    pub fn remove(&self) -> io::Result<()> {
        self.file.write().take();
        std::fs::remove_file(&self.path)
    }

    fn file(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.file.read().as_ref() {
            return Ok(Arc::clone(file));
        }
        // sealed: opened for each read, so that a long log doesn't hold a descriptor per segment
        File::open(&self.path).map(Arc::new)
    }

    /// Offset in the file's name.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.next_offset.load(Ordering::Acquire)
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Largest record timestamp, `i64::MIN` without records.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.max_timestamp_ms.load(Ordering::Relaxed)
    }

    /// Wall clock of the last append, ms since the epoch.
    pub fn last_append_ms(&self) -> i64 {
        self.last_append_ms.load(Ordering::Relaxed)
    }

    /// Wall clock of the file's making (of its last change, after a restart), ms since the epoch.
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }
}

/// Length of the whole batches at the start of `buffer`.
fn whole_batches(buffer: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(header) = buffer.get(whole..).and_then(|rest| BatchHeader::parse(rest).ok()) {
        if whole + header.size > buffer.len() {
            break;
        }
        whole += header.size;
    }
    whole
}

/// `00000000000000000042.log`, as Apache Kafka names them.
pub fn file_name(base_offset: i64) -> String {
    format!("{base_offset:020}.log")
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
