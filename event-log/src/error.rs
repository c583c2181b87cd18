use std::path::PathBuf;

pub type LogResult<T> = Result<T, LogError>;

/// Why a log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk's answer; a writer goes on with other runs, a reader shows the other logs.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Written by a newer version: upgrade the reader.
    #[error("event log {} has version {found}, newer than the highest supported version {supported}", path.display())]
    UnsupportedVersion { path: PathBuf, found: u32, supported: u32 },
    /// Nothing in the file can be used.
    #[error("event log {} is damaged: {detail}", path.display())]
    Malformed { path: PathBuf, detail: String },
    /// An id that cannot be a file name.
    #[error("{id:?} is not a valid run or query id")]
    InvalidId { id: String },
    /// The writer's task has ended or does not keep up.
    #[error("the event-log writer is not taking events: {detail}")]
    Unavailable { detail: &'static str },
}

impl LogError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}
