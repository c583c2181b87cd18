//! Where logs lie.

use std::path::{Path, PathBuf};

use crate::{LogError, LogResult};

/// End of a finished run log's name.
pub const RUN_LOG_SUFFIX: &str = ".eventlog.zst";
/// Added to the name of a log whose run has not ended.
pub const RUNNING_SUFFIX: &str = ".running";

/// The layout under one event-log directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPaths {
    root: PathBuf,
}

impl LogPaths {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn runs_dir(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// What Ballista's scheduler takes as its event-log directory.
    pub fn queries_dir(&self) -> PathBuf {
        self.root.join("queries")
    }

    pub fn finished_run(&self, run_id: &str) -> LogResult<PathBuf> {
        Ok(self.runs_dir().join(format!("{}{RUN_LOG_SUFFIX}", safe(run_id)?)))
    }

    pub fn running_run(&self, run_id: &str) -> LogResult<PathBuf> {
        Ok(self.runs_dir().join(format!("{}{RUN_LOG_SUFFIX}{RUNNING_SUFFIX}", safe(run_id)?)))
    }

    pub fn query(&self, job_id: &str) -> LogResult<PathBuf> {
        Ok(self.queries_dir().join(format!("{}.eventlog", safe(job_id)?)))
    }

    /// The run id of a log file and whether the run had ended, or nothing for any other file.
    pub fn run_of_file(path: &Path) -> Option<(String, bool)> {
        let name = path.file_name()?.to_str()?;
        if let Some(id) = name.strip_suffix(RUN_LOG_SUFFIX) {
            return Some((id.to_owned(), true));
        }
        let id = name.strip_suffix(RUNNING_SUFFIX)?.strip_suffix(RUN_LOG_SUFFIX)?;
        Some((id.to_owned(), false))
    }
}

/// Ids become file names: letters, digits, `-`, `_` and inner dots, at most 200 of them.
pub fn is_safe_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 200
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn safe(id: &str) -> LogResult<&str> {
    if is_safe_id(id) { Ok(id) } else { Err(LogError::InvalidId { id: id.chars().take(200).collect() }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_ids_map_both_ways() {
        let paths = LogPaths::new("/x");
        assert_eq!(LogPaths::run_of_file(&paths.finished_run("r-1").unwrap()), Some(("r-1".into(), true)));
        assert_eq!(LogPaths::run_of_file(&paths.running_run("r-1").unwrap()), Some(("r-1".into(), false)));
        assert_eq!(LogPaths::run_of_file(Path::new("/x/runs/other.txt")), None);
    }

    #[test]
    fn an_id_cannot_leave_the_directory() {
        for id in ["", "..", "../x", "a/b", ".hidden", "a\0b", "ä"] {
            assert!(LogPaths::new("/x").finished_run(id).is_err(), "{id:?}");
        }
    }
}
