#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};

use chainalytics_api_types::{QueryState, RunProgress, RunState, StreamingBatch, Validity};
use serde_json::json;

use super::*;
use crate::event::{ExecutorLost, QueryEnded, QueryRegistered, RunEnded, RunStarted, RunSubmitted};
use crate::{LogPaths, read_run_log};

fn submitted(run_id: &str) -> RunEvent {
    RunEvent::RunSubmitted(RunSubmitted {
        run_id: run_id.into(),
        name: "daily gold".into(),
        job: "gold_aggregation".into(),
        args: vec!["--date".into(), "2024-01-01".into()],
        conf: [("query.adaptive".to_owned(), "true".to_owned()), ("catalog.s3.secret-access-key".to_owned(), "hunter2".to_owned())].into(),
        user: "ada".into(),
        at_ms: 1_700_000_000_000,
        ..RunSubmitted::default()
    })
}

fn progress(done: u64) -> RunEvent {
    RunEvent::Progress(RunProgress { phase: "joining".into(), done, total: 10, rows: done * 100, ..RunProgress::default() })
}

fn ended(state: RunState) -> RunEvent {
    RunEvent::RunEnded(RunEnded { state, at_ms: 1_700_000_009_000, report: json!({"rows": 12}), ..RunEnded::default() })
}

/// Every kind of event that version 1 knows; also the content of the frozen fixture.
fn whole_run(run_id: &str) -> Vec<RunEvent> {
    vec![
        submitted(run_id),
        RunEvent::RunStarted(RunStarted { attempt: 1, at_ms: 1_700_000_001_000, driver_location: Some("executor-1".into()) }),
        progress(1),
        RunEvent::QueryRegistered(QueryRegistered {
            job_id: "job-1".into(),
            attempt: 1,
            label: "join".into(),
            statement: "SELECT 1".into(),
            at_ms: 1_700_000_002_000,
        }),
        RunEvent::ExecutorLost(ExecutorLost { executor_id: "exec-b".into(), at_ms: 1_700_000_003_000, reason: "no ping".into() }),
        RunEvent::QueryEnded(QueryEnded {
            job_id: "job-1".into(),
            state: QueryState::Cancelled,
            validity: Validity::ExecutorLost,
            validity_reason: Some("exec-b was lost".into()),
            ended_at_ms: 1_700_000_003_500,
            ..QueryEnded::default()
        }),
        RunEvent::QueryRegistered(QueryRegistered {
            job_id: "job-2".into(),
            attempt: 2,
            label: "join".into(),
            statement: "SELECT 1".into(),
            at_ms: 1_700_000_004_000,
        }),
        RunEvent::QueryEnded(QueryEnded {
            job_id: "job-2".into(),
            state: QueryState::Succeeded,
            validity: Validity::Valid,
            started_at_ms: Some(1_700_000_004_100),
            ended_at_ms: 1_700_000_006_000,
            output_rows: Some(12),
            stages_total: 2,
            stages_done: 2,
            ..QueryEnded::default()
        }),
        RunEvent::StreamingBatch(StreamingBatch {
            query: "events".into(),
            batch: 7,
            input_rows: 100,
            written_rows: 99,
            dead_letter_rows: 1,
            ..StreamingBatch::default()
        }),
        progress(10),
        ended(RunState::Finished),
    ]
}

async fn writer(dir: &Path) -> RunLogWriter {
    RunLogWriter::start(dir, RunLogOptions { progress_interval: Duration::from_secs(3_600), ..RunLogOptions::default() }).await.unwrap()
}

async fn record_all(writer: &RunLogWriter, run_id: &str, events: Vec<RunEvent>) {
    for event in events {
        writer.record(run_id, event).await.unwrap();
    }
    writer.flush().await.unwrap();
}

#[tokio::test]
async fn a_run_comes_back_as_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path()).await;
    record_all(&writer, "r1", whole_run("r1")).await;
    let paths = LogPaths::new(dir.path());
    assert!(!paths.running_run("r1").unwrap().exists());
    let replay = read_run_log(&paths.finished_run("r1").unwrap()).unwrap();
    check_whole_run(&replay);
    assert_eq!(replay.detail.summary.progress.as_ref().unwrap().done, 10, "the newest progress survives sampling");
    // A straggler neither reopens the log nor makes a new one.
    writer.record("r1", progress(11)).await.unwrap();
    writer.shutdown().await;
    assert!(!paths.running_run("r1").unwrap().exists());
}

fn check_whole_run(replay: &crate::RunReplay) {
    let detail = &replay.detail;
    assert!(replay.complete);
    assert_eq!(replay.skipped_lines, 0);
    assert_eq!(detail.summary.state, RunState::Finished);
    assert_eq!(detail.summary.name, "daily gold");
    assert_eq!(detail.summary.queries_total, 2);
    assert_eq!(detail.queries[0].validity, Validity::ExecutorLost);
    assert_eq!((detail.queries[1].attempt, detail.queries[1].output_rows), (2, Some(12)));
    assert_eq!(detail.streaming[0].dead_letter_rows, 1);
    assert_eq!(detail.lost_executors, ["exec-b"]);
    assert_eq!(detail.report, json!({"rows": 12}));
    assert_eq!(detail.conf["catalog.s3.secret-access-key"], chainalytics_api_types::redact::REDACTED);
    assert_eq!(replay.statements["job-2"], "SELECT 1");
}

#[tokio::test]
async fn a_log_cut_anywhere_reads_as_an_incomplete_run() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path()).await;
    record_all(&writer, "r1", whole_run("r1")).await;
    writer.shutdown().await;
    let whole = std::fs::read(LogPaths::new(dir.path()).finished_run("r1").unwrap()).unwrap();
    let cut = dir.path().join("cut");
    let mut incomplete = 0;
    for length in 0..whole.len() {
        std::fs::write(&cut, &whole[..length]).unwrap();
        // Before the first whole frame there is nothing to show; after it, always an incomplete run.
        if let Ok(replay) = read_run_log(&cut) {
            assert_eq!(replay.detail.summary.state, RunState::Incomplete, "cut at {length}");
            assert_eq!(replay.detail.summary.run_id, "r1");
            incomplete += 1;
        }
    }
    assert!(incomplete > whole.len() / 4);
}

#[tokio::test]
async fn a_restarted_writer_goes_on_after_a_torn_frame() {
    let dir = tempfile::tempdir().unwrap();
    let events = whole_run("r1");
    let (first, second) = events.split_at(4);
    let before = writer(dir.path()).await;
    record_all(&before, "r1", first.to_vec()).await;
    before.shutdown().await;
    let running = LogPaths::new(dir.path()).running_run("r1").unwrap();
    let frame = zstd::bulk::compress(b"{\"ev\":\"RunStarted\"", 3).unwrap();
    std::fs::OpenOptions::new().append(true).open(&running).unwrap().write_all(&frame[..frame.len() - 3]).unwrap();

    let after = writer(dir.path()).await;
    record_all(&after, "r1", second.to_vec()).await;
    after.shutdown().await;
    check_whole_run(&read_run_log(&LogPaths::new(dir.path()).finished_run("r1").unwrap()).unwrap());
}

#[tokio::test]
async fn progress_is_sampled_and_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let writer = RunLogWriter::start(dir.path(), RunLogOptions { queue_events: 1, ..RunLogOptions::default() }).await.unwrap();
    writer.record("r1", submitted("r1")).await.unwrap();
    for n in 0..50_000 {
        writer.record("r1", progress(n)).await.unwrap();
    }
    writer.record("r1", ended(RunState::Killed)).await.unwrap();
    writer.shutdown().await;
    let path = LogPaths::new(dir.path()).finished_run("r1").unwrap();
    assert_eq!(read_run_log(&path).unwrap().detail.summary.state, RunState::Killed);
    assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
}

#[tokio::test]
async fn more_runs_than_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let writer = RunLogWriter::start(dir.path(), RunLogOptions { files_open_max: 2, ..RunLogOptions::default() }).await.unwrap();
    let ids: Vec<String> = (0..10).map(|n| format!("r{n}")).collect();
    for id in &ids {
        writer.record(id, submitted(id)).await.unwrap();
    }
    for id in &ids {
        writer.record(id, ended(RunState::Finished)).await.unwrap();
    }
    writer.shutdown().await;
    for id in &ids {
        assert!(read_run_log(&LogPaths::new(dir.path()).finished_run(id).unwrap()).unwrap().complete);
    }
}

#[tokio::test]
async fn an_id_that_leaves_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path()).await;
    assert!(matches!(writer.record("../x", submitted("x")).await, Err(LogError::InvalidId { .. })));
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/run-v1.eventlog.zst")
}

/// The fixture is frozen: if this fails, a change has made every log in the field unreadable. Change the code, not the file.
#[test]
fn logs_of_version_1_stay_readable() {
    let replay = read_run_log(&fixture()).unwrap();
    assert_eq!(replay.skipped_lines, 1, "the fixture holds one line from the future");
    assert_eq!(replay.detail.summary.run_id, "frozen-v1");
    assert_eq!(replay.detail.args, ["--date", "2024-01-01"]);
    let mut replay = replay;
    replay.skipped_lines = 0;
    check_whole_run(&replay);
}

/// How the fixture was made, once: `cargo test -p chainalytics-event-log -- --ignored make_the_frozen_fixture`.
#[test]
#[ignore = "writes the frozen fixture; only for a new schema version"]
fn make_the_frozen_fixture() {
    assert!(!fixture().exists(), "frozen");
    let mut bytes = Vec::new();
    for (number, event) in whole_run("frozen-v1").iter().enumerate() {
        let mut lines = serde_json::to_string(&event.to_envelope().unwrap()).unwrap() + "\n";
        if number == 3 {
            lines += "{\"ev\":\"AnEventFromTheFuture\",\"version\":1,\"data\":{\"whatever\":[1,{\"nested\":true}]}}\n";
        }
        bytes.extend(zstd::bulk::compress(lines.as_bytes(), 3).unwrap());
    }
    std::fs::write(fixture(), bytes).unwrap();
}

#[test]
fn a_newer_version_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let line = "{\"ev\":\"RunSubmitted\",\"version\":99,\"data\":{}}\n";
    std::fs::write(&path, zstd::bulk::compress(line.as_bytes(), 3).unwrap()).unwrap();
    assert!(matches!(read_run_log(&path), Err(LogError::UnsupportedVersion { found: 99, .. })));
}
