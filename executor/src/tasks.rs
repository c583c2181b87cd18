//! The Ballista side of an executor: the services that take tasks, run them and serve their shuffle output, under one executor id.
//!
//! Assembled from Ballista's parts rather than by its `start_executor_process`, which ends the process's signals, drains without a bound and
//! cannot be stopped from inside. One process may start it again, under another id, after [`TaskService::stop`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::error::BallistaError;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::BallistaCodec;
use ballista_core::serde::protobuf::executor_status::Status as StatusKind;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecutorRegistration, ExecutorStatus, ExecutorStoppedParams, HeartBeatParams};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint, create_grpc_server};
use ballista_core::{ConfigProducer, RuntimeProducer};
use ballista_executor::execution_engine::DefaultExecutionEngine;
use ballista_executor::executor::Executor;
use ballista_executor::executor_process::{ExecutorProcessConfig, structure_executor_metadata};
use ballista_executor::executor_server::{self, TERMINATING};
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::health::ExecutorHealth;
use ballista_executor::metrics::LoggingMetricsCollector;
use ballista_executor::runtime_cache::DefaultSessionRuntimeCache;
use ballista_executor::shutdown::ShutdownNotifier;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_engine::Engine;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;

use crate::connections::ConnectionPool;
use crate::memory::{self, Reserved};
use crate::ports;
use crate::settings::Settings;

/// Sessions whose read-side state (object stores, Parquet footers) is kept.
const CACHED_SESSIONS: usize = 16;
/// Tries to find a port when the first free one was taken in between.
const PORT_ATTEMPTS: usize = 8;
/// How long stopping waits for Ballista's loops before it lets go of them.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const RPC_TIMEOUT: Duration = Duration::from_secs(3);

type SchedulerClient = SchedulerGrpcClient<Channel>;

/// Running task service; [`TaskService::stop`] ends it.
pub(crate) struct TaskService {
    pub(crate) executor_id: String,
    pub(crate) flight_port: u16,
    pub(crate) grpc_port: u16,
    executor: Arc<Executor>,
    registration: ExecutorRegistration,
    scheduler: SchedulerClient,
    services: JoinSet<std::result::Result<(), BallistaError>>,
    stop_requests: mpsc::Receiver<bool>,
    notifier: ShutdownNotifier,
}

impl TaskService {
    /// Connects to the scheduler, registers under `executor_id` and starts to serve.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`] when the scheduler does not answer or refuses (worth another try), [`ErrorCode::PortInUse`],
    /// [`ErrorCode::Config`].
    pub(crate) async fn start(settings: &Settings, engine: &Engine, executor_id: String, health: ExecutorHealth, account: Reserved) -> Result<Self> {
        TERMINATING.store(false, Ordering::Release);
        let ip = ports::resolve(&settings.bind_host).await?;
        let (flight_listener, flight_port) = ports::bind(ip, settings.flight_port, "data service").await?;
        let scheduler = connect(settings).await?;

        let base = base_runtime(settings, engine)?;
        let base_producer: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&base)));
        let policy = memory::policy(settings.memory_bytes, settings.cores, account)?;
        let runtime_producer: RuntimeProducer = {
            let (base, policy) = (Arc::clone(&base_producer), Arc::clone(&policy));
            Arc::new(move |config| policy(base(config)?, config, 1))
        };
        let config_producer: ConfigProducer = engine.config_producer();
        let codec: BallistaCodec<LogicalPlanNode, PhysicalPlanNode> = BallistaCodec::new(engine.logical_codec(), engine.physical_codec());

        for attempt in 1.. {
            let grpc_port = if settings.grpc_port == 0 { ports::probe(ip).await? } else { settings.grpc_port };
            let config = Arc::new(process_config(settings, &executor_id, ip.to_string(), flight_port, grpc_port, health.clone()));
            let registration = structure_executor_metadata(&config, u32::try_from(settings.cores).unwrap_or(u32::MAX));
            let executor = Arc::new(
                Executor::new(
                    registration.clone(),
                    &settings.shuffle_dir().to_string_lossy(),
                    Arc::clone(&runtime_producer),
                    Arc::clone(&config_producer),
                    engine.function_registry(),
                    Arc::new(LoggingMetricsCollector::default()),
                    settings.cores,
                    execution_engine(),
                )
                .with_session_runtime_cache(Some(Arc::new(DefaultSessionRuntimeCache::new(
                    Arc::clone(&base_producer),
                    Arc::clone(&policy),
                    CACHED_SESSIONS,
                )))),
            );
            let (stop_sender, stop_requests) = mpsc::channel(4);
            let notifier = ShutdownNotifier::new();
            let started = executor_server::startup(
                scheduler.clone(),
                Arc::clone(&config),
                Arc::clone(&executor),
                codec.clone(),
                stop_sender,
                &notifier,
                health.clone(),
            )
            .await;
            let task_server = match started {
                Ok(handle) => handle,
                Err(error) if settings.grpc_port == 0 && attempt < PORT_ATTEMPTS && is_bind_error(&error) => continue,
                Err(error) => return Err(startup_error(settings, grpc_port, &error)),
            };
            let mut services = JoinSet::new();
            services.spawn(async move { task_server.await.map_err(BallistaError::TokioError)? });
            services.spawn(serve_flight(flight_listener, settings.shuffle_dir(), notifier.subscribe_for_shutdown(), config));
            return Ok(Self { executor_id, flight_port, grpc_port, executor, registration, scheduler, services, stop_requests, notifier });
        }
        Err(Error::internal("no port found"))
    }

    /// Resolves when the service cannot go on by itself: a server failed, heartbeats went unanswered, or the scheduler asked for the end.
    pub(crate) async fn failed(&mut self) -> String {
        tokio::select! {
            ended = self.services.join_next() => match ended {
                Some(Ok(Ok(()))) => "its services ended (the scheduler did not answer heartbeats)".to_owned(),
                Some(Ok(Err(error))) => format!("a service failed: {error}"),
                Some(Err(error)) => format!("a service panicked: {error}"),
                None => "no service is left".to_owned(),
            },
            _ = self.stop_requests.recv() => "the scheduler asked for its end".to_owned(),
        }
    }

    /// Tasks that run now.
    pub(crate) fn active_tasks(&self) -> usize {
        self.executor.active_task_count()
    }

    /// Tells the scheduler to send nothing more, then waits for running tasks, at most `timeout`. True if all ended.
    pub(crate) async fn drain(&mut self, timeout: Duration) -> bool {
        TERMINATING.store(true, Ordering::Release);
        let heartbeat = HeartBeatParams {
            executor_id: self.executor_id.clone(),
            metrics: vec![],
            status: Some(ExecutorStatus { status: Some(StatusKind::Terminating(String::new())) }),
            metadata: Some(self.registration.clone()),
        };
        match tokio::time::timeout(RPC_TIMEOUT, self.scheduler.heart_beat_from_executor(heartbeat)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the scheduler was not told that this executor drains"),
            Err(_) => tracing::warn!("the scheduler did not answer that this executor drains"),
        }
        let deadline = Instant::now() + timeout;
        // Tasks may still be on their way from the scheduler: idle counts only when it lasts.
        let mut idle = 0;
        while Instant::now() < deadline {
            idle = if self.active_tasks() == 0 { idle + 1 } else { 0 };
            if idle >= 4 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.active_tasks() == 0
    }

    /// Tells the scheduler that this executor is gone for good, its shuffle output too.
    pub(crate) async fn report_stopped(&mut self, reason: &str) {
        let request = ExecutorStoppedParams { executor_id: self.executor_id.clone(), reason: reason.to_owned() };
        match tokio::time::timeout(RPC_TIMEOUT, self.scheduler.executor_stopped(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the scheduler was not told of the end of this executor"),
            Err(_) => tracing::warn!("the scheduler did not answer to the end of this executor"),
        }
    }

    /// Ends everything under this id, running tasks included, within a bounded time.
    pub(crate) async fn stop(self) {
        let Self { notifier, mut services, executor_id, .. } = self;
        let ShutdownNotifier { notify_shutdown, mut shutdown_complete_rx, shutdown_complete_tx } = notifier;
        let _ = notify_shutdown.send(());
        drop(notify_shutdown);
        drop(shutdown_complete_tx);
        let ended = tokio::time::timeout(STOP_TIMEOUT, async {
            // The channel closes once every loop dropped its sender.
            let _ = shutdown_complete_rx.recv().await;
        })
        .await;
        if ended.is_err() {
            tracing::warn!(executor_id, "the task service did not end in time; its tasks are abandoned");
        }
        services.abort_all();
        while services.join_next().await.is_some() {}
    }
}

fn execution_engine() -> Arc<DefaultExecutionEngine> {
    Arc::new(DefaultExecutionEngine::with_client_pool(Arc::new(ConnectionPool::default())))
}

/// What all tasks share: object stores, footers, spill files. Their pools come on top.
fn base_runtime(settings: &Settings, engine: &Engine) -> Result<Arc<datafusion::execution::runtime_env::RuntimeEnv>> {
    let spill_dir = settings.spill_dir();
    std::fs::create_dir_all(&spill_dir).map_err(|e| Error::io(format!("cannot create {}", spill_dir.display()), e))?;
    std::fs::create_dir_all(settings.shuffle_dir()).map_err(|e| Error::io(format!("cannot create {}", settings.shuffle_dir().display()), e))?;
    engine.runtime_env(None, Some(spill_dir))
}

async fn connect(settings: &Settings) -> Result<SchedulerClient> {
    let config = datafusion::prelude::SessionConfig::new_with_ballista();
    let mut grpc = GrpcClientConfig::from(&config.ballista_config());
    grpc.connect_timeout_seconds = 5;
    grpc.http2_keepalive_interval_seconds = 10;
    let unreachable =
        |e: &dyn std::fmt::Display| Error::new(ErrorCode::SchedulerUnreachable, format!("no scheduler at {}: {e}", settings.scheduler_url));
    let endpoint = create_grpc_client_endpoint(settings.scheduler_url.clone(), Some(&grpc)).map_err(|e| unreachable(&e))?;
    let channel = endpoint.connect().await.map_err(|e| unreachable(&e))?;
    Ok(SchedulerGrpcClient::new(channel).max_encoding_message_size(settings.max_message_bytes).max_decoding_message_size(settings.max_message_bytes))
}

fn process_config(
    settings: &Settings,
    executor_id: &str,
    bind_host: String,
    flight_port: u16,
    grpc_port: u16,
    health: ExecutorHealth,
) -> ExecutorProcessConfig {
    let message_bytes = u32::try_from(settings.max_message_bytes).unwrap_or(u32::MAX);
    ExecutorProcessConfig {
        executor_id: executor_id.to_owned(),
        bind_host,
        external_host: Some(settings.advertise_host.clone()),
        port: flight_port,
        grpc_port,
        vcores: settings.cores,
        work_dir: Some(settings.shuffle_dir().to_string_lossy().into_owned()),
        grpc_max_decoding_message_size: message_bytes,
        grpc_max_encoding_message_size: message_bytes,
        executor_heartbeat_interval_seconds: settings.heartbeat_interval.as_secs().max(1),
        health,
        ..ExecutorProcessConfig::default()
    }
}

/// The service that other executors and drivers fetch shuffle output and results from.
async fn serve_flight(
    listener: tokio::net::TcpListener,
    dir: PathBuf,
    mut shutdown: ballista_executor::shutdown::Shutdown,
    config: Arc<ExecutorProcessConfig>,
) -> std::result::Result<(), BallistaError> {
    let service = FlightServiceServer::new(BallistaFlightService::new(dir.to_string_lossy().into_owned()))
        .max_decoding_message_size(config.grpc_max_decoding_message_size as usize)
        .max_encoding_message_size(config.grpc_max_encoding_message_size as usize);
    create_grpc_server(&config.grpc_server_config)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown.recv())
        .await
        .map_err(BallistaError::TonicError)
}

fn is_bind_error(error: &BallistaError) -> bool {
    let text = error.to_string();
    text.contains("Address already in use") || text.contains("AddrInUse") || text.contains("address in use")
}

fn startup_error(settings: &Settings, grpc_port: u16, error: &BallistaError) -> Error {
    if is_bind_error(error) {
        Error::new(ErrorCode::PortInUse, format!("cannot listen on port {grpc_port} for the executor's task service: {error}"))
    } else {
        Error::new(ErrorCode::SchedulerUnreachable, format!("the scheduler at {} did not accept this executor: {error}", settings.scheduler_url))
    }
}

/// Removes the shuffle output of queries that ended without a word (a lost scheduler, a killed driver), so that the disk stays bounded.
pub(crate) fn spawn_cleaner(dir: PathBuf, ttl: Duration, interval: Duration, cancel: tokio_util::sync::CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            if let Err(error) = clean(&dir, ttl).await {
                tracing::warn!(%error, dir = %dir.display(), "cannot clean old shuffle output");
            }
        }
    })
}

async fn clean(dir: &std::path::Path, ttl: Duration) -> std::io::Result<()> {
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        if !entry.metadata().await.is_ok_and(|m| m.is_dir()) {
            continue;
        }
        let path = entry.path();
        // Ballista removes the directories of finished queries meanwhile, so errors here mean "gone".
        if let Ok(false) = ballista_executor::executor_process::satisfy_dir_ttl(entry, ttl.as_secs()).await {
            tracing::info!(dir = %path.display(), "removing old shuffle output");
            let _ = tokio::fs::remove_dir_all(&path).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn only_old_directories_are_cleaned() {
        let dir = std::env::temp_dir().join(format!("ca-clean-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(dir.join("job/1")).unwrap();
        std::fs::write(dir.join("job/1/data"), b"x").unwrap();
        clean(&dir, Duration::from_secs(3600)).await.unwrap();
        assert!(dir.join("job").exists());
        tokio::time::sleep(Duration::from_millis(2100)).await;
        clean(&dir, Duration::from_secs(0)).await.unwrap();
        assert!(!dir.join("job").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
