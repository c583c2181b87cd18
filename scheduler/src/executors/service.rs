//! `chainalytics.v1.ExecutorService`: lease streams, the ends of drivers, driver logs.

use super::directory::{Directory, Ended};
use crate::clock::now_ms;
use crate::guard::Guard;
use crate::guard::lease::LossCause;
use crate::runs::logs::{DriverLogs, READ_BYTES_MAX};
use crate::runs::manager::Runs;
use chainalytics_proto::v1;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// Pings and commands that wait for a slow reader.
const ANSWERS_BUFFERED: usize = 64;
/// The first ping of a stream must come within this time.
const FIRST_PING_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub struct ExecutorServiceImpl {
    pub guard: Guard,
    pub directory: Directory,
    pub runs: Runs,
    pub logs: DriverLogs,
    pub scheduler_id: String,
    pub lease_ttl: Duration,
    pub ping_interval: Duration,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

type Answers = mpsc::Sender<Result<v1::SchedulerPing, Status>>;

#[tonic::async_trait]
impl v1::executor_service_server::ExecutorService for ExecutorServiceImpl {
    type LeaseStream = BoxStream<'static, Result<v1::SchedulerPing, Status>>;

    async fn lease(&self, request: Request<Streaming<v1::ExecutorPing>>) -> Result<Response<Self::LeaseStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS_BUFFERED);
        let service = self.clone();
        let pings = request.into_inner();
        self.tasks.spawn(async move { service.serve_lease(pings, answers).await });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn driver_status(&self, request: Request<v1::DriverStatusRequest>) -> Result<Response<v1::DriverStatusResponse>, Status> {
        self.runs.driver_status(request.into_inner()).await.map_err(Status::from)?;
        Ok(Response::new(v1::DriverStatusResponse {}))
    }

    async fn append_log(&self, request: Request<v1::AppendLogRequest>) -> Result<Response<v1::AppendLogResponse>, Status> {
        let request = request.into_inner();
        if request.data.len() as u64 > READ_BYTES_MAX {
            return Err(Status::invalid_argument("a piece of a log holds at most 1 MiB"));
        }
        if !self.runs.exists(&request.run_id).await.map_err(Status::from)? {
            return Err(Status::not_found(format!("run {} is not known", request.run_id)));
        }
        let next_offset =
            self.logs.append(&request.run_id, request.attempt, request.offset, &request.data).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidInput => Status::invalid_argument(error.to_string()),
                _ => Status::internal(format!("driver log of run {}: {error}", request.run_id)),
            })?;
        Ok(Response::new(v1::AppendLogResponse { next_offset }))
    }
}

impl ExecutorServiceImpl {
    /// One lease from its first ping to its end.
    async fn serve_lease(&self, mut pings: Streaming<v1::ExecutorPing>, answers: Answers) {
        let first = match tokio::time::timeout(FIRST_PING_WITHIN, pings.message()).await {
            Ok(Ok(Some(ping))) if !ping.executor_id.is_empty() => ping,
            Ok(Ok(Some(_))) => {
                let _ = answers.try_send(Err(Status::invalid_argument("a ping names its executor id")));
                return;
            }
            _ => return,
        };
        let executor_id = first.executor_id.clone();
        if let Err(stale) = self.guard.open_lease(&executor_id, first.draining).await {
            tracing::info!(executor_id, cause = %stale.cause, "a stale executor id asked for a lease");
            self.end(&executor_id, &stale.cause);
            self.answer_stale(&answers).await;
            return;
        }
        tracing::info!(executor_id, name = first.name, host = first.host, cores = first.cores, "executor holds a lease");
        let mut losses = self.guard.losses();
        let mut drivers = DriverReports::default();
        drivers.report(self, &first);
        let mut commands = self.directory.open(first, now_ms());
        let _ = answers.try_send(Ok(self.answer(Vec::new())));

        let cause = loop {
            tokio::select! {
                // Executors reconnect to the next scheduler by themselves; nothing is lost by our own end.
                () = self.shutdown.cancelled() => return,
                () = answers.closed() => break LossCause::StreamClosed,
                Some(command) = commands.recv() => {
                    // A reader that takes nothing for so long is about to lose its lease anyway; commands are repeated by their senders.
                    if answers.try_send(Ok(self.answer(vec![command]))).is_err() {
                        tracing::warn!(executor_id, "an executor does not read its commands");
                    }
                }
                // Declared lost elsewhere: a frozen process finds the stale answer in its socket when it thaws.
                loss = losses.recv() => match loss {
                    Ok(loss) if loss.executor_id == executor_id => break loss.cause,
                    Ok(_) | Err(_) => {}
                },
                ping = pings.message() => match ping {
                    Ok(Some(ping)) => match self.pinged(&executor_id, ping, &mut drivers).await {
                        Ok(()) => { let _ = answers.try_send(Ok(self.answer(Vec::new()))); }
                        Err(cause) => break cause,
                    },
                    Ok(None) => break LossCause::StreamClosed,
                    Err(status) => {
                        tracing::debug!(executor_id, %status, "lease stream broke");
                        break LossCause::StreamClosed;
                    }
                },
            }
        };
        self.guard.lose(&executor_id, cause.clone()).await;
        self.end(&executor_id, &cause);
        if cause != LossCause::Left && cause != LossCause::StreamClosed {
            self.answer_stale(&answers).await;
        }
    }

    async fn pinged(&self, executor_id: &str, ping: v1::ExecutorPing, drivers: &mut DriverReports) -> Result<(), LossCause> {
        if ping.executor_id != executor_id {
            tracing::warn!(executor_id, other = ping.executor_id, "a lease stream changed its executor id");
            return Err(LossCause::StreamReplaced);
        }
        if ping.leaving {
            return Err(LossCause::Left);
        }
        self.guard.ping(executor_id, ping.draining).await.map_err(|stale| stale.cause)?;
        drivers.report(self, &ping);
        self.directory.seen(ping, now_ms());
        Ok(())
    }

    fn end(&self, executor_id: &str, cause: &LossCause) {
        let ended = Ended { at_ms: now_ms(), reason: cause.to_string(), in_order: *cause == LossCause::Left };
        self.directory.end(executor_id, ended);
    }

    fn answer(&self, commands: Vec<v1::Command>) -> v1::SchedulerPing {
        v1::SchedulerPing {
            lease_ttl_ms: millis(self.lease_ttl),
            ping_interval_ms: millis(self.ping_interval),
            stale: false,
            commands,
            scheduler_id: self.scheduler_id.clone(),
        }
    }

    async fn answer_stale(&self, answers: &Answers) {
        let ping = v1::SchedulerPing { stale: true, ..self.answer(Vec::new()) };
        let _ = answers.send_timeout(Ok(ping), Duration::from_secs(1)).await;
    }
}

/// Passes the drivers that a ping lists on to the runs, beside the lease loop: pings must be read even while the run store is slow.
#[derive(Default)]
struct DriverReports {
    last: Option<tokio::task::JoinHandle<()>>,
}

impl DriverReports {
    fn report(&mut self, service: &ExecutorServiceImpl, ping: &v1::ExecutorPing) {
        let busy = self.last.as_ref().is_some_and(|last| !last.is_finished());
        if busy || ping.drivers.is_empty() {
            return;
        }
        let (runs, executor_id, drivers) = (service.runs.clone(), ping.executor_id.clone(), ping.drivers.clone());
        self.last = Some(service.tasks.spawn(async move { runs.executor_pinged(&executor_id, &drivers).await }));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
