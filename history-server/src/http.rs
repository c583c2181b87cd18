//! The routes: the scheduler's bodies, answered from logs.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chainalytics_api_types::{
    ClusterInfo, ClusterMode, ClusterSample, ErrorBody, ExecutorInfo, ListParams, LogPage, Page, QueryDetail, QuerySummary, RunDetail, RunSummary,
};
use chainalytics_event_log::LogError;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::catalog::{Catalog, joined};
use crate::replayed::Replayed;
use crate::{HistoryOptions, driver_log};

/// What the handlers read and the scans replace.
pub(crate) struct Shared {
    pub options: HistoryOptions,
    pub started_at_ms: i64,
    pub catalog: RwLock<Arc<Catalog>>,
    pub replayed: Replayed,
    pub scans: RwLock<Scans>,
}

/// How the scans go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scans {
    pub done: u64,
    pub failed: u64,
    pub last_duration: Duration,
    /// Set while the log directory cannot be read.
    pub error: Option<String>,
}

impl Shared {
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .route("/api/v1/cluster", get(cluster))
        .route("/api/v1/cluster/samples", get(|| async { Json(Page::<ClusterSample>::default()) }))
        .route("/api/v1/executors", get(|| async { Json(Page::<ExecutorInfo>::default()) }))
        .route("/api/v1/runs", get(runs))
        .route("/api/v1/runs/{run_id}", get(run))
        .route("/api/v1/runs/{run_id}/logs", get(run_logs))
        .route("/api/v1/queries", get(queries))
        .route("/api/v1/queries/{job_id}", get(query))
        .route("/api/v1/{*rest}", get(no_such_path))
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
        .merge(chainalytics_ui::router());
    chainalytics_ui::rest::protect(routes)
}

type Answer<T> = Result<Json<T>, Failure>;

/// A status and its body.
#[derive(Debug)]
struct Failure(StatusCode, ErrorBody);

impl Failure {
    fn not_found(code: &str, message: String) -> Self {
        let remedy = "The history shows what lies in the event-log directory; it may have been removed, or not be written yet.";
        Self(StatusCode::NOT_FOUND, ErrorBody::new(code, message, remedy))
    }

    fn internal(message: impl std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::new("INTERNAL", message.to_string(), "See the history server's log."))
    }

    fn of_log(error: &LogError) -> Self {
        match error {
            LogError::UnsupportedVersion { .. } => {
                Self(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::new("EVENT_LOG_VERSION", error.to_string(), "Upgrade the history server."))
            }
            _ if error.is_not_found() => Self::not_found("EVENT_LOG_GONE", error.to_string()),
            _ => {
                tracing::warn!(%error, "event log not served");
                Self(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::new("EVENT_LOG_UNREADABLE", error.to_string(), ""))
            }
        }
    }
}

impl From<ErrorBody> for Failure {
    /// What is wrong with the request.
    fn from(body: ErrorBody) -> Self {
        Self(StatusCode::BAD_REQUEST, body)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

async fn cluster(State(shared): State<Arc<Shared>>) -> Json<ClusterInfo> {
    let catalog = shared.catalog();
    Json(ClusterInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: ClusterMode::History,
        started_at_ms: shared.started_at_ms,
        now_ms: now_ms(),
        other_url: shared.options.scheduler_page_url.clone(),
        runs: catalog.runs_by_state(),
        event_log_dir: Some(shared.options.event_log_dir.display().to_string()),
        unreadable_logs: catalog.unreadable.len() as u64,
        ..ClusterInfo::default()
    })
}

async fn runs(State(shared): State<Arc<Shared>>, Query(params): Query<ListParams>) -> Answer<Page<RunSummary>> {
    params.check()?;
    let catalog = shared.catalog();
    let matching: Vec<&Arc<RunSummary>> = catalog.runs.iter().filter(|run| run.matches(&params)).collect();
    Ok(Json(cut(&matching, &params)))
}

async fn queries(State(shared): State<Arc<Shared>>, Query(params): Query<ListParams>) -> Answer<Page<QuerySummary>> {
    params.check()?;
    let catalog = shared.catalog();
    let matching: Vec<&Arc<QuerySummary>> = catalog.queries.iter().filter(|query| query.matches(&params)).collect();
    Ok(Json(cut(&matching, &params)))
}

fn cut<T: Clone>(matching: &[&Arc<T>], params: &ListParams) -> Page<T> {
    let page = Page::cut(matching.iter(), matching.len(), params);
    Page { items: page.items.into_iter().map(|item| T::clone(item)).collect(), total: page.total, next: page.next }
}

async fn run(State(shared): State<Arc<Shared>>, Path(run_id): Path<String>) -> Answer<RunDetail> {
    blocking(move || run_detail(&shared, &run_id)).await
}

fn run_detail(shared: &Shared, run_id: &str) -> Result<RunDetail, Failure> {
    let catalog = shared.catalog();
    let path = catalog.run_path(run_id).ok_or_else(|| no_run(run_id))?;
    let mut detail = shared.replayed.run(path).map_err(|error| Failure::of_log(&error))?.detail.clone();
    for query in &mut detail.queries {
        if let Some(known) = catalog.query(&query.job_id) {
            *query = QuerySummary::clone(known);
        }
    }
    Ok(detail)
}

async fn query(State(shared): State<Arc<Shared>>, Path(job_id): Path<String>) -> Answer<QueryDetail> {
    blocking(move || one_query(&shared, &job_id)).await
}

fn one_query(shared: &Shared, job_id: &str) -> Result<QueryDetail, Failure> {
    let catalog = shared.catalog();
    let known = catalog.query(job_id).ok_or_else(|| Failure::not_found("QUERY_NOT_FOUND", format!("no query {job_id} is in the event logs")))?;
    let mut detail = match catalog.query_path(job_id) {
        Some(path) => match shared.replayed.query(path).map_err(|error| Failure::of_log(&error))? {
            Some(replayed) => QueryDetail::clone(&replayed),
            None => QueryDetail::default(),
        },
        None => QueryDetail::default(),
    };
    // What the run's log tells in full, above all the statement, is not in the index.
    let run_path = known.run_id.as_deref().and_then(|run_id| catalog.run_path(run_id));
    let replay = run_path.and_then(|path| shared.replayed.run(path).ok());
    let of_log = (!detail.summary.job_id.is_empty()).then_some(&detail.summary);
    let summary = match replay.as_ref().and_then(|replay| replay.detail.queries.iter().find(|query| query.job_id == job_id)) {
        Some(of_run) => joined(of_run, of_log),
        None => of_log.cloned().unwrap_or_else(|| QuerySummary::clone(known)),
    };
    detail.summary = summary;
    if let Some(statement) = replay.and_then(|replay| replay.statements.get(job_id).cloned()) {
        detail.statement = statement;
    }
    Ok(detail)
}

#[derive(Debug, Deserialize)]
struct LogParams {
    offset: Option<u64>,
    limit: Option<u64>,
}

async fn run_logs(State(shared): State<Arc<Shared>>, Path(run_id): Path<String>, Query(params): Query<LogParams>) -> Answer<LogPage> {
    if shared.catalog().run_path(&run_id).is_none() {
        return Err(no_run(&run_id));
    }
    driver_log::read(&shared.options.data_dir, &run_id, params.offset, params.limit).await.map(Json).map_err(Failure::internal)
}

async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Value>) {
    let scans = shared.scans.read().clone();
    let ready = scans.done > 0 && scans.error.is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "scans": scans.done, "error": scans.error })))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let (catalog, scans) = (shared.catalog(), shared.scans.read().clone());
    let (hits, misses) = shared.replayed.counts();
    let mut text = String::new();
    let mut figure = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "# HELP chainalytics_history_{name} {help}\n# TYPE chainalytics_history_{name} {kind}\nchainalytics_history_{name} {value}"
        );
    };
    figure("runs", "gauge", "Runs in the index.", catalog.runs.len() as f64);
    figure("queries", "gauge", "Queries in the index.", catalog.queries.len() as f64);
    figure("unreadable_logs", "gauge", "Event logs that could not be read.", catalog.unreadable.len() as f64);
    figure("scans_total", "counter", "Scans of the log directory.", scans.done as f64);
    figure("scans_failed_total", "counter", "Scans that failed.", scans.failed as f64);
    figure("scan_seconds", "gauge", "Duration of the last scan.", scans.last_duration.as_secs_f64());
    figure("detail_cache_hits_total", "counter", "Details answered from memory.", hits as f64);
    figure("detail_cache_misses_total", "counter", "Details replayed from their log.", misses as f64);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Unknown paths below `/api/v1` answer like everything else there.
async fn no_such_path(uri: Uri) -> Failure {
    Failure(StatusCode::NOT_FOUND, ErrorBody::new("NO_SUCH_PATH", format!("{} is not served here", uri.path()), ""))
}

fn no_run(run_id: &str) -> Failure {
    Failure::not_found("RUN_NOT_FOUND", format!("no run {run_id} is in the event logs"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::internal)?.map(Json)
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
