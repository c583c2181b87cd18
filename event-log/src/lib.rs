//! History on disk: what the scheduler writes while a run goes on, and what the history server reads years later.
//!
//! ```text
//! <event-log dir>/runs/<run_id>.eventlog.zst           a run that ended              (ours: envelope lines in zstd frames)
//! <event-log dir>/runs/<run_id>.eventlog.zst.running   a run in progress or cut off  (same, without an end)
//! <event-log dir>/queries/<job_id>.eventlog            a query                       (Ballista's own format)
//! ```
//!
//! The data's way: [`event`] (what a line holds) -> [`writer`] (one background task, bounded queue) -> file -> [`reader`] (lines back from
//! whatever is there) -> [`replay`] (lines to the REST bodies). [`query_log`] reads Ballista's files into the same bodies.
//!
//! Compatibility: a reader accepts every version up to its own and skips what it does not know; a field is only ever added, with a default.
//! `testdata/run-v1.eventlog.zst` is frozen and read by a test.

pub mod event;
pub mod query_log;
pub mod reader;
pub mod replay;
pub mod writer;

mod error;
mod paths;

pub use error::{LogError, LogResult};
pub use event::RunEvent;
pub use paths::{LogPaths, RUN_LOG_SUFFIX, RUNNING_SUFFIX, is_safe_id};
pub use reader::{RunLogHead, read_run_log, read_run_summary};
pub use replay::RunReplay;
pub use writer::{RunLogOptions, RunLogWriter};
