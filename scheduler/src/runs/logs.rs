//! Driver logs: `<data-dir>/runs/<run_id>/driver.log`, the attempts one after the other in one file.
//!
//! Executors ship pieces with their offset within the attempt's own log, and may repeat them; `attempts.json` keeps where each attempt
//! begins in the file, so that a repeat is recognised even after a restart.

use std::collections::{BTreeMap, HashMap};
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;

/// Most bytes kept of one run's log; later ones are dropped, with a line that says so.
const LOG_BYTES_MAX: u64 = 256 << 20;
/// Most bytes read at once.
pub const READ_BYTES_MAX: u64 = 1 << 20;

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct DriverLogs {
    dir: PathBuf,
    /// One lock per run, so that pieces of one log are written in order. Dropped when nobody holds it.
    locks: Arc<Mutex<HashMap<String, Arc<Mutex<()>>>>>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Piece {
    pub offset: u64,
    pub data: Vec<u8>,
    /// Size of the log when it was read.
    pub total_bytes: u64,
}

impl DriverLogs {
    /// Logs below `<data_dir>/runs`.
    #[must_use]
    pub fn new(data_dir: &std::path::Path) -> Self {
        Self { dir: data_dir.join("runs"), locks: Arc::default() }
    }

    /// Adds a piece that begins at `offset` of the attempt's own log. Answers how many bytes of that attempt are kept: the next offset to
    /// send. What is kept already is skipped; a gap is not filled, the answer tells where to go on.
    pub async fn append(&self, run_id: &str, attempt: u32, offset: u64, data: &[u8]) -> std::io::Result<u64> {
        let Some(dir) = self.dir_of(run_id) else { return Err(bad_id()) };
        let lock = self.lock_of(run_id).await;
        let _held = lock.lock().await;
        tokio::fs::create_dir_all(&dir).await?;
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(dir.join("driver.log")).await?;
        let length = file.metadata().await?.len();
        let mut starts = self.starts(&dir).await?;
        let latest = starts.last_key_value().map(|(attempt, _)| *attempt);
        let start = match starts.get(&attempt) {
            Some(start) => *start,
            // An earlier attempt that never had a log: its piece would stand behind a later one's. It is of no use any more.
            None if latest.is_some_and(|latest| latest > attempt) => return Ok(offset + data.len() as u64),
            None => {
                let header = if length == 0 { String::new() } else { format!("--- attempt {attempt} ---\n") };
                file.write_all(header.as_bytes()).await?;
                file.flush().await?;
                let start = length + header.len() as u64;
                starts.insert(attempt, start);
                let encoded = serde_json::to_vec(&starts).map_err(std::io::Error::other)?;
                tokio::fs::write(dir.join("attempts.json"), encoded).await?;
                start
            }
        };
        if latest.is_some_and(|latest| latest > attempt) {
            return Ok(offset + data.len() as u64);
        }
        let kept = file.metadata().await?.len().saturating_sub(start);
        if offset > kept {
            return Ok(kept);
        }
        let skip = usize::try_from(kept - offset).unwrap_or(usize::MAX);
        let Some(fresh) = data.get(skip..).filter(|fresh| !fresh.is_empty()) else { return Ok(kept) };
        if length >= LOG_BYTES_MAX {
            return Ok(offset + data.len() as u64);
        }
        file.write_all(fresh).await?;
        if length + fresh.len() as u64 >= LOG_BYTES_MAX {
            file.write_all(b"\n--- the log is full; what follows is dropped ---\n").await?;
        }
        file.flush().await?;
        Ok(kept + fresh.len() as u64)
    }

    /// Reads up to `limit` bytes from `offset` on; an empty piece when there is nothing (yet).
    pub async fn read(&self, run_id: &str, offset: u64, limit: u64) -> std::io::Result<Piece> {
        let Some(dir) = self.dir_of(run_id) else { return Err(bad_id()) };
        let mut file = match tokio::fs::File::open(dir.join("driver.log")).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Piece { offset, ..Piece::default() }),
            Err(error) => return Err(error),
        };
        let total_bytes = file.metadata().await?.len();
        if offset >= total_bytes {
            return Ok(Piece { offset, data: Vec::new(), total_bytes });
        }
        file.seek(SeekFrom::Start(offset)).await?;
        let mut data = Vec::new();
        file.take(limit.min(READ_BYTES_MAX)).read_to_end(&mut data).await?;
        Ok(Piece { offset, data, total_bytes })
    }

    /// Deletes a run's log. One that is not there is no error.
    pub async fn remove(&self, run_id: &str) -> std::io::Result<()> {
        let Some(dir) = self.dir_of(run_id) else { return Err(bad_id()) };
        match tokio::fs::remove_dir_all(dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn starts(&self, dir: &std::path::Path) -> std::io::Result<BTreeMap<u32, u64>> {
        match tokio::fs::read(dir.join("attempts.json")).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    async fn lock_of(&self, run_id: &str) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().await;
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(run_id.to_owned()).or_default())
    }

    /// `None` for an id that could leave the directory.
    fn dir_of(&self, run_id: &str) -> Option<PathBuf> {
        let plain = !run_id.is_empty() && run_id.len() <= 128 && run_id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        plain.then(|| self.dir.join(run_id))
    }
}

fn bad_id() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, "a run id consists of letters, digits, '-' and '_'")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn repeats_are_skipped_and_attempts_follow_each_other() {
        let dir = std::env::temp_dir().join(format!("chainalytics-logs-{}", uuid::Uuid::new_v4()));
        let logs = DriverLogs::new(&dir);
        assert_eq!(logs.append("r", 1, 0, b"abc").await.unwrap(), 3);
        assert_eq!(logs.append("r", 1, 0, b"abcdef").await.unwrap(), 6, "the part that is kept is skipped");
        assert_eq!(logs.append("r", 1, 9, b"xyz").await.unwrap(), 6, "a gap is refused");
        assert_eq!(logs.append("r", 2, 0, b"two\n").await.unwrap(), 4);
        assert_eq!(logs.append("r", 1, 6, b"late").await.unwrap(), 10, "an earlier attempt is over");
        // As after a restart.
        let logs = DriverLogs::new(&dir);
        assert_eq!(logs.append("r", 2, 0, b"two\n").await.unwrap(), 4);
        let piece = logs.read("r", 0, 1000).await.unwrap();
        assert_eq!(String::from_utf8(piece.data).unwrap(), "abcdef--- attempt 2 ---\ntwo\n");
        assert_eq!(logs.read("r", 3, 3).await.unwrap().data, b"def");
        assert!(logs.read("nobody", 0, 10).await.unwrap().data.is_empty());
        assert!(logs.append("../x", 1, 0, b"abc").await.is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
