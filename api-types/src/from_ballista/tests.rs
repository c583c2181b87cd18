#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};

use super::*;
use crate::redact::REDACTED;

const STAGE_PLAN: &str = "ExecutionGraph[job_id=j, session_id=s, available_tasks=0, is_successful=true]\n\
=========SuccessfulStage[stage_id=1.0, partitions=4]=========\n\
SortShuffleWriterExec: partitioning=Hash([k@0], 4), metrics=[output_rows=1.53 K, repart_time=1.20ms]\n\
\x20 AggregateExec: mode=Partial, gby=[k@0 as k], aggr=[count(1)], metrics=[output_rows=1.53 K, elapsed_compute=12.30ms, spilled_bytes=4.0 MB, spill_count=2]\n\
\x20   CooperativeExec, metrics=[output_rows=2.00 M, elapsed_compute=300.00µs]\n\
\x20     DataSourceExec: file_groups={4 groups: [[a.parquet]]}, projection=[k], file_type=parquet, metrics=[]\n\
=========SuccessfulStage[stage_id=2.1, partitions=4]=========\n\
ShuffleWriterExec: partitioning: Hash([k@0], 4), metrics=[output_rows=12, elapsed_compute=1.20s]\n\
\x20 FilterExec: v@1 = a\n\
b, metrics=[output_rows=12]\n\
\x20   ShuffleReaderExec: upstream_stage: 1, partitioning: Hash([k@0], 4), metrics=[output_rows=1.53 K]\n";

fn job() -> Value {
    json!({
        "job_id": "j", "job_name": "top", "job_status": "Completed. Produced 4 partitions containing 12 rows. Elapsed time: 95 ms.",
        "status": "Completed", "num_stages": 2, "completed_stages": 2, "percent_complete": 100,
        "start_time": 1005, "end_time": 1100, "logical_plan": "Projection: k", "physical_plan": "ProjectionExec", "stage_plan": STAGE_PLAN
    })
}

fn stages() -> Value {
    json!({"stages": [
        {"stage_id": "2", "stage_status": "Successful", "input_rows": 1532, "output_rows": 12, "stage_plan": "ShuffleWriterExec: x\n", "tasks": []},
        {"stage_id": "1", "stage_status": "Successful", "input_rows": 2_000_321u64, "output_rows": 1532, "tasks": [
            {"id": 0, "status": "Successful", "partition_id": [0, 1], "scheduled_time": 1008, "launch_time": 1010, "start_exec_time": 1012,
             "end_exec_time": 1040, "exec_duration": 28, "finish_time": 1042, "input_rows": 1000, "output_rows": 250},
            null,
            {"id": 1, "status": {"Failed": {"reason": "ExecutionError", "error": "divide by zero"}}, "partition_id": [2],
             "start_exec_time": 1013, "end_exec_time": 1020, "input_rows": 0, "output_rows": 0}
        ]}
    ]})
}

fn hints() -> Hints {
    Hints {
        executors: [((1, 0), "exec-a".to_owned())].into(),
        config: [("s3.secret-access-key".to_owned(), "hunter2".to_owned()), ("datafusion.execution.batch_size".to_owned(), "8192".to_owned())].into(),
    }
}

#[test]
fn bodies_become_one_query() {
    let query = query_detail(&job(), &stages(), &hints());
    assert_eq!(query.summary.state, QueryState::Succeeded);
    assert_eq!(query.summary.output_rows, Some(12));
    assert_eq!(query.summary.ended_at_ms, Some(1100));
    assert_eq!(query.stages.iter().map(|stage| stage.stage_id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(query.edges, [PlanEdge { from: 1, to: 2, rows: Some(1532) }]);
    assert_eq!(query.config["s3.secret-access-key"], REDACTED);
    assert_eq!(query.config["datafusion.execution.batch_size"], "8192");
}

#[test]
fn a_retried_stage_makes_the_query_invalid() {
    let query = query_detail(&job(), &stages(), &hints());
    assert_eq!(query.stages[1].attempt, 1);
    assert_eq!(query.summary.validity, Validity::StageRetried);
}

#[test]
fn tasks_keep_executor_partitions_and_error() {
    let query = query_detail(&job(), &stages(), &hints());
    let tasks = &query.stages[0].tasks;
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[0].executor_id.as_deref(), Some("exec-a"));
    assert_eq!(tasks[0].partitions, [0, 1]);
    assert_eq!(tasks[0].duration_ms, 28);
    assert_eq!(tasks[1].state, TaskState::Failed);
    assert_eq!(query.stages[0].error.as_deref(), Some("ExecutionError: divide by zero"));
}

#[test]
fn metrics_come_back_from_the_printed_plan() {
    let query = query_detail(&job(), &stages(), &hints());
    let writer = query.stages[0].operators.as_ref().unwrap();
    assert_eq!(writer.name, "SortShuffleWriterExec");
    assert_eq!(writer.metrics.output_rows, Some(1532), "the stage's exact count replaces the rounded one");
    let aggregate = &writer.children[0];
    assert_eq!(aggregate.metrics.elapsed_ns, Some(12_300_000));
    assert_eq!(aggregate.metrics.spilled_bytes, Some(4 << 20));
    assert_eq!(aggregate.metrics.other["spill_count"], "2");
    assert!(aggregate.metrics.approximate);
    assert!(aggregate.detail.starts_with("mode=Partial, gby=[k@0 as k]"));
    // An operator without metrics shifts the printed ones by a line.
    let cooperative = &aggregate.children[0];
    assert_eq!(cooperative.metrics, crate::OperatorMetrics::default());
    assert_eq!(cooperative.children[0].name, "DataSourceExec");
    assert_eq!(cooperative.children[0].metrics.output_rows, Some(2_000_321));
}

#[test]
fn a_line_break_in_an_expression_does_not_cut_the_plan() {
    let query = query_detail(&job(), &stages(), &hints());
    let filter = &query.stages[1].operators.as_ref().unwrap().children[0];
    assert_eq!(filter.detail, "v@1 = a\nb");
    assert_eq!(filter.metrics.output_rows, Some(12));
    assert_eq!(filter.children[0].reads_stage, Some(1));
}

#[test]
fn an_adaptive_graph_is_read_as_well() {
    let graph = "AdaptiveExecutionGraph { job_id: \"j\", stages: {1: =========RunningStage[stage_id=1.0, partitions=2, successful_tasks=0, \
scheduled_tasks=2, available_tasks=0]=========\nShuffleWriterExec: partitioning: UnknownPartitioning(2)\n  DataSourceExec: partitions=2\n, 0: \
=========FailedStage[stage_id=0.2, partitions=1, successful_tasks=0, scheduled_tasks=0, available_tasks=0, error_message=disk [full]]=========\n\
ShuffleWriterExec: x\n  EmptyExec\n}, output_locations: [] }";
    let stages = plan_text::stages_of_graph(graph);
    assert_eq!(stages[&1].partitions, Some(2));
    assert_eq!(stages[&1].plan.as_ref().unwrap().children[0].name, "DataSourceExec");
    assert_eq!(stages[&0].attempt, 2);
    assert_eq!(stages[&0].error.as_deref(), Some("disk [full]"));
    assert_eq!(stages[&0].plan.as_ref().unwrap().children[0].name, "EmptyExec");
}

#[test]
fn foreign_or_broken_bodies_do_not_fail() {
    for (job, stages) in [(json!(null), json!(null)), (json!([1]), json!({"stages": [1, {"stage_id": {}}, {"stage_id": "x"}]}))] {
        let query = query_detail(&job, &stages, &Hints::default());
        assert_eq!(query.summary.state, QueryState::Unknown);
        assert!(query.stages.is_empty());
    }
}

#[test]
fn a_very_deep_plan_is_cut() {
    let plan: String = (0..20_000).map(|depth| format!("{}FilterExec: x\n", "  ".repeat(depth % 3_000))).collect();
    assert!(plan_text::parse_plan(1, &plan).is_some());
}

#[test]
fn cancelled_and_failed_jobs_are_told_apart() {
    let failed = query_summary(&json!({"status": "Failed", "job_status": "Failed: no such column"}));
    assert_eq!((failed.state, failed.error.as_deref()), (QueryState::Failed, Some("no such column")));
    let cancelled = query_summary(&json!({"status": "Failed", "job_status": "Failed: Cancelled"}));
    assert_eq!(cancelled.state, QueryState::Cancelled);
}

#[test]
fn ballistas_own_frozen_sample_is_understood() {
    // The payloads of ballista-history's testdata/schema-v1.eventlog.
    let job = json!({"job_id":"golden-v1","job_name":"tpch-q1","job_status":"Completed. Produced 4 partitions containing 1000 rows. Elapsed time: 95 ms.",
        "status":"Completed","num_stages":1,"completed_stages":1,"percent_complete":100,"start_time":1005,"end_time":1100,
        "logical_plan":"Projection: l_returnflag","physical_plan":"ProjectionExec: expr=[l_returnflag@0 as l_returnflag]","stage_plan":"ShuffleWriterExec"});
    let stages = json!({"stages":[{"stage_id":"1","stage_status":"Successful","input_rows":1000,"output_rows":250,"elapsed_compute":"28ms",
        "stage_plan":"ProjectionExec","tasks":[{"id":0,"status":"Successful","partition_id":[0,1],"scheduled_time":1008,"launch_time":1010,
        "start_exec_time":1012,"end_exec_time":1040,"exec_duration":28,"finish_time":1042,"input_rows":1000,"output_rows":250}]}]});
    let query = query_detail(&job, &stages, &Hints::default());
    assert_eq!(query.stages[0].operators.as_ref().unwrap().name, "ProjectionExec");
    assert_eq!(query.stages[0].partitions, 2);
    assert_eq!(query.summary.output_rows, Some(1000));
    let json = serde_json::to_value(&query).unwrap();
    assert_eq!(json["job_id"], "golden-v1", "the summary's fields stand beside the detail's");
    assert_eq!(serde_json::from_value::<QueryDetail>(json).unwrap(), query);
}
