//! `/healthz`, `/readyz` and `/metrics`.

use super::HttpState;
use crate::runs::model::RunState;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::fmt::Write;

/// The process answers.
pub async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Enough executors hold a lease and the run store answers.
pub async fn readyz(State(state): State<HttpState>) -> (StatusCode, Json<Value>) {
    let executors = state.directory.live();
    let wanted = state.about.min_ready_executors;
    let store = state.runs.store().count_by_state().await.is_ok();
    let ready = executors >= wanted && store;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": ready, "executors": executors, "min_executors": wanted, "run_store": store });
    (status, Json(body))
}

/// Prometheus text: Ballista's figures, then ours.
pub async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    let mut text = state.api.text("/api/metrics").await.unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let (held, open, invalidated) = state
        .guard
        .ledger(|ledger| (ledger.leases().held(), ledger.open_jobs(), ledger.invalidated_total()));
    metric(&mut text, "executors", "gauge", "Executors that hold a lease.", held as u64);
    metric(&mut text, "executors_lost_total", "counter", "Executors lost.", state.guard.executors_lost_total());
    metric(&mut text, "queries_open", "gauge", "Queries queued or running.", open as u64);
    metric(
        &mut text,
        "queries_invalidated_total",
        "counter",
        "Queries whose result was discarded or that were cancelled.",
        invalidated,
    );
    let runs = state.runs.store().count_by_state().await.unwrap_or_default();
    text.push_str("# HELP chainalytics_runs Runs by state.\n# TYPE chainalytics_runs gauge\n");
    for run_state in RunState::ALL {
        let n = runs.get(&run_state).copied().unwrap_or(0);
        // Writing into a String does not fail.
        let _ = writeln!(text, "chainalytics_runs{{state=\"{}\"}} {n}", run_state.label());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    let _ = writeln!(
        text,
        "# HELP chainalytics_{name} {help}\n# TYPE chainalytics_{name} {kind}\nchainalytics_{name} {value}"
    );
}
