//! Ballista's query logs as our REST bodies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use ballista_history::event::{LogRecord, TaskEnd, kind};
use ballista_history::reader::{ReadError, read_completed_job, read_job_index};
use chainalytics_api_types::from_ballista::{Hints, query_detail, query_summary};
use chainalytics_api_types::{QueryDetail, QuerySummary};
use serde_json::Value;

use crate::{LogError, LogResult};

/// The list entry of a finished query; `None` if the log has no end. Run, label and validity come from the run's log.
pub fn read_query_summary(path: &Path) -> LogResult<Option<QuerySummary>> {
    let Some(index) = read_job_index(path).map_err(|error| convert(path, error))? else { return Ok(None) };
    let job = serde_json::to_value(&index).map_err(|error| malformed(path, error))?;
    Ok(Some(query_summary(&job)))
}

/// A finished query with its stages, tasks (with the executors that ran them), operators and configuration.
pub fn read_query_detail(path: &Path) -> LogResult<Option<QueryDetail>> {
    let Some(job) = read_completed_job(path).map_err(|error| convert(path, error))? else { return Ok(None) };
    let body = |raw: &str| serde_json::from_str::<Value>(raw).map_err(|error| malformed(path, error));
    let hints = Hints { executors: executors_of(path)?, config: job.config };
    Ok(Some(query_detail(&body(job.job.get())?, &body(job.stages.get())?, &hints)))
}

/// The stages body does not say who ran a task; the log's `TaskEnd` lines do.
fn executors_of(path: &Path) -> LogResult<BTreeMap<(u32, u32), String>> {
    let file = File::open(path).map_err(LogError::io("open", path))?;
    let mut executors = BTreeMap::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(LogError::io("read", path))?;
        // The one huge line, JobEnd, is not parsed a second time.
        if !line.starts_with("{\"ev\":\"TaskEnd\"") {
            continue;
        }
        if let Ok(record) = serde_json::from_str::<LogRecord>(&line)
            && record.ev == kind::TASK_END
            && let Ok(task) = record.decode::<TaskEnd>()
        {
            executors.insert((task.stage_id, task.task_id), task.executor_id);
        }
    }
    Ok(executors)
}

fn convert(path: &Path, error: ReadError) -> LogError {
    match error {
        ReadError::Io(source) => LogError::Io { action: "read", path: path.to_owned(), source },
        ReadError::UnsupportedVersion { found, supported } => LogError::UnsupportedVersion { path: path.to_owned(), found, supported },
        ReadError::Malformed(detail) => LogError::Malformed { path: path.to_owned(), detail },
    }
}

fn malformed(path: &Path, error: serde_json::Error) -> LogError {
    LogError::Malformed { path: path.to_owned(), detail: error.to_string() }
}
