//! Looks for logs that are new, have changed or are gone. Blocking: runs on a thread of its own, one scan at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use chainalytics_event_log::{LogError, LogPaths, query_log, read_run_log};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, QueryEntry, RunEntry, slim_query, slim_run};

/// How a file looked when it was read. Logs are only ever appended to, so that a change shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl Stamp {
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }

    pub fn length(self) -> u64 {
        self.length
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(metadata: &fs::Metadata) -> Self {
        Self { modified: metadata.modified().ok(), length: metadata.len() }
    }
}

enum Known {
    Run(RunEntry),
    Query(QueryEntry),
    /// A query log without an end, or a file that is none of ours.
    Nothing,
    Unreadable(String),
}

/// What was read so far; carried from scan to scan so that an unchanged file costs one `stat`.
pub(crate) struct Scanner {
    paths: LogPaths,
    entries_max: usize,
    known: HashMap<PathBuf, (Stamp, Known)>,
}

/// Why a directory could not be looked through. A directory that does not exist is empty.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the event-log directory {}", path.display())]
pub(crate) struct ScanError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Scanner {
    pub fn new(paths: LogPaths, entries_max: usize) -> Self {
        Self { paths, entries_max, known: HashMap::new() }
    }

    /// Answers the new catalog, or nothing if no file has changed.
    pub fn scan(&mut self, stop: &CancellationToken) -> Result<Option<Catalog>, ScanError> {
        let mut found = run_files(list(&self.paths.runs_dir(), self.entries_max)?);
        found.extend(
            list(&self.paths.queries_dir(), self.entries_max)?
                .into_iter()
                .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "eventlog")),
        );
        let present: HashSet<&PathBuf> = found.iter().map(|(path, _)| path).collect();
        let before = self.known.len();
        self.known.retain(|path, _| present.contains(path));
        let mut changed = self.known.len() != before;
        for (path, stamp) in found {
            if stop.is_cancelled() {
                break;
            }
            if self.known.get(&path).is_some_and(|(seen, _)| *seen == stamp) {
                continue;
            }
            let entry = read(&path);
            if let Known::Unreadable(reason) = &entry {
                tracing::warn!(path = %path.display(), reason, "event log skipped");
            }
            changed = true;
            self.known.insert(path, (stamp, entry));
        }
        Ok(changed.then(|| self.catalog()))
    }

    fn catalog(&self) -> Catalog {
        let entries = || self.known.values().map(|(_, entry)| entry);
        let runs = entries().filter_map(|entry| if let Known::Run(run) = entry { Some(run.clone()) } else { None });
        let queries = entries().filter_map(|entry| if let Known::Query(query) = entry { Some(query.clone()) } else { None });
        let unreadable: BTreeMap<PathBuf, String> = self
            .known
            .iter()
            .filter_map(|(path, (_, entry))| match entry {
                Known::Unreadable(reason) => Some((path.clone(), reason.clone())),
                _ => None,
            })
            .collect();
        Catalog::build(runs, queries, unreadable, self.entries_max)
    }
}

/// All files of a directory, the newest `entries_max` of them.
fn list(dir: &Path, entries_max: usize) -> Result<Vec<(PathBuf, Stamp)>, ScanError> {
    let fail = |source| ScanError { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        // A file that vanished meanwhile is not there.
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
        {
            found.push((entry.path(), Stamp::from(&metadata)));
        }
    }
    if found.len() > entries_max {
        found.sort_by_key(|(_, stamp)| std::cmp::Reverse(stamp.modified));
        found.truncate(entries_max);
    }
    Ok(found)
}

/// Run logs only; of a run that has both a finished and a running log (a crash between two steps), the finished one.
fn run_files(files: Vec<(PathBuf, Stamp)>) -> Vec<(PathBuf, Stamp)> {
    let mut by_run: HashMap<String, (bool, PathBuf, Stamp)> = HashMap::new();
    for (path, stamp) in files {
        let Some((run_id, ended)) = LogPaths::run_of_file(&path) else { continue };
        let better = by_run.get(&run_id).is_none_or(|(known_ended, _, _)| ended && !known_ended);
        if better {
            by_run.insert(run_id, (ended, path, stamp));
        }
    }
    by_run.into_values().map(|(_, path, stamp)| (path, stamp)).collect()
}

fn read(path: &Path) -> Known {
    if LogPaths::run_of_file(path).is_some() {
        return match read_run_log(path) {
            Ok(replay) => Known::Run(RunEntry {
                queries: replay.detail.queries.into_iter().map(|query| Arc::new(slim_query(query))).collect(),
                summary: Arc::new(slim_run(replay.detail.summary)),
                path: path.to_owned(),
            }),
            // A log that has just been begun.
            Err(LogError::Malformed { .. }) if path.extension().is_some_and(|extension| extension == "running") => Known::Nothing,
            Err(error) if error.is_not_found() => Known::Nothing,
            Err(error) => Known::Unreadable(error.to_string()),
        };
    }
    match query_log::read_query_summary(path) {
        Ok(Some(summary)) => Known::Query(QueryEntry { summary: Arc::new(slim_query(summary)), path: path.to_owned() }),
        Ok(None) => Known::Nothing,
        Err(error) if error.is_not_found() => Known::Nothing,
        Err(error) => Known::Unreadable(error.to_string()),
    }
}
