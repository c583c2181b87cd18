//! Puts the parts together, owns every background task, and ends them in order.

use crate::ballista::{self, EngineParts};
use crate::clock::now_ms;
use crate::error::SchedulerError;
use crate::executors::directory::Directory;
use crate::executors::service::ExecutorServiceImpl;
use crate::guard::Guard;
use crate::http::{self, About, BallistaApi, HttpState};
use crate::options::Options;
use crate::runs::chronicle;
use crate::runs::journal::Journal;
use crate::runs::logs::DriverLogs;
use crate::runs::manager::Runs;
use crate::runs::service::RunServiceImpl;
use crate::runs::store::RunStore;
use crate::server;
use chainalytics_event_log::{RunLogOptions, RunLogWriter};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A scheduler that serves. Dropping it aborts its tasks; [`Scheduler::wait`] ends them in order.
pub struct Scheduler {
    /// Where gRPC is served.
    pub grpc_address: SocketAddr,
    /// Where HTTP is served.
    pub http_address: SocketAddr,
    options: Options,
    /// Servers and loops; any that ends before `shutdown` ends the scheduler.
    tasks: JoinSet<Result<(), SchedulerError>>,
    /// Lease and log streams.
    streams: TaskTracker,
    runs: Runs,
    shutdown: CancellationToken,
}

impl Scheduler {
    /// Binds both ports, takes up what an earlier scheduler left, and serves until `shutdown` is cancelled.
    ///
    /// # Errors
    /// Ports in use, unsafe addresses, directories and files that cannot be had.
    pub async fn start(mut options: Options, engine: EngineParts, shutdown: CancellationToken) -> Result<Self, SchedulerError> {
        options.check()?;
        let grpc = server::bind(&options.bind_host, options.grpc_port, "scheduler.port").await?;
        let web = server::bind(&options.bind_host, options.http_port, "scheduler.http-port").await?;
        let (grpc_address, http_address) = (address(&grpc)?, address(&web)?);
        // Ballista tells executors where to report: with port 0 that is known only now.
        options.grpc_port = grpc_address.port();
        for dir in [&options.data_dir, &options.event_log_dir, &options.query_log_dir] {
            make(dir).await?;
        }

        let guard = Guard::new(options.lease_ttl, options.executor_wait_timeout);
        let (ballista, job_state) = ballista::start(&options, engine, &guard).await?;
        let directory = Directory::default();
        let store = RunStore::open(&options.data_dir.join("scheduler").join("runs.db")).await?;
        let writer = RunLogWriter::start(&options.event_log_dir, RunLogOptions::default()).await?;
        let journal = Journal::new(writer, options.scheduler_id.clone());
        let logs = DriverLogs::new(&options.data_dir);
        let runs = Runs::recover(store, journal, logs.clone(), guard.clone(), directory.clone(), options.runs).await?;
        let api = BallistaApi::new(ballista.clone());
        let streams = TaskTracker::new();

        let mut tasks = JoinSet::new();
        let about = About {
            scheduler_id: options.scheduler_id.clone(),
            scheduler_url: format!("chainalytics://{}:{}", options.external_host, grpc_address.port()),
            history_url: options.history_url.clone(),
            event_log_dir: options.event_log_dir.display().to_string(),
            started_at_ms: now_ms(),
            min_ready_executors: options.min_ready_executors,
        };
        let state = HttpState {
            ballista: ballista.clone(),
            job_state,
            api: api.clone(),
            guard: guard.clone(),
            directory: directory.clone(),
            runs: runs.clone(),
            samples: http::Samples::default(),
            about: Arc::new(about),
        };
        let run_service = RunServiceImpl { runs: runs.clone(), guard: guard.clone(), pages: state.clone(), tasks: streams.clone(), shutdown: shutdown.clone() };
        let executor_service = ExecutorServiceImpl {
            guard: guard.clone(),
            directory: directory.clone(),
            runs: runs.clone(),
            logs,
            scheduler_id: options.scheduler_id.clone(),
            lease_ttl: options.lease_ttl,
            ping_interval: options.ping_interval,
            tasks: streams.clone(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn(server::grpc(grpc, ballista, run_service, executor_service, options.message_bytes_max, shutdown.clone()));
        tasks.spawn(unfailing(http::sample(state.clone(), shutdown.clone())));
        tasks.spawn(server::http(web, http::router(state), shutdown.clone()));
        tasks.spawn(unfailing(guard.clone().run(shutdown.clone())));
        tasks.spawn(unfailing(runs.clone().run(shutdown.clone())));
        tasks.spawn(unfailing(chronicle::run(guard, runs.clone(), api, shutdown.clone())));
        tracing::info!(grpc = %grpc_address, http = %http_address, id = options.scheduler_id, "scheduler serves");
        Ok(Self { grpc_address, http_address, options, tasks, streams, runs, shutdown })
    }

    /// Serves until `shutdown` is cancelled or a part fails, then ends the rest: streams first, the run store last.
    ///
    /// # Errors
    /// What made a part fail.
    pub async fn wait(mut self) -> Result<(), SchedulerError> {
        let first = self.tasks.join_next().await;
        let asked = self.shutdown.is_cancelled();
        self.shutdown.cancel();
        self.streams.close();
        let rest = async {
            self.streams.wait().await;
            while self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(self.options.shutdown_timeout, rest).await.is_err() {
            tracing::warn!("open calls were cut off");
            self.tasks.shutdown().await;
        }
        self.runs.close().await;
        if let Some(ended) = first {
            ended??;
        }
        if asked {
            tracing::info!("scheduler ended");
        }
        Ok(())
    }
}

async fn unfailing(task: impl Future<Output = ()>) -> Result<(), SchedulerError> {
    task.await;
    Ok(())
}

fn address(listener: &tokio::net::TcpListener) -> Result<SocketAddr, SchedulerError> {
    listener.local_addr().map_err(SchedulerError::Http)
}

async fn make(dir: &Path) -> Result<(), SchedulerError> {
    tokio::fs::create_dir_all(dir).await.map_err(|source| SchedulerError::Directory { path: dir.display().to_string(), source })
}
