//! HTTP on 9090: our REST bodies under `/api/v1`, Ballista's own under `/api`, health, metrics, and the web page.

mod ballista_api;
mod cluster;
mod error;
mod explain;
mod health;
mod queries;
mod runs;
mod samples;
mod streams;

pub use ballista_api::BallistaApi;
pub(crate) use explain::stage_plans;
pub use samples::{Samples, sample};

use crate::ballista::Ballista;
use crate::executors::directory::Directory;
use crate::guard::Guard;
use crate::runs::manager::Runs;
use axum::Router;
use axum::routing::{get, post};
use ballista_scheduler::cluster::JobState;
use std::sync::Arc;

/// What the handlers need.
#[derive(Clone)]
pub struct HttpState {
    pub ballista: Ballista,
    pub job_state: Arc<dyn JobState>,
    pub api: BallistaApi,
    pub guard: Guard,
    pub directory: Directory,
    pub runs: Runs,
    pub samples: Samples,
    pub about: Arc<About>,
}

/// What does not change while the scheduler runs.
#[derive(Debug, Clone)]
pub struct About {
    pub scheduler_id: String,
    /// `chainalytics://host:port`.
    pub scheduler_url: String,
    /// Where the history server answers, if configured.
    pub history_url: Option<String>,
    pub event_log_dir: String,
    pub started_at_ms: i64,
    pub min_ready_executors: usize,
}

/// All routes.
pub fn router(state: HttpState) -> Router {
    let ballista = state.api.router();
    let ours = Router::new()
        .route("/api/v1/cluster", get(cluster::cluster))
        .route("/api/v1/cluster/samples", get(samples::samples))
        .route("/api/v1/executors", get(cluster::executors))
        .route("/api/v1/runs", get(runs::list))
        .route("/api/v1/runs/{run_id}", get(runs::one))
        .route("/api/v1/runs/{run_id}/logs", get(runs::logs))
        .route("/api/v1/runs/{run_id}/kill", post(runs::kill))
        .route("/api/v1/queries", get(queries::list))
        .route("/api/v1/queries/{job_id}", get(queries::one))
        .route("/api/v1/queries/{job_id}/cancel", post(queries::cancel))
        .route("/api/v1/{*rest}", get(error::no_such_path))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(state);
    chainalytics_ui::rest::protect(ours.merge(ballista).merge(chainalytics_ui::router()))
}
