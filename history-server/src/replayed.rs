//! Details replayed from their logs on demand, the most recently used kept.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chainalytics_api_types::QueryDetail;
use chainalytics_event_log::{LogResult, RunReplay, query_log, read_run_log};
use lru::LruCache;
use parking_lot::Mutex;

use crate::scan::Stamp;

/// Details of larger logs are replayed anew for each request rather than held.
const CACHED_LOG_BYTES_MAX: u64 = 8 << 20;

type Cache<T> = Mutex<LruCache<PathBuf, (Stamp, Arc<T>)>>;

pub(crate) struct Replayed {
    runs: Cache<RunReplay>,
    queries: Cache<QueryDetail>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Replayed {
    pub fn new(details_cached: usize) -> Self {
        let capacity = NonZeroUsize::new(details_cached).unwrap_or(NonZeroUsize::MIN);
        Self {
            runs: Mutex::new(LruCache::new(capacity)),
            queries: Mutex::new(LruCache::new(capacity)),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Blocking file I/O.
    pub fn run(&self, path: &Path) -> LogResult<Arc<RunReplay>> {
        self.get(&self.runs, path, |path| read_run_log(path).map(Some)).map(Option::unwrap_or_default)
    }

    /// Blocking file I/O. `None`: the log has no end (any more).
    pub fn query(&self, path: &Path) -> LogResult<Option<Arc<QueryDetail>>> {
        self.get(&self.queries, path, query_log::read_query_detail)
    }

    /// Cache hits and misses so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn get<T>(&self, cache: &Cache<T>, path: &Path, read: impl FnOnce(&Path) -> LogResult<Option<T>>) -> LogResult<Option<Arc<T>>> {
        // The stamp is taken before the read: a file that grows meanwhile is read again next time.
        let stamp = Stamp::of(path);
        if let Some((seen, detail)) = cache.lock().get(path)
            && Some(*seen) == stamp
        {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(Arc::clone(detail)));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let Some(detail) = read(path)?.map(Arc::new) else { return Ok(None) };
        if let Some(stamp) = stamp.filter(|stamp| stamp.length() <= CACHED_LOG_BYTES_MAX) {
            cache.lock().put(path.to_owned(), (stamp, Arc::clone(&detail)));
        }
        Ok(Some(detail))
    }
}
