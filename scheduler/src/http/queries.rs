//! `/api/v1/queries` and below: Ballista's jobs, with the runs that they belong to and the guard's verdict.

use super::HttpState;
use super::error::HttpError;
use crate::guard::ledger::{Invalidity, Verdict};
use crate::runs::chronicle::judge;
use crate::runs::manager::RunsError;
use crate::runs::model::RunQuery;
use axum::Json;
use axum::extract::{Path, Query, State};
use ballista_core::JobId;
use ballista_core::serde::protobuf::task_status;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use chainalytics_api_types::from_ballista::{self, Hints};
use chainalytics_api_types::{ListParams, Page, QueryDetail, QuerySummary};
use serde_json::Value;
use std::collections::BTreeMap;

pub async fn list(State(state): State<HttpState>, Query(params): Query<ListParams>) -> Result<Json<Page<QuerySummary>>, HttpError> {
    params.check()?;
    let mut all = known(&state).await?;
    all.retain(|summary| summary.matches(&params));
    // Job ids sort by time.
    all.sort_by(|a, b| (b.started_at_ms, &b.job_id).cmp(&(a.started_at_ms, &a.job_id)));
    let total = all.len();
    Ok(Json(Page::cut(all, total, &params)))
}

/// Every query that Ballista still holds.
pub(super) async fn known(state: &HttpState) -> Result<Vec<QuerySummary>, HttpError> {
    let jobs = state.api.json("/api/jobs").await?.unwrap_or(Value::Null);
    let mut all: Vec<QuerySummary> = jobs.as_array().into_iter().flatten().map(from_ballista::query_summary).collect();
    let ids: Vec<String> = all.iter().map(|summary| summary.job_id.clone()).collect();
    let registered = state.runs.store().queries_in(&ids).await.map_err(RunsError::from)?;
    for summary in &mut all {
        let query = registered.get(&summary.job_id);
        complete(state, summary, query);
    }
    Ok(all)
}

pub async fn one(State(state): State<HttpState>, Path(job_id): Path<String>) -> Result<Json<QueryDetail>, HttpError> {
    Ok(Json(detail(&state, &job_id).await?))
}

pub async fn cancel(State(state): State<HttpState>, Path(job_id): Path<String>) -> Result<Json<QueryDetail>, HttpError> {
    // One that has ended stays as it is.
    if !detail(&state, &job_id).await?.summary.state.has_ended() {
        state.guard.cancel_query(&job_id, "asked for over HTTP").await;
    }
    Ok(Json(detail(&state, &job_id).await?))
}

/// Summaries of a run's queries; one that Ballista has forgotten is shown as registered.
pub(super) async fn summaries_of(state: &HttpState, registered: &[RunQuery]) -> Result<Vec<QuerySummary>, HttpError> {
    if registered.is_empty() {
        return Ok(Vec::new());
    }
    let jobs = state.api.json("/api/jobs").await?.unwrap_or(Value::Null);
    let known: BTreeMap<&str, &Value> = jobs.as_array().into_iter().flatten().filter_map(|job| Some((job.get("job_id")?.as_str()?, job))).collect();
    Ok(registered
        .iter()
        .map(|query| {
            let mut summary = match known.get(query.job_id.as_str()) {
                Some(job) => from_ballista::query_summary(job),
                None => QuerySummary { job_id: query.job_id.clone(), ..QuerySummary::default() },
            };
            complete(state, &mut summary, Some(query));
            summary
        })
        .collect())
}

/// Executors whose loss made this query invalid.
pub(super) fn lost_executors(state: &HttpState, job_id: &str) -> Vec<String> {
    match state.guard.validate(job_id) {
        Verdict::Invalid(Invalidity::ExecutorLost(lost)) => lost.into_iter().collect(),
        _ => Vec::new(),
    }
}

pub(super) async fn detail(state: &HttpState, job_id: &str) -> Result<QueryDetail, HttpError> {
    // A job id is a word of letters and digits; anything else would change the path.
    if job_id.is_empty() || !job_id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Err(not_found(job_id));
    }
    let Some(job) = state.api.json(&format!("/api/job/{job_id}")).await? else { return Err(not_found(job_id)) };
    let stages = state.api.json(&format!("/api/job/{job_id}/stages?plan_format=metrics")).await?.unwrap_or(Value::Null);
    let config = state.api.json(&format!("/api/job/{job_id}/config")).await.ok().flatten();
    let hints = Hints {
        executors: executors_of_tasks(state, job_id).await,
        config: config.and_then(|config| serde_json::from_value(config).ok()).unwrap_or_default(),
    };
    let mut detail = from_ballista::query_detail(&job, &stages, &hints);
    let registered = state.runs.store().query(job_id).await.map_err(RunsError::from)?;
    complete(state, &mut detail.summary, registered.as_ref());
    detail.statement = registered.map(|query| query.statement).unwrap_or_default();
    Ok(detail)
}

fn not_found(job_id: &str) -> HttpError {
    let message = format!("query {job_id} is not known to this scheduler");
    let mut error = HttpError::not_found("QUERY_NOT_FOUND", message);
    error.body.remedy = "The history server shows queries that ended longer ago, and those of earlier schedulers.".to_owned();
    error
}

/// Adds what only we know.
fn complete(state: &HttpState, summary: &mut QuerySummary, registered: Option<&RunQuery>) {
    if let Some(query) = registered {
        summary.run_id = Some(query.run_id.clone());
        summary.attempt = query.attempt;
        summary.submitted_at_ms = Some(query.registered_at_ms);
        if !query.label.is_empty() {
            summary.label.clone_from(&query.label);
        }
    }
    judge(summary, &state.guard.validate(&summary.job_id));
}

async fn executors_of_tasks(state: &HttpState, job_id: &str) -> BTreeMap<(u32, u32), String> {
    let id = JobId::from(job_id);
    if let Some(job) = state.ballista.state.task_manager.get_running_job_cache().get(&id) {
        return executors_of_graph(job.execution_graph.read().await.as_ref());
    }
    match state.job_state.get_execution_graph(&id).await {
        Ok(Some(graph)) => executors_of_graph(graph.as_ref()),
        _ => BTreeMap::new(),
    }
}

fn executors_of_graph(graph: &(dyn ExecutionGraph + Send + Sync)) -> BTreeMap<(u32, u32), String> {
    let mut executors = BTreeMap::new();
    for (stage_id, stage) in graph.stages() {
        for task in stage.task_infos().into_iter().flatten() {
            let executor_id = match &task.task_status {
                task_status::Status::Running(running) => &running.executor_id,
                task_status::Status::Successful(done) => &done.executor_id,
                task_status::Status::Failed(_) => continue,
            };
            if let (Ok(stage_id), Ok(task_id)) = (u32::try_from(*stage_id), u32::try_from(task.task_id)) {
                executors.insert((stage_id, task_id), executor_id.clone());
            }
        }
    }
    executors
}
