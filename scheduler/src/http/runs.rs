//! `/api/v1/runs` and below.

use super::HttpState;
use super::error::HttpError;
use super::queries;
use crate::runs::journal;
use crate::runs::logs::READ_BYTES_MAX;
use crate::runs::manager::{QUERIES_PER_RUN_MAX, RunsError};
use crate::runs::model::{self, Run};
use crate::runs::redact;
use crate::runs::store::Filter;
use axum::Json;
use axum::extract::{Path, Query, State};
use chainalytics_api_types::{ListParams, LogPage, Page, RunDetail, RunSummary, StreamingBatch};
use chainalytics_event_log::{LogPaths, read_run_log};
use serde::Deserialize;

/// Bytes of a log page when the caller names no limit.
const LOG_PAGE_BYTES: u64 = 64 << 10;

pub async fn list(State(state): State<HttpState>, Query(params): Query<ListParams>) -> Result<Json<Page<RunSummary>>, HttpError> {
    params.check()?;
    let states: Vec<_> = model::RunState::ALL.into_iter().filter(|run_state| params.wants_state(run_state.label())).collect();
    if states.is_empty() {
        return Ok(Json(Page::default()));
    }
    let filter = Filter {
        states: if states.len() == model::RunState::ALL.len() { Vec::new() } else { states },
        job: params.job.clone().filter(|job| !job.is_empty()),
        text: params.q.clone().filter(|q| !q.trim().is_empty()),
        limit: u32::try_from(params.limit()).unwrap_or(u32::MAX),
        offset: u32::try_from(params.offset()).unwrap_or(u32::MAX),
    };
    let (runs, total) = state.runs.list(&filter).await?;
    let ids: Vec<String> = runs.iter().map(|run| run.run_id.clone()).collect();
    let counts = state.runs.store().query_counts(&ids).await.map_err(RunsError::from)?;
    let items: Vec<RunSummary> = runs.iter().map(|run| summary(run, counts.get(&run.run_id).copied().unwrap_or(0))).collect();
    let end = params.offset() + items.len();
    let next = ((end as u64) < total && !items.is_empty()).then(|| end.to_string());
    Ok(Json(Page { items, total, next }))
}

pub async fn one(State(state): State<HttpState>, Path(run_id): Path<String>) -> Result<Json<RunDetail>, HttpError> {
    Ok(Json(detail(&state, &run_id).await?))
}

pub async fn kill(State(state): State<HttpState>, Path(run_id): Path<String>) -> Result<Json<RunDetail>, HttpError> {
    state.runs.kill(&run_id, "asked for over HTTP").await?;
    Ok(Json(detail(&state, &run_id).await?))
}

#[derive(Debug, Deserialize)]
pub struct LogParams {
    offset: Option<u64>,
    limit: Option<u64>,
}

pub async fn logs(State(state): State<HttpState>, Path(run_id): Path<String>, Query(params): Query<LogParams>) -> Result<Json<LogPage>, HttpError> {
    let run = state.runs.get(&run_id).await?;
    let limit = params.limit.unwrap_or(LOG_PAGE_BYTES).clamp(1, READ_BYTES_MAX);
    let offset = match params.offset {
        Some(offset) => offset,
        None => {
            let size = state.runs.logs().read(&run_id, u64::MAX, 1).await.map_err(RunsError::from)?.total_bytes;
            size.saturating_sub(limit)
        }
    };
    let piece = state.runs.logs().read(&run_id, offset, limit).await.map_err(RunsError::from)?;
    let next_offset = offset.min(piece.total_bytes.max(offset)) + piece.data.len() as u64;
    Ok(Json(LogPage {
        offset,
        next_offset,
        total_bytes: piece.total_bytes,
        text: String::from_utf8_lossy(&piece.data).into_owned(),
        complete: run.state.is_terminal() && next_offset >= piece.total_bytes,
    }))
}

async fn detail(state: &HttpState, run_id: &str) -> Result<RunDetail, HttpError> {
    let run = state.runs.get(run_id).await?;
    let registered = state.runs.store().queries_of(run_id, QUERIES_PER_RUN_MAX).await.map_err(RunsError::from)?;
    let queries = queries::summaries_of(state, &registered).await?;
    let mut lost_executors: Vec<String> = registered.iter().flat_map(|query| queries::lost_executors(state, &query.job_id)).collect();
    lost_executors.sort();
    lost_executors.dedup();
    Ok(RunDetail {
        summary: summary(&run, registered.len() as u64),
        args: run.args.clone(),
        conf: redact::conf(&run.conf),
        supervise: run.supervise,
        priority: run.priority,
        kill_requested: run.kill_requested_at_ms.is_some(),
        driver_location: run.executor_id.clone(),
        queries,
        report: journal::json(run.report_json.as_deref()),
        streaming: batches(state, &run).await,
        lost_executors,
    })
}

/// Micro-batches of a run in progress from memory, of one that has ended from its log.
async fn batches(state: &HttpState, run: &Run) -> Vec<StreamingBatch> {
    let recent = state.runs.recent_batches(&run.run_id).await;
    let streams = run.progress.as_ref().is_some_and(|progress| !journal::batches(progress).is_empty());
    if !recent.is_empty() || !run.state.is_terminal() || !streams {
        return recent;
    }
    let Ok(path) = LogPaths::new(&state.about.event_log_dir).finished_run(&run.run_id) else { return recent };
    match tokio::task::spawn_blocking(move || read_run_log(&path)).await {
        Ok(Ok(replay)) => replay.detail.streaming,
        Ok(Err(error)) => {
            tracing::debug!(run_id = run.run_id, %error, "the run's log was not read");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

pub(crate) fn summary(run: &Run, queries_total: u64) -> RunSummary {
    RunSummary {
        run_id: run.run_id.clone(),
        name: run.name.clone(),
        job: run.job.clone(),
        user: run.user.clone(),
        deploy_mode: journal::deploy_mode(run.deploy_mode),
        state: journal::run_state(run.state),
        attempt: run.attempt,
        submitted_at_ms: run.submitted_at_ms,
        started_at_ms: run.started_at_ms,
        ended_at_ms: run.ended_at_ms,
        progress: run.progress.as_ref().map(journal::progress),
        error: run.error.as_ref().map(journal::run_error),
        queries_total,
    }
}
