//! Ballista's `/api/job/{id}` and `/api/job/{id}/stages` bodies as a [`QueryDetail`].
//!
//! Pure, over JSON values and not over Ballista's types: the scheduler calls it on what it serves now, the history server on what a scheduler
//! of any older version wrote into its event log. A field that is missing or of another type becomes absent, never an error.
//!
//! Ballista prints operator metrics into plan text only, rounded (`1.53 M`), in the job body's `stage_plan` (finished stages) and in the stages
//! body when asked with `plan_format=metrics`; see [`plan_text`] for how they are recovered.

mod plan_text;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::redact::redact;
use crate::{PlanEdge, PlanNode, QueryDetail, QueryState, QuerySummary, StageDetail, StageState, TaskDetail, TaskState, Validity};

/// What Ballista's bodies do not hold and the caller may know.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Which executor ran a task, by (stage id, task id).
    pub executors: BTreeMap<(u32, u32), String>,
    /// Session configuration; secrets are redacted here.
    pub config: BTreeMap<String, String>,
}

/// The list entry of a job. Run, label, attempt and the verdict on validity belong to whoever knows the run; they are left at their defaults,
/// except that a query that failed or had a stage retried is marked as such by [`query_detail`].
pub fn query_summary(job: &Value) -> QuerySummary {
    let status_text = text(job, "job_status").unwrap_or_default();
    let state = match text(job, "status").as_deref() {
        Some("Queued") => QueryState::Queued,
        Some("Running") => QueryState::Running,
        Some("Completed" | "Successful") => QueryState::Succeeded,
        Some("Cancelled") => QueryState::Cancelled,
        Some("Failed") if status_text.trim_start_matches("Failed:").trim().eq_ignore_ascii_case("cancelled") => QueryState::Cancelled,
        Some("Failed") => QueryState::Failed,
        _ => QueryState::Unknown,
    };
    QuerySummary {
        job_id: text(job, "job_id").unwrap_or_default(),
        label: text(job, "job_name").unwrap_or_default(),
        state,
        attempt: 1,
        validity: match state {
            QueryState::Failed | QueryState::Cancelled => Validity::NotSuccessful,
            _ => Validity::Unknown,
        },
        started_at_ms: timestamp(job, "start_time"),
        ended_at_ms: if state.has_ended() { timestamp(job, "end_time") } else { None },
        stages_total: number(job, "num_stages").map_or(0, clamp_u32),
        stages_done: number(job, "completed_stages").map_or(0, clamp_u32),
        output_rows: result_rows(&status_text),
        error: (state == QueryState::Failed).then(|| status_text.trim_start_matches("Failed:").trim().to_owned()),
        ..QuerySummary::default()
    }
}

/// Both bodies as one query.
pub fn query_detail(job: &Value, stages: &Value, hints: &Hints) -> QueryDetail {
    let rendered = plan_text::stages_of_graph(text(job, "stage_plan").as_deref().unwrap_or_default());
    let empty = Vec::new();
    let mut details: Vec<StageDetail> =
        stages.get("stages").and_then(Value::as_array).unwrap_or(&empty).iter().filter_map(|stage| stage_detail(stage, &rendered, hints)).collect();
    details.sort_by_key(|stage| stage.stage_id);

    let mut summary = query_summary(job);
    if summary.state == QueryState::Succeeded && details.iter().any(|stage| stage.attempt > 0) {
        summary.validity = Validity::StageRetried;
    }
    if summary.stages_total == 0 {
        summary.stages_total = clamp_u32(details.len() as u64);
    }
    QueryDetail {
        summary,
        statement: String::new(),
        edges: edges_of(&details),
        stages: details,
        logical_plan: text(job, "logical_plan"),
        physical_plan: text(job, "physical_plan"),
        config: redact(&hints.config),
    }
}

fn stage_detail(stage: &Value, rendered: &BTreeMap<u32, plan_text::RenderedStage>, hints: &Hints) -> Option<StageDetail> {
    let stage_id = match stage.get("stage_id")? {
        Value::String(id) => id.parse().ok()?,
        other => clamp_u32(other.as_u64()?),
    };
    let tasks: Vec<TaskDetail> = stage
        .get("tasks")
        .and_then(Value::as_array)
        .map(|tasks| tasks.iter().filter_map(|task| task_detail(stage_id, task, hints)).collect())
        .unwrap_or_default();
    let rendered = rendered.get(&stage_id);
    let input_rows = number(stage, "input_rows").unwrap_or(0);
    let output_rows = number(stage, "output_rows").unwrap_or(0);

    // Either text may carry the metrics; the graph's has the attempt too, but for finished stages only.
    let own = text(stage, "stage_plan").and_then(|plan| plan_text::parse_plan(stage_id, &plan));
    let of_graph = rendered.and_then(|stage| stage.plan.clone());
    let mut operators = match (own, of_graph) {
        (Some(own), Some(graph)) if !has_metrics(&own) && has_metrics(&graph) => Some(graph),
        (Some(own), _) => Some(own),
        (None, graph) => graph,
    };
    if let Some(root) = &mut operators {
        plan_text::sharpen(root, input_rows, output_rows);
    }

    let counted = tasks.iter().flat_map(|task| &task.partitions).max().map_or(0, |max| max.saturating_add(1));
    let error = rendered.and_then(|stage| stage.error.clone());
    Some(StageDetail {
        stage_id,
        state: match text(stage, "stage_status").as_deref() {
            Some("Unresolved") => StageState::Waiting,
            Some("Resolved") => StageState::Ready,
            Some("Running") => StageState::Running,
            Some("Successful") => StageState::Succeeded,
            Some("Failed") => StageState::Failed,
            _ => StageState::Unknown,
        },
        attempt: rendered.map_or(0, |stage| stage.attempt),
        partitions: rendered.and_then(|stage| stage.partitions).unwrap_or(counted),
        input_rows,
        output_rows,
        started_at_ms: tasks.iter().filter_map(|task| task.started_at_ms).min(),
        ended_at_ms: tasks.iter().filter_map(|task| task.ended_at_ms).max(),
        error: error.or_else(|| tasks.iter().find_map(|task| task.error.clone())),
        tasks,
        operators,
    })
}

fn task_detail(stage_id: u32, task: &Value, hints: &Hints) -> Option<TaskDetail> {
    let task_id = clamp_u32(number(task, "id")?);
    let failed = task.get("status").and_then(|status| status.get("Failed"));
    let state = match task.get("status") {
        Some(Value::String(status)) if status == "Running" => TaskState::Running,
        Some(Value::String(status)) if status == "Successful" => TaskState::Succeeded,
        _ if failed.is_some() => TaskState::Failed,
        _ => TaskState::Unknown,
    };
    let error = failed.map(|failed| {
        let reason = text(failed, "reason").unwrap_or_else(|| "Failed".to_owned());
        match text(failed, "error") {
            Some(error) if !error.is_empty() => format!("{reason}: {error}"),
            _ => reason,
        }
    });
    let partitions = match task.get("partition_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(clamp_u32).collect(),
        Some(id) => id.as_u64().map(clamp_u32).into_iter().collect(),
        None => Vec::new(),
    };
    let started_at_ms = timestamp(task, "start_exec_time");
    let ended_at_ms = if state == TaskState::Running { None } else { timestamp(task, "end_exec_time") };
    Some(TaskDetail {
        task_id,
        executor_id: hints.executors.get(&(stage_id, task_id)).cloned().or_else(|| text(task, "executor_id")),
        state,
        partitions,
        scheduled_at_ms: timestamp(task, "scheduled_time"),
        started_at_ms,
        ended_at_ms,
        duration_ms: match (started_at_ms, ended_at_ms) {
            (Some(start), Some(end)) => u64::try_from(end.saturating_sub(start)).unwrap_or(0),
            _ => 0,
        },
        input_rows: number(task, "input_rows").unwrap_or(0),
        output_rows: number(task, "output_rows").unwrap_or(0),
        output_bytes: number(task, "output_bytes"),
        error,
    })
}

/// One edge for each stage that reads another; several readers of the same stage make one edge.
fn edges_of(stages: &[StageDetail]) -> Vec<PlanEdge> {
    let mut edges = BTreeMap::new();
    for stage in stages {
        let mut readers = Vec::new();
        if let Some(root) = &stage.operators {
            collect_readers(root, &mut readers);
        }
        for from in readers {
            let rows = stages
                .iter()
                .find(|upstream| upstream.stage_id == from && upstream.state == StageState::Succeeded)
                .map(|upstream| upstream.output_rows);
            edges.insert((from, stage.stage_id), PlanEdge { from, to: stage.stage_id, rows });
        }
    }
    edges.into_values().collect()
}

fn collect_readers(node: &PlanNode, readers: &mut Vec<u32>) {
    readers.extend(node.reads_stage);
    for child in &node.children {
        collect_readers(child, readers);
    }
}

fn has_metrics(node: &PlanNode) -> bool {
    let metrics = &node.metrics;
    metrics.output_rows.is_some() || metrics.elapsed_ns.is_some() || !metrics.other.is_empty() || node.children.iter().any(has_metrics)
}

/// `Completed. Produced 4 partitions containing 1000 rows. ...` -> 1000
fn result_rows(status: &str) -> Option<u64> {
    let (_, rest) = status.split_once(" containing ")?;
    rest.split(' ').next()?.parse().ok()
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// Ballista writes 0 for "not yet".
fn timestamp(value: &Value, key: &str) -> Option<i64> {
    number(value, key).filter(|&at| at > 0).and_then(|at| i64::try_from(at).ok())
}

fn clamp_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
