//! What a line of a run log holds.

use std::collections::BTreeMap;

use chainalytics_api_types::redact::redact;
use chainalytics_api_types::{DeployMode, QueryState, RunError, RunProgress, RunState, StreamingBatch, Validity};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the lines written by this build. Raised only when a field goes, changes its type or its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// Longest statement that is kept, in bytes; the rest is cut.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// One line: `{"ev": .., "version": .., "data": ..}`. The kind and version can be judged before the payload is parsed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    pub ev: String,
    pub version: u32,
    pub data: Value,
}

/// An event of a run. `Serialize` is not derived on purpose: only [`RunEvent::to_envelope`] goes to disk.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// First line of every log.
    RunSubmitted(RunSubmitted),
    /// A driver reported for the first time; once per attempt.
    RunStarted(RunStarted),
    QueryRegistered(QueryRegistered),
    QueryEnded(QueryEnded),
    /// Sampled by the writer; may be dropped.
    Progress(RunProgress),
    /// May be dropped when the writer does not keep up.
    StreamingBatch(StreamingBatch),
    /// An executor was lost while the run was in progress.
    ExecutorLost(ExecutorLost),
    KillRequested(KillRequested),
    /// Last line; closes the log.
    RunEnded(RunEnded),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunSubmitted {
    pub run_id: String,
    pub name: String,
    pub job: String,
    pub args: Vec<String>,
    /// Secrets are hidden when the line is written, whatever the caller passes.
    pub conf: BTreeMap<String, String>,
    pub user: String,
    pub deploy_mode: DeployMode,
    pub supervise: bool,
    pub priority: i32,
    pub at_ms: i64,
    pub scheduler_id: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunStarted {
    /// 1 = first launch of the driver.
    pub attempt: u32,
    pub at_ms: i64,
    /// Executor id or host of the driver, if known.
    pub driver_location: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct QueryRegistered {
    pub job_id: String,
    /// 1 = first try of this statement.
    pub attempt: u32,
    pub label: String,
    /// Cut to [`STATEMENT_BYTES_MAX`] when written.
    pub statement: String,
    pub at_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct QueryEnded {
    pub job_id: String,
    pub state: QueryState,
    pub validity: Validity,
    pub validity_reason: Option<String>,
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: i64,
    pub output_rows: Option<u64>,
    pub stages_total: u32,
    pub stages_done: u32,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ExecutorLost {
    pub executor_id: String,
    pub at_ms: i64,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct KillRequested {
    pub at_ms: i64,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RunEnded {
    pub state: RunState,
    pub at_ms: i64,
    pub error: Option<RunError>,
    /// The job's report, or null.
    pub report: Value,
}

impl RunEvent {
    /// The stable name on disk.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunSubmitted(_) => "RunSubmitted",
            Self::RunStarted(_) => "RunStarted",
            Self::QueryRegistered(_) => "QueryRegistered",
            Self::QueryEnded(_) => "QueryEnded",
            Self::Progress(_) => "Progress",
            Self::StreamingBatch(_) => "StreamingBatch",
            Self::ExecutorLost(_) => "ExecutorLost",
            Self::KillRequested(_) => "KillRequested",
            Self::RunEnded(_) => "RunEnded",
        }
    }

    /// May be lost without harm to the history.
    pub fn is_droppable(&self) -> bool {
        matches!(self, Self::Progress(_) | Self::StreamingBatch(_))
    }

    pub fn to_envelope(&self) -> serde_json::Result<Envelope> {
        let data = match self {
            Self::RunSubmitted(data) => serde_json::to_value(RunSubmitted { conf: redact(&data.conf), ..data.clone() })?,
            Self::RunStarted(data) => serde_json::to_value(data)?,
            Self::QueryRegistered(data) => serde_json::to_value(QueryRegistered { statement: cut(&data.statement), ..data.clone() })?,
            Self::QueryEnded(data) => serde_json::to_value(data)?,
            Self::Progress(data) => serde_json::to_value(data)?,
            Self::StreamingBatch(data) => serde_json::to_value(data)?,
            Self::ExecutorLost(data) => serde_json::to_value(data)?,
            Self::KillRequested(data) => serde_json::to_value(data)?,
            Self::RunEnded(data) => serde_json::to_value(data)?,
        };
        Ok(Envelope { ev: self.kind().to_owned(), version: SCHEMA_VERSION, data })
    }

    /// The event of a line whose version this build supports; `None` for a kind that it does not know.
    pub fn from_envelope(envelope: Envelope) -> serde_json::Result<Option<Self>> {
        let data = envelope.data;
        Ok(Some(match envelope.ev.as_str() {
            "RunSubmitted" => Self::RunSubmitted(serde_json::from_value(data)?),
            "RunStarted" => Self::RunStarted(serde_json::from_value(data)?),
            "QueryRegistered" => Self::QueryRegistered(serde_json::from_value(data)?),
            "QueryEnded" => Self::QueryEnded(serde_json::from_value(data)?),
            "Progress" => Self::Progress(serde_json::from_value(data)?),
            "StreamingBatch" => Self::StreamingBatch(serde_json::from_value(data)?),
            "ExecutorLost" => Self::ExecutorLost(serde_json::from_value(data)?),
            "KillRequested" => Self::KillRequested(serde_json::from_value(data)?),
            "RunEnded" => Self::RunEnded(serde_json::from_value(data)?),
            _ => return Ok(None),
        }))
    }
}

fn cut(text: &str) -> String {
    if text.len() <= STATEMENT_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = STATEMENT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ... [cut]", &text[..end])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_do_not_reach_the_disk() {
        let event = RunEvent::RunSubmitted(RunSubmitted {
            conf: [("catalog.s3.secret-access-key".to_owned(), "hunter2".to_owned())].into(),
            ..RunSubmitted::default()
        });
        assert!(!serde_json::to_string(&event.to_envelope().unwrap()).unwrap().contains("hunter2"));
    }

    #[test]
    fn a_long_statement_is_cut_between_characters() {
        let event = RunEvent::QueryRegistered(QueryRegistered { statement: "ä".repeat(40_000), ..QueryRegistered::default() });
        let back = RunEvent::from_envelope(event.to_envelope().unwrap()).unwrap();
        assert!(matches!(back, Some(RunEvent::QueryRegistered(query)) if query.statement.ends_with("[cut]")));
    }

    #[test]
    fn unknown_kinds_are_skipped_and_unknown_fields_ignored() {
        let future = Envelope { ev: "FromTheFuture".into(), version: 1, data: Value::Null };
        assert_eq!(RunEvent::from_envelope(future).unwrap(), None);
        let wider: Envelope = serde_json::from_str(r#"{"ev":"RunStarted","version":1,"data":{"attempt":2,"new":{"x":1}}}"#).unwrap();
        assert!(matches!(RunEvent::from_envelope(wider).unwrap(), Some(RunEvent::RunStarted(started)) if started.attempt == 2));
    }
}
