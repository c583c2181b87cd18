//! A query's stages as text, with what their operators measured: the answer of EXPLAIN ANALYZE.

use std::fmt::Write as _;

use chainalytics_api_types::{OperatorMetrics, PlanNode, StageDetail};
use chainalytics_proto::v1;
use tonic::Status;

use super::error::HttpError;
use super::{HttpState, queries};

/// The stages of one query in the order of their ids.
///
/// # Errors
/// `NotFound` for a query that this scheduler does not know (any more).
pub(crate) async fn stage_plans(state: &HttpState, job_id: &str) -> Result<Vec<v1::StagePlan>, Status> {
    let mut stages = queries::detail(state, job_id).await.map_err(status)?.stages;
    stages.sort_by_key(|stage| stage.stage_id);
    Ok(stages.iter().map(stage_plan).collect())
}

fn status(error: HttpError) -> Status {
    let text = error.body.message.clone();
    if error.status == axum::http::StatusCode::NOT_FOUND { Status::not_found(text) } else { Status::internal(text) }
}

fn stage_plan(stage: &StageDetail) -> v1::StagePlan {
    let mut plan = String::new();
    if let Some(root) = &stage.operators {
        write_operator(&mut plan, root, 0);
    }
    let duration_ms = stage.started_at_ms.zip(stage.ended_at_ms).map_or(0, |(start, end)| u64::try_from(end - start).unwrap_or(0));
    v1::StagePlan {
        stage_id: stage.stage_id,
        attempt: stage.attempt,
        tasks: u32::try_from(stage.tasks.len()).unwrap_or(u32::MAX),
        partitions: stage.partitions,
        duration_ms,
        output_rows: stage.output_rows,
        plan,
    }
}

fn write_operator(text: &mut String, node: &PlanNode, depth: usize) {
    let separator = if node.detail.is_empty() { "" } else { ": " };
    // Writing into a String does not fail.
    let _ = writeln!(text, "{:indent$}{}{separator}{}, metrics=[{}]", "", node.name, node.detail, figures(&node.metrics), indent = depth * 2);
    for child in &node.children {
        write_operator(text, child, depth + 1);
    }
}

fn figures(metrics: &OperatorMetrics) -> String {
    let about = if metrics.approximate { "~" } else { "" };
    let mut all = Vec::new();
    let mut count = |name: &str, value: Option<u64>| all.extend(value.map(|value| format!("{name}={about}{value}")));
    count("output_rows", metrics.output_rows);
    count("output_bytes", metrics.output_bytes);
    count("spilled_rows", metrics.spilled_rows.filter(|rows| *rows > 0));
    count("spilled_bytes", metrics.spilled_bytes.filter(|bytes| *bytes > 0));
    all.extend(metrics.elapsed_ns.map(|ns| format!("elapsed_compute={:?}", std::time::Duration::from_nanos(ns))));
    all.extend(metrics.other.iter().map(|(name, value)| format!("{name}={value}")));
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_stand_below_what_reads_them() {
        let metrics = OperatorMetrics { output_rows: Some(7), elapsed_ns: Some(1_500_000), spilled_rows: Some(0), ..OperatorMetrics::default() };
        let leaf = PlanNode { name: "IcebergReadExec".to_owned(), detail: "table=t".to_owned(), metrics: metrics.clone(), ..PlanNode::default() };
        let root = PlanNode { name: "FilterExec".to_owned(), metrics, children: vec![leaf], ..PlanNode::default() };
        let stage = StageDetail { stage_id: 2, started_at_ms: Some(10), ended_at_ms: Some(35), operators: Some(root), ..StageDetail::default() };
        let plan = stage_plan(&stage);
        assert_eq!((plan.stage_id, plan.duration_ms), (2, 25));
        assert_eq!(
            plan.plan,
            "FilterExec, metrics=[output_rows=7, elapsed_compute=1.5ms]\n  IcebergReadExec: table=t, metrics=[output_rows=7, elapsed_compute=1.5ms]\n"
        );
    }
}
