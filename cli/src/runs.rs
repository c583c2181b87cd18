//! What the commands about runs share.

use chainalytics_client::RunClient;
use chainalytics_proto::v1::Run;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliResult;

/// The run service of the configured scheduler.
pub async fn client(context: &Context) -> CliResult<RunClient> {
    Ok(RunClient::connect(&context.scheduler_url()?).await?)
}

/// The report that a run left, as the scheduler's REST interface has it; `None` if it cannot be had.
pub async fn report(context: &Context, run_id: &str) -> Option<Value> {
    let http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(5)).no_proxy().build().ok()?;
    let url = format!("{}/api/v1/runs/{run_id}", context.scheduler_http_url());
    let body: Value = http.get(url).send().await.ok()?.error_for_status().ok()?.json().await.ok()?;
    body.get("report").filter(|r| !r.is_null()).cloned()
}

/// A run as JSON, names as in the REST interface.
pub fn run_json(run: &Run) -> Value {
    let at = |ms: i64| if ms > 0 { json!(ms) } else { Value::Null };
    json!({
        "run_id": run.run_id,
        "name": run.name,
        "job": run.job,
        "args": run.args,
        "conf": run.conf.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "deploy_mode": run.deploy_mode().label(),
        "supervise": run.supervise,
        "user": run.user,
        "state": run.state().label(),
        "attempt": run.attempt,
        "submitted_at_ms": at(run.submitted_at_ms),
        "started_at_ms": at(run.started_at_ms),
        "ended_at_ms": at(run.ended_at_ms),
        "error": run.error.as_ref().map(|e| json!({ "code": e.code, "message": e.message })),
        "progress": run.progress.as_ref().map(|p| json!({ "stage": p.stage, "done": p.done, "total": p.total, "rows": p.rows })),
        "driver_executor_id": run.driver_executor_id,
        "kill_requested": run.kill_requested,
        "queries": run.queries.iter().map(|q| json!({
            "job_id": q.job_id, "attempt": q.attempt, "label": q.label, "statement": q.statement, "registered_at_ms": q.registered_at_ms,
        })).collect::<Vec<_>>(),
    })
}
