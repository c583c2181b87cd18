//! `/healthz`, `/readyz` and `/metrics`.

use super::{HttpState, cluster, queries};
use crate::runs::model::RunState;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chainalytics_api_types::{ExecutorInfo, LeaseState};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    let (executors, now) = cluster::look(&state);
    let (held, open, invalidated) = state.guard.ledger(|ledger| (ledger.leases().held(), ledger.open_jobs(), ledger.invalidated_total()));
    let seconds = |ms: i64| ms as f64 / 1000.0;

    one(&mut text, "scheduler_start_time_seconds", "gauge", "When the scheduler started, Unix time.", seconds(state.about.started_at_ms));
    one(&mut text, "leases", "gauge", "Leases that executors hold.", held as f64);
    let mut by_state = BTreeMap::from([("alive", 0_u64), ("draining", 0)]);
    for executor in executors.iter().filter(|e| is_present(e)) {
        *by_state.entry(cluster::state_label(executor.state)).or_default() += 1;
    }
    by(&mut text, "executors", "Executors that are there, by state.", "state", by_state.into_iter().map(|(label, n)| (label, n as f64)));
    one(&mut text, "executors_lost_total", "counter", "Executors lost.", state.guard.executors_lost_total() as f64);
    one(&mut text, "cores", "gauge", "Cores of all executors.", now.cores.total as f64);
    one(&mut text, "cores_used", "gauge", "Cores that run tasks.", now.cores.used as f64);
    one(&mut text, "tasks_running", "gauge", "Tasks that run.", now.tasks_running as f64);

    let present = || executors.iter().filter(|e| is_present(e)).map(|e| (if e.name.is_empty() { e.id.as_str() } else { e.name.as_str() }, e));
    let each = |of: fn(&ExecutorInfo) -> u64| present().map(move |(name, e)| (name, of(e) as f64));
    by(&mut text, "executor_cores", "Cores of an executor.", "executor", each(|e| e.cores.into()));
    by(&mut text, "executor_tasks_running", "Tasks that run on an executor.", "executor", each(|e| e.tasks_running.into()));
    by(&mut text, "executor_drivers", "Drivers that an executor hosts.", "executor", each(|e| e.drivers.len() as u64));
    by(&mut text, "executor_memory_pool_limit_bytes", "Size of an executor's memory pool.", "executor", each(|e| e.memory_limit_bytes));
    by(&mut text, "executor_memory_pool_used_bytes", "Reserved in an executor's memory pool.", "executor", each(|e| e.memory_used_bytes));
    by(&mut text, "executor_memory_resident_bytes", "Resident size of an executor's process.", "executor", each(|e| e.memory_rss_bytes));
    by(&mut text, "executor_disk_used_bytes", "Size of an executor's work directory.", "executor", each(|e| e.disk_used_bytes));
    let at_ms = now.at_ms;
    by(
        &mut text,
        "executor_last_seen_seconds",
        "Time since an executor's last ping.",
        "executor",
        present().map(|(name, e)| (name, seconds((at_ms - e.last_seen_at_ms).max(0)))),
    );

    one(&mut text, "queries_open", "gauge", "Queries queued or running.", open as f64);
    let mut queries: BTreeMap<&str, u64> = ["queued", "running", "succeeded", "failed", "cancelled"].map(|label| (label, 0)).into();
    for query in queries::known(&state).await.unwrap_or_default() {
        *queries.entry(query.state.as_str()).or_default() += 1;
    }
    by(&mut text, "queries", "Queries that the scheduler remembers, by state.", "state", queries.into_iter().map(|(label, n)| (label, n as f64)));
    one(
        &mut text,
        "queries_invalidated_total",
        "counter",
        "Queries that were cancelled or lost an executor that had worked on them, be it after their end.",
        invalidated as f64,
    );
    if let Ok(repeats) = state.runs.store().repeats_total().await {
        one(
            &mut text,
            "query_repeats_total",
            "counter",
            "Queries of runs that were issued again because a try before did not count.",
            repeats as f64,
        );
    }
    if let Ok(runs) = state.runs.store().count_by_state().await {
        by(
            &mut text,
            "runs",
            "Runs by state.",
            "state",
            RunState::ALL.into_iter().map(|run_state| (run_state.label(), runs.get(&run_state).copied().unwrap_or(0) as f64)),
        );
    }
    super::streams::metrics(&mut text, &state).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn is_present(executor: &ExecutorInfo) -> bool {
    matches!(executor.state, LeaseState::Alive | LeaseState::Draining)
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String does not fail.
    let _ = writeln!(text, "# HELP chainalytics_{name} {help}\n# TYPE chainalytics_{name} {kind}");
}

fn one(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    head(text, name, kind, help);
    let _ = writeln!(text, "chainalytics_{name} {value}");
}

/// A gauge with one value per label.
fn by<'a>(text: &mut String, name: &str, help: &str, label: &str, values: impl Iterator<Item = (&'a str, f64)>) {
    head(text, name, "gauge", help);
    for (of, value) in values {
        let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = writeln!(text, "chainalytics_{name}{{{label}=\"{of}\"}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = String::new();
        by(&mut text, "x", "help", "executor", [("a\"b\\c", 1.5)].into_iter());
        assert_eq!(text, "# HELP chainalytics_x help\n# TYPE chainalytics_x gauge\nchainalytics_x{executor=\"a\\\"b\\\\c\"} 1.5\n");
    }
}
