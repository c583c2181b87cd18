//! A whole scheduler over its sockets: runs of both modes, leases, logs, REST, a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::ballista::EngineParts;
use crate::options::{Options, test_options};
use crate::{Scheduler, SchedulerError};
use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use ballista_core::utils::{default_config_producer, default_session_builder};
use chainalytics_proto::v1::executor_service_client::ExecutorServiceClient;
use chainalytics_proto::v1::run_service_client::RunServiceClient;
use chainalytics_proto::v1::{self, RunState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

struct Running {
    runs: RunServiceClient<Channel>,
    executors: ExecutorServiceClient<Channel>,
    http: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), SchedulerError>>,
}

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("chainalytics-scheduler-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn engine() -> EngineParts {
    EngineParts {
        session_builder: Arc::new(default_session_builder),
        config_producer: Arc::new(default_config_producer),
        logical_codec: Arc::new(BallistaLogicalExtensionCodec::default()),
        physical_codec: Arc::new(BallistaPhysicalExtensionCodec::default()),
    }
}

async fn start(dir: &Path) -> Running {
    start_with(test_options(dir)).await
}

async fn start_with(options: Options) -> Running {
    let shutdown = CancellationToken::new();
    let scheduler = Scheduler::start(options, engine(), shutdown.clone()).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", scheduler.grpc_address)).unwrap().connect().await.unwrap();
    Running {
        runs: RunServiceClient::new(channel.clone()),
        executors: ExecutorServiceClient::new(channel),
        http: scheduler.http_address,
        shutdown,
        task: tokio::spawn(scheduler.wait()),
    }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.unwrap().unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let (status, body) = self.request("GET", path).await;
        (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::Null))
    }

    async fn request(&self, method: &str, path: &str) -> (u16, String) {
        let mut socket = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body = if head.to_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
        (status, body)
    }

    async fn until_state(&mut self, run_id: &str, state: RunState) -> v1::Run {
        let start = Instant::now();
        loop {
            let run = self.runs.get_run(v1::GetRunRequest { run_id: run_id.to_owned() }).await.unwrap().into_inner();
            if run.state() == state {
                return run;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "run is {:?}, not {state:?}", run.state());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn report(&mut self, run_id: &str, attempt: u32, state: RunState) -> v1::ReportRunResponse {
        let request = v1::ReportRunRequest { run_id: run_id.to_owned(), attempt, state: state.into(), ..Default::default() };
        self.runs.report_run(request).await.unwrap().into_inner()
    }

    /// Opens a lease and pings until the sender is dropped.
    async fn lease(&mut self, id: &str) -> (mpsc::Sender<v1::ExecutorPing>, tonic::Streaming<v1::SchedulerPing>) {
        let (pings, receiver) = mpsc::channel(8);
        let ping = v1::ExecutorPing { executor_id: id.to_owned(), cores: 2, ..Default::default() };
        pings.send(ping.clone()).await.unwrap();
        let answers = self.executors.lease(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let weak = pings.downgrade();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let Some(pings) = weak.upgrade() else { return };
                if pings.send(ping.clone()).await.is_err() {
                    return;
                }
            }
        });
        (pings, answers)
    }
}

fn unchunk(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

fn submission(mode: v1::DeployMode) -> v1::SubmitRunRequest {
    v1::SubmitRunRequest {
        run_id: uuid::Uuid::new_v4().to_string(),
        job: "demo".to_owned(),
        conf: [("catalog.s3.secret-access-key".to_owned(), "hunter2".to_owned())].into(),
        deploy_mode: mode.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_run_over_grpc_and_rest() {
    let dir = Dir::new();
    let mut scheduler = start(&dir.0).await;
    let request = submission(v1::DeployMode::Client);
    let run_id = request.run_id.clone();
    assert!(scheduler.runs.submit_run(request.clone()).await.unwrap().into_inner().created);
    assert!(!scheduler.runs.submit_run(request).await.unwrap().into_inner().created);
    scheduler.report(&run_id, 1, RunState::Running).await;
    let query = v1::RegisterQueryRequest {
        run_id: run_id.clone(),
        job_id: "q1".to_owned(),
        attempt: 1,
        label: "first".to_owned(),
        statement: "SELECT 1".to_owned(),
    };
    assert!(!scheduler.runs.register_query(query).await.unwrap().into_inner().kill_requested);
    let verdict = scheduler.runs.validate_query(v1::ValidateQueryRequest { job_id: "q1".to_owned() }).await.unwrap();
    assert!(!verdict.into_inner().valid, "a query that nobody knows does not count");
    let killed = scheduler.runs.kill_run(v1::KillRunRequest { run_id: run_id.clone(), ..Default::default() }).await.unwrap();
    assert!(killed.into_inner().kill_requested);
    assert!(scheduler.report(&run_id, 1, RunState::Running).await.kill_requested);
    scheduler.report(&run_id, 1, RunState::Killed).await;
    assert!(scheduler.report(&run_id, 1, RunState::Running).await.superseded, "the run is over");

    let (status, run) = scheduler.get(&format!("/api/v1/runs/{run_id}")).await;
    assert_eq!((status, run["state"].as_str(), run["queries"][0]["label"].as_str()), (200, Some("killed"), Some("first")));
    assert!(!run.to_string().contains("hunter2"));
    assert_eq!(scheduler.get("/api/v1/runs?state=killed").await.1["total"], 1);
    assert_eq!(scheduler.get("/api/v1/cluster").await.1["runs"]["killed"], 1);
    assert_eq!(scheduler.get("/api/v1/executors").await.1["total"], 0);
    assert_eq!(scheduler.get("/api/v1/queries").await.0, 200);
    let (status, error) = scheduler.get("/api/v1/queries/nobody").await;
    assert_eq!((status, error["code"].as_str()), (404, Some("QUERY_NOT_FOUND")));
    assert_eq!(scheduler.get("/api/v1/runs/nobody").await.0, 404);
    assert_eq!(scheduler.get("/api/v1/nothing").await.1["code"], "NO_SUCH_PATH");
    assert_eq!(scheduler.get("/api/state").await.0, 200, "Ballista's own");
    assert_eq!(scheduler.get("/healthz").await.0, 200);
    assert_eq!(scheduler.get("/readyz").await.0, 503, "no executor");
    let (status, text) = scheduler.request("GET", "/metrics").await;
    assert!(status == 200 && text.contains("chainalytics_runs{state=\"killed\"} 1"), "{text}");
    assert_eq!(scheduler.request("GET", "/").await.0, 200, "the page");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_run_is_launched_logged_and_survives_a_restart() {
    let dir = Dir::new();
    let mut scheduler = start(&dir.0).await;
    let request = submission(v1::DeployMode::Cluster);
    let run_id = request.run_id.clone();
    scheduler.runs.submit_run(request).await.unwrap();
    assert_eq!(scheduler.until_state(&run_id, RunState::Queued).await.attempt, 0, "nobody to launch it");

    let (_pings, mut answers) = scheduler.lease("e1").await;
    let launch = loop {
        let answer = answers.message().await.unwrap().unwrap();
        if let Some(v1::command::Command::LaunchDriver(launch)) = answer.commands.into_iter().next().and_then(|command| command.command) {
            break launch;
        }
    };
    assert_eq!((launch.run_id.as_str(), launch.attempt), (run_id.as_str(), 1));
    assert_eq!(launch.conf["catalog.s3.secret-access-key"], "hunter2", "the driver needs it");
    assert_eq!(scheduler.get("/readyz").await.0, 200);
    scheduler.report(&run_id, 1, RunState::Running).await;
    let log = v1::AppendLogRequest { run_id: run_id.clone(), attempt: 1, data: b"hello\n".to_vec().into(), ..Default::default() };
    assert_eq!(scheduler.executors.append_log(log).await.unwrap().into_inner().next_offset, 6);
    scheduler.stop().await;

    let mut scheduler = start(&dir.0).await;
    assert_eq!(scheduler.until_state(&run_id, RunState::Running).await.attempt, 1);
    scheduler.report(&run_id, 1, RunState::Finished).await;
    scheduler.until_state(&run_id, RunState::Finished).await;
    let request = v1::StreamLogsRequest { run_id: run_id.clone(), follow: true, offset: 0 };
    let mut stream = scheduler.runs.stream_logs(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.data.as_ref(), b"hello\n");
    assert!(stream.message().await.unwrap().unwrap().end);
    let (_, page) = scheduler.get(&format!("/api/v1/runs/{run_id}/logs")).await;
    assert_eq!((page["text"].as_str(), page["complete"].as_bool()), (Some("hello\n"), Some(true)));
    scheduler.stop().await;
    let finished = dir.0.join("event-logs").join("runs").join(format!("{run_id}.eventlog.zst"));
    assert!(finished.exists(), "the run log is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_makes_a_run_lost_and_a_lease_stale() {
    let dir = Dir::new();
    let mut options = test_options(&dir.0);
    options.lease_ttl = Duration::from_millis(1_000);
    options.runs.driver_timeout = Duration::from_millis(1_500);
    let mut scheduler = start_with(options).await;
    let request = submission(v1::DeployMode::Client);
    let run_id = request.run_id.clone();
    scheduler.runs.submit_run(request).await.unwrap();
    scheduler.report(&run_id, 1, RunState::Running).await;
    let error = scheduler.until_state(&run_id, RunState::Lost).await.error.unwrap();
    assert!(error.code == "CA-RUN-FAILED" && error.message.contains("nothing was heard"), "{error:?}");
    assert!(scheduler.report(&run_id, 1, RunState::Running).await.superseded);

    // A stream that breaks.
    let (pings, answers) = scheduler.lease("e1").await;
    drop((pings, answers));
    let start = Instant::now();
    loop {
        let (_, executors) = scheduler.get("/api/v1/executors").await;
        if executors["items"][0]["state"] == "lost" {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{executors}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_pings, mut answers) = scheduler.lease("e1").await;
    assert!(answers.message().await.unwrap().unwrap().stale);
    assert!(answers.message().await.unwrap().is_none());

    // A stream that falls silent.
    let (sender, receiver) = mpsc::channel(8);
    sender.send(v1::ExecutorPing { executor_id: "e2".to_owned(), ..Default::default() }).await.unwrap();
    let mut answers = scheduler.executors.lease(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert!(!answers.message().await.unwrap().unwrap().stale);
    assert!(answers.message().await.unwrap().unwrap().stale, "told without being asked");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_starting_is_named() {
    let dir = Dir::new();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let options = Options { http_port: port, ..test_options(&dir.0) };
    let error = Scheduler::start(options, engine(), CancellationToken::new()).await.err().unwrap();
    assert!(matches!(error, SchedulerError::PortInUse { port: p, key: "scheduler.http-port", .. } if p == port), "{error}");
    let open = Options { bind_host: "0.0.0.0".to_owned(), ..test_options(&dir.0) };
    let error = Scheduler::start(open, engine(), CancellationToken::new()).await.err().unwrap();
    assert!(matches!(error, SchedulerError::Insecure { .. }) && error.to_string().contains("security.allow-insecure"));
}
