//! Hands out producer ids, each once for the life of the data directory.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

const FILE: &str = "next-producer-id";
/// Ids reserved with one write; a restart skips the unused rest.
const BLOCK: i64 = 1000;

/// The source of producer ids.
#[derive(Debug)]
pub struct ProducerIds {
    path: PathBuf,
    state: Mutex<Range>,
}

#[derive(Debug)]
struct Range {
    next: i64,
    reserved_end: i64,
}

impl ProducerIds {
    /// Continues after everything handed out before: the stored block, or the largest id found in the logs.
    pub fn open(dir: &Path, largest_seen: Option<i64>) -> Self {
        let path = dir.join(FILE);
        let stored = std::fs::read_to_string(&path).ok().and_then(|s| s.trim().parse::<i64>().ok()).unwrap_or(0);
        let next = stored.max(largest_seen.map_or(0, |id| id + 1));
        Self { path, state: Mutex::new(Range { next, reserved_end: next }) }
    }

    /// A new id. Blocks on the file system once per thousand.
    pub fn next(&self) -> io::Result<i64> {
        let mut range = self.state.lock();
        if range.next == range.reserved_end {
            let end = range.reserved_end + BLOCK;
            let pending = self.path.with_extension("new");
            std::fs::write(&pending, end.to_string())?;
            std::fs::rename(&pending, &self.path)?;
            range.reserved_end = end;
        }
        let id = range.next;
        range.next += 1;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn never_twice() {
        let dir = std::env::temp_dir().join(format!("broker-ids-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let ids = ProducerIds::open(&dir, None);
        assert_eq!((ids.next().unwrap(), ids.next().unwrap()), (0, 1));
        let ids = ProducerIds::open(&dir, Some(5));
        assert_eq!(ids.next().unwrap(), 1000);
        let ids = ProducerIds::open(&dir, Some(7000));
        assert_eq!(ids.next().unwrap(), 7001);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
