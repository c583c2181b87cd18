#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use chainalytics_api_types::{QueryState, RunState, Validity};
use chainalytics_event_log::event::{QueryEnded, QueryRegistered, RunEnded, RunStarted, RunSubmitted};
use chainalytics_event_log::{LogPaths, RunEvent, RunLogOptions, RunLogWriter};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::HistoryError;
use crate::scan::Scanner;
use crate::server::{scan_once, serve, shared};

struct History {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    scanner: Scanner,
}

impl History {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = HistoryOptions {
            event_log_dir: dir.path().join("events"),
            data_dir: dir.path().to_owned(),
            details_cached: 2,
            ..HistoryOptions::default()
        };
        let scanner = Scanner::new(LogPaths::new(&options.event_log_dir), 1_000);
        Self { shared: Arc::new(shared(options)), scanner, dir }
    }

    fn events(&self) -> std::path::PathBuf {
        self.dir.path().join("events")
    }

    fn scan(&mut self) {
        scan_once(&mut self.scanner, &self.shared, &CancellationToken::new());
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = router(Arc::clone(&self.shared)).oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

fn query_log(dir: &Path, job_id: &str) {
    fs::create_dir_all(dir).unwrap();
    let stage_plan = "ExecutionGraph[]\n=========SuccessfulStage[stage_id=1.0, partitions=1]=========\nShuffleWriterExec: x, metrics=[output_rows=5]\n  DataSourceExec: y, metrics=[output_rows=9]\n";
    let end = json!({"ev": "JobEnd", "version": 1, "data": {
        "status": "Succeeded", "queued_at": 1, "started_at": 2, "completed_at": 3,
        "index": {"job_id": job_id, "job_name": "n", "status": "Completed", "job_status": "Completed. Produced 1 partition containing 5 rows.",
                  "start_time": 2_000, "end_time": 3_000, "num_stages": 1, "completed_stages": 1, "percent_complete": 100},
        "job": {"job_id": job_id, "job_name": "n", "status": "Completed", "job_status": "Completed. Produced 1 partition containing 5 rows.",
                "start_time": 2_000, "end_time": 3_000, "num_stages": 1, "completed_stages": 1, "stage_plan": stage_plan},
        "stages": {"stages": [{"stage_id": "1", "stage_status": "Successful", "input_rows": 9, "output_rows": 5, "tasks": [
            {"id": 0, "status": "Successful", "partition_id": [0], "start_exec_time": 2_000, "end_exec_time": 2_900, "input_rows": 9, "output_rows": 5}]}]},
        "config": {"s3.secret-access-key": "hunter2"}, "dot": ""}});
    let task = "{\"ev\":\"TaskEnd\",\"version\":1,\"data\":{\"stage_id\":1,\"task_id\":0,\"executor_id\":\"exec-a\",\"status\":\"Successful\",\"launch_time\":1,\"start_exec_time\":2,\"end_exec_time\":3,\"metrics\":{\"input_rows\":9,\"output_rows\":5,\"elapsed_compute_nanos\":7}}}";
    fs::write(dir.join(format!("{job_id}.eventlog")), format!("{task}\n{end}\n")).unwrap();
}

async fn write_run(events: &Path, run_id: &str, at_ms: i64, ends: bool) {
    let writer = RunLogWriter::start(events, RunLogOptions::default()).await.unwrap();
    let job_id = format!("job-of-{run_id}");
    let mut run = vec![
        RunEvent::RunSubmitted(RunSubmitted {
            run_id: run_id.into(),
            name: "gold".into(),
            job: "gold_aggregation".into(),
            at_ms,
            ..RunSubmitted::default()
        }),
        RunEvent::RunStarted(RunStarted { attempt: 1, at_ms: at_ms + 1, driver_location: None }),
        RunEvent::QueryRegistered(QueryRegistered {
            job_id: job_id.clone(),
            attempt: 1,
            label: "join".into(),
            statement: "SELECT 1".into(),
            at_ms: at_ms + 2,
        }),
    ];
    if ends {
        run.push(RunEvent::QueryEnded(QueryEnded {
            job_id,
            state: QueryState::Succeeded,
            validity: Validity::Valid,
            ended_at_ms: at_ms + 3,
            ..QueryEnded::default()
        }));
        run.push(RunEvent::RunEnded(RunEnded { state: RunState::Finished, at_ms: at_ms + 4, ..RunEnded::default() }));
    }
    for event in run {
        writer.record(run_id, event).await.unwrap();
    }
    writer.shutdown().await;
}

#[tokio::test]
async fn a_missing_directory_is_an_empty_history() {
    let mut history = History::new();
    assert_eq!(history.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    history.scan();
    assert_eq!(history.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(history.get("/api/v1/runs").await.1["total"], 0);
    assert_eq!(history.get("/api/v1/cluster").await.1["mode"], "history");
}

#[tokio::test]
async fn runs_and_queries_come_from_both_kinds_of_logs() {
    let mut history = History::new();
    write_run(&history.events(), "r1", 1_000, true).await;
    write_run(&history.events(), "r2", 2_000, false).await;
    query_log(&history.events().join("queries"), "job-of-r1");
    query_log(&history.events().join("queries"), "job-of-nobody");
    history.scan();

    let (_, runs) = history.get("/api/v1/runs").await;
    assert_eq!(runs["items"][0]["run_id"], "r2", "newest first");
    assert_eq!(runs["items"][0]["state"], "incomplete");
    assert_eq!(history.get("/api/v1/runs?state=finished").await.1["total"], 1);
    assert_eq!(history.get("/api/v1/cluster").await.1["runs"], json!({"finished": 1, "incomplete": 1}));

    let (_, run) = history.get("/api/v1/runs/r1").await;
    assert_eq!(run["queries"][0]["stages_total"], 1, "what Ballista's log knows is joined");
    let (_, query) = history.get("/api/v1/queries/job-of-r1").await;
    assert_eq!((&query["run_id"], &query["label"], &query["validity"]), (&json!("r1"), &json!("join"), &json!("valid")));
    assert_eq!(query["statement"], "SELECT 1");
    assert_eq!(query["stages"][0]["tasks"][0]["executor_id"], "exec-a");
    assert_eq!(query["stages"][0]["operators"]["children"][0]["metrics"]["output_rows"], 9);
    assert_eq!(query["config"]["s3.secret-access-key"], "[redacted]");
    assert_eq!(history.get("/api/v1/queries/job-of-r2").await.1["state"], "unknown", "its log never ended");
    assert_eq!(history.get("/api/v1/queries/job-of-nobody").await.1["run_id"], Value::Null);
    assert_eq!(history.get("/api/v1/queries?run_id=r1").await.1["total"], 1);
    assert_eq!(history.get("/api/v1/queries").await.1["total"], 3);
}

#[tokio::test]
async fn what_changes_on_disk_shows_after_the_next_scan() {
    let mut history = History::new();
    write_run(&history.events(), "r1", 1_000, false).await;
    history.scan();
    assert_eq!(history.get("/api/v1/runs/r1").await.1["state"], "incomplete");
    let writer = RunLogWriter::start(history.events(), RunLogOptions::default()).await.unwrap();
    writer.record("r1", RunEvent::RunEnded(RunEnded { state: RunState::Failed, at_ms: 9, ..RunEnded::default() })).await.unwrap();
    writer.shutdown().await;
    history.scan();
    assert_eq!(history.get("/api/v1/runs/r1").await.1["state"], "failed");
    fs::remove_file(LogPaths::new(history.events()).finished_run("r1").unwrap()).unwrap();
    history.scan();
    let (status, body) = history.get("/api/v1/runs/r1").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("RUN_NOT_FOUND")));
}

#[tokio::test]
async fn a_damaged_log_hides_nothing_else() {
    let mut history = History::new();
    write_run(&history.events(), "r1", 1_000, true).await;
    fs::write(LogPaths::new(history.events()).finished_run("broken").unwrap(), b"not zstd").unwrap();
    query_log(&history.events().join("queries"), "j1");
    fs::write(history.events().join("queries/j2.eventlog"), "{\"ev\":\"JobEnd\",\"version\":1,\"data\":{}}\n").unwrap();
    history.scan();
    assert_eq!(history.get("/api/v1/runs").await.1["total"], 1);
    assert_eq!(history.get("/api/v1/cluster").await.1["unreadable_logs"], 2);
}

#[tokio::test]
async fn driver_logs_are_read_in_pieces() {
    let mut history = History::new();
    write_run(&history.events(), "r1", 1_000, true).await;
    history.scan();
    assert_eq!(history.get("/api/v1/runs/r1/logs").await.1["complete"], true);
    let dir = history.dir.path().join("runs/r1");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("driver.log"), "one\ntwo\nthree\n").unwrap();
    assert_eq!(history.get("/api/v1/runs/r1/logs?limit=6").await.1["text"], "three\n");
    let (_, page) = history.get("/api/v1/runs/r1/logs?offset=0&limit=4").await;
    assert_eq!((&page["text"], &page["next_offset"], &page["complete"]), (&json!("one\n"), &json!(4), &json!(false)));
    assert_eq!(history.get("/api/v1/runs/..%2F..%2Fetc/logs").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn unknown_paths_answer_in_the_same_form() {
    let history = History::new();
    assert_eq!(history.get("/api/v1/nothing").await.1["code"], "NO_SUCH_PATH");
    assert_eq!(history.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_port_in_use_is_told_apart() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = HistoryOptions { port: taken.local_addr().unwrap().port(), ..HistoryOptions::default() };
    let error = serve(options, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, HistoryError::PortInUse { key: "history.port", .. }));
    let open = HistoryOptions { bind_host: "0.0.0.0".into(), ..HistoryOptions::default() };
    assert!(matches!(serve(open, CancellationToken::new()).await, Err(HistoryError::Insecure { .. })));
}

#[tokio::test]
async fn the_server_ends_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let options = HistoryOptions { port: 0, event_log_dir: dir.path().to_owned(), ..HistoryOptions::default() };
    let server = tokio::spawn(serve(options, shutdown.clone()));
    tokio::task::yield_now().await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
}
