//! The guard around a real Ballista scheduler, with executors that accept every task and never report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::lease::LossCause;
use super::ledger::{Invalidity, Verdict};
use super::*;
use crate::ballista::{self, EngineParts};
use crate::options::test_options;
use ballista_core::serde::protobuf as pb;
use ballista_core::serde::protobuf::executor_grpc_server::{ExecutorGrpc, ExecutorGrpcServer};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata, ExecutorSpecification};
use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use ballista_core::utils::{default_config_producer, default_session_builder};
use ballista_scheduler::cluster::JobState;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Counts {
    launched: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl ExecutorGrpc for Counts {
    async fn launch_task(&self, _: Request<pb::LaunchTaskParams>) -> Result<Response<pb::LaunchTaskResult>, Status> {
        Ok(Response::new(pb::LaunchTaskResult { success: true }))
    }

    async fn launch_multi_task(&self, _: Request<pb::LaunchMultiTaskParams>) -> Result<Response<pb::LaunchMultiTaskResult>, Status> {
        self.launched.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(pb::LaunchMultiTaskResult::default()))
    }

    async fn stop_executor(&self, _: Request<pb::StopExecutorParams>) -> Result<Response<pb::StopExecutorResult>, Status> {
        Ok(Response::new(pb::StopExecutorResult {}))
    }

    async fn cancel_tasks(&self, _: Request<pb::CancelTasksParams>) -> Result<Response<pb::CancelTasksResult>, Status> {
        Ok(Response::new(pb::CancelTasksResult { cancelled: true }))
    }

    async fn remove_job_data(&self, _: Request<pb::RemoveJobDataParams>) -> Result<Response<pb::RemoveJobDataResult>, Status> {
        Ok(Response::new(pb::RemoveJobDataResult {}))
    }
}

struct World {
    ballista: Ballista,
    guard: Guard,
    job_state: Arc<dyn JobState>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    async fn new() -> Self {
        let guard = Guard::new(Duration::from_secs(3_600), Duration::ZERO);
        let engine = EngineParts {
            session_builder: Arc::new(default_session_builder),
            config_producer: Arc::new(default_config_producer),
            logical_codec: Arc::new(BallistaLogicalExtensionCodec::default()),
            physical_codec: Arc::new(BallistaPhysicalExtensionCodec::default()),
        };
        let dir = tempfile::tempdir().unwrap();
        let (ballista, job_state) = ballista::start(&test_options(dir.path()), engine, &guard).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(guard.clone().run(stop.clone()));
        Self { ballista, guard, job_state, stop, _dir: dir }
    }

    /// An executor with a lease; answers a token that ends its server.
    async fn executor(&self, id: &str, counts: &Counts) -> CancellationToken {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = self.stop.child_token();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(ExecutorGrpcServer::new(counts.clone()))
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned()),
        );
        self.guard.open_lease(id, false).await.unwrap();
        let metadata = ExecutorMetadata {
            id: id.to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            grpc_port: port,
            specification: ExecutorSpecification { vcores: 2 },
            os_info: Default::default(),
        };
        let data = ExecutorData { executor_id: id.to_owned(), total_vcores: 2, available_vcores: 2 };
        self.ballista.state.executor_manager.register_executor(metadata, data).await.unwrap();
        stop
    }

    /// A query with a shuffle over more partitions than one executor has cores.
    async fn submit(&self, adaptive: bool) -> String {
        let mut config = self.job_state.produce_config();
        config.options_mut().set("ballista.planner.adaptive.enabled", &adaptive.to_string()).unwrap();
        let ctx = self.job_state.create_or_update_session("s", &config).await.unwrap();
        let sql = "SELECT x, count(*) FROM (SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) GROUP BY x";
        let plan = ctx.sql(sql).await.unwrap().into_optimized_plan().unwrap();
        self.ballista.submit_job("test", ctx, &plan, None).await.unwrap().to_string()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "{what} did not come about");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ended_as_failed(&self, job_id: &str) {
        self.until("the end of the query", || self.guard.ledger(|ledger| ledger.has_ended(job_id))).await;
        let status = self.job_state.get_job_status(&JobId::from(job_id)).await.unwrap().unwrap().status;
        assert!(matches!(status, Some(job_status::Status::Failed(_))), "{status:?}");
    }

    fn lost(&self, job_id: &str) -> BTreeSet<String> {
        match self.guard.validate(job_id) {
            Verdict::Invalid(Invalidity::ExecutorLost(lost)) => lost,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_cancels_the_query_at_once() {
    for adaptive in [false, true] {
        let world = World::new().await;
        let counts = Counts::default();
        world.executor("a", &counts).await;
        world.executor("b", &counts).await;
        let mut losses = world.guard.losses();
        let job_id = world.submit(adaptive).await;
        world.until("a launch", || counts.launched.load(Ordering::SeqCst) > 0).await;
        let victim = world.guard.ledger(|ledger| ledger.executors_of(&job_id)).into_iter().next().unwrap();

        let start = Instant::now();
        world.guard.lose(&victim, LossCause::StreamClosed).await;
        world.ended_as_failed(&job_id).await;
        assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
        assert_eq!(world.lost(&job_id), BTreeSet::from([victim.clone()]));
        let loss = losses.recv().await.unwrap();
        assert_eq!((loss.executor_id, loss.cancelled), (victim, vec![job_id]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_ballista_finds_dead_is_lost_too() {
    let world = World::new().await;
    let counts = Counts::default();
    // It registers, and is gone when the first task comes.
    world.executor("a", &counts).await.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let job_id = world.submit(false).await;
    world.ended_as_failed(&job_id).await;
    assert_eq!(world.lost(&job_id), BTreeSet::from(["a".to_owned()]));
    assert_eq!(world.guard.open_lease("a", false).await.unwrap_err().cause, LossCause::RemovedByBallista);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_draining_executor_gets_no_task() {
    let world = World::new().await;
    let (lost, draining, well) = (Counts::default(), Counts::default(), Counts::default());
    world.executor("lost", &lost).await;
    world.executor("draining", &draining).await;
    world.executor("well", &well).await;
    world.guard.lose("lost", LossCause::Expired).await;
    world.guard.ledger(|ledger| ledger.drain("draining"));
    let job_id = world.submit(false).await;
    world.until("a launch", || well.launched.load(Ordering::SeqCst) > 0).await;
    assert_eq!(lost.launched.load(Ordering::SeqCst) + draining.launched.load(Ordering::SeqCst), 0);
    assert_eq!(world.guard.ledger(|ledger| ledger.executors_of(&job_id)), BTreeSet::from(["well".to_owned()]));
    // Its id stays refused.
    let metadata = ExecutorMetadata {
        id: "lost".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 1,
        grpc_port: 1,
        specification: ExecutorSpecification::default(),
        os_info: Default::default(),
    };
    assert!(world.ballista.state.executor_manager.save_executor_metadata(metadata).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_on_request_in_any_state() {
    let world = World::new().await;
    // No executor: it waits.
    let waiting = world.submit(false).await;
    world.until("its acceptance", || world.guard.ledger(|ledger| ledger.open_jobs()) == 1).await;
    assert!(world.guard.cancel_query(&waiting, "test").await);
    world.ended_as_failed(&waiting).await;
    assert!(matches!(world.guard.validate(&waiting), Verdict::Invalid(Invalidity::Cancelled(_))));
    let counts = Counts::default();
    world.executor("a", &counts).await;
    let running = world.submit(true).await;
    world.until("a launch", || counts.launched.load(Ordering::SeqCst) > 0).await;
    assert!(world.guard.cancel_query(&running, "test").await);
    world.ended_as_failed(&running).await;
    assert!(!world.guard.cancel_query(&running, "again").await);
}
