//! What the commands about runs share.

use chainalytics_client::RunClient;
use chainalytics_common::{Error, ErrorCode};
use chainalytics_proto::v1::{ListRunsRequest, Run};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliResult;

/// What names the newest run.
const LAST: &str = "last";
/// Run ids are UUIDs.
const RUN_ID_CHARS: usize = 36;
/// Newest runs among which a beginning is looked for.
const RUNS_LOOKED_AT: u32 = 1000;

/// The run service of the configured scheduler.
pub async fn client(context: &Context) -> CliResult<RunClient> {
    Ok(RunClient::connect(&context.scheduler_url()?).await?)
}

/// The run that a person means: its whole id, an unmistakable beginning of it, or `last` for the one submitted last.
///
/// Errors: `NotFound` with what to do; `InvalidArgument` when several runs begin so.
pub async fn resolve(client: &RunClient, named: &str) -> CliResult<String> {
    if named.len() >= RUN_ID_CHARS {
        return Ok(named.to_owned());
    }
    let latest = client.list(ListRunsRequest { limit: RUNS_LOOKED_AT, ..ListRunsRequest::default() }).await?;
    Ok(pick(latest.iter().map(|run| run.run_id.as_str()), named)?)
}

/// Newest first.
fn pick<'a>(mut ids: impl Iterator<Item = &'a str>, named: &str) -> Result<String, Error> {
    if named == LAST {
        let none = || Error::new(ErrorCode::NotFound, "there is no run yet; `chainalytics submit JOB` makes one");
        return ids.next().map(str::to_owned).ok_or_else(none);
    }
    let found: Vec<&str> = ids.filter(|id| !named.is_empty() && id.starts_with(named)).collect();
    match found[..] {
        [] => Err(Error::new(
            ErrorCode::NotFound,
            format!("no run begins with {named:?}; `chainalytics runs list` shows the latest, `last` names the newest"),
        )),
        [id] => Ok(id.to_owned()),
        _ => {
            let some = found.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            Err(Error::new(ErrorCode::InvalidArgument, format!("{} runs begin with {named:?}, among them {some}; give more of the id", found.len())))
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn runs_are_found_by_the_beginning_of_their_id() {
        let ids = ["0199-bb-2", "0199-aa-1", "0198-aa-0"];
        let of = |named: &str| pick(ids.into_iter(), named);
        assert_eq!(of("last").unwrap(), "0199-bb-2");
        assert_eq!(of("0198").unwrap(), "0198-aa-0");
        assert_eq!(of("0199").unwrap_err().code(), ErrorCode::InvalidArgument);
        assert_eq!(of("x").unwrap_err().code(), ErrorCode::NotFound);
        assert_eq!(of("").unwrap_err().code(), ErrorCode::NotFound);
        assert_eq!(pick(std::iter::empty(), "last").unwrap_err().code(), ErrorCode::NotFound);
    }
}
