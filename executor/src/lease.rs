//! The lease: one stream to the scheduler by which it knows, within about a second, that this executor lives, and by which it gives commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_proto::v1::executor_service_client::ExecutorServiceClient;
use chainalytics_proto::v1::{Command, ExecutorPing, SchedulerPing};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const FIRST_PING_INTERVAL: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Without a word from the scheduler for this long the stream counts as broken, whatever TCP thinks.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the scheduler wants from this executor.
#[derive(Debug)]
pub(crate) enum LeaseEvent {
    /// The executor id is burnt: start again under a new one.
    Stale,
    Command(Command),
}

/// Tells the present state of the executor.
pub(crate) type PingSource = Arc<dyn Fn() -> ExecutorPing + Send + Sync>;

/// An owned lease task; dropping it without [`Lease::leave`] breaks the stream, which the scheduler takes as a loss.
pub(crate) struct Lease {
    pub(crate) events: mpsc::Receiver<LeaseEvent>,
    leave: CancellationToken,
    task: JoinHandle<()>,
}

impl Lease {
    /// Opens the lease and keeps it open, over any number of broken connections and scheduler restarts.
    pub(crate) fn open(endpoint: Endpoint, ping: PingSource) -> Self {
        let (sender, events) = mpsc::channel(64);
        let leave = CancellationToken::new();
        let task = tokio::spawn(keep(endpoint, ping, sender, leave.clone()));
        Self { events, leave, task }
    }

    /// Ends the lease in order: a last ping says that this executor leaves.
    pub(crate) async fn leave(mut self) {
        self.leave.cancel();
        if tokio::time::timeout(LEAVE_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// Ends the lease without a word.
    pub(crate) fn abandon(self) {
        self.task.abort();
    }
}

/// An endpoint for our own services, which notices a dead peer by HTTP/2 pings.
///
/// # Errors
/// [`ErrorCode::Config`] if the URL cannot be used.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(|e| Error::new(ErrorCode::Config, format!("scheduler URL {url:?}: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}

enum Ended {
    Left,
    Stale,
    Broken(String),
}

async fn keep(endpoint: Endpoint, ping: PingSource, events: mpsc::Sender<LeaseEvent>, leave: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let opened = Instant::now();
        match one_stream(&endpoint, &ping, &events, &leave).await {
            Ended::Left => return,
            Ended::Stale => {
                let _ = events.send(LeaseEvent::Stale).await;
                return;
            }
            Ended::Broken(reason) => {
                tracing::warn!(reason, "the lease with the scheduler is broken; opening it again");
            }
        }
        if opened.elapsed() > SILENCE_LIMIT {
            backoff = BACKOFF_MIN;
        }
        tokio::select! {
            () = leave.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn one_stream(endpoint: &Endpoint, ping: &PingSource, events: &mpsc::Sender<LeaseEvent>, leave: &CancellationToken) -> Ended {
    let (pings, mut answers) = match open_stream(endpoint, ping).await {
        Ok(stream) => stream,
        Err(reason) => return Ended::Broken(reason),
    };
    tracing::info!("lease with the scheduler is open");
    let mut interval = FIRST_PING_INTERVAL;
    let mut heard = Instant::now();
    let mut next_ping = tokio::time::Instant::now() + interval;
    loop {
        tokio::select! {
            () = leave.cancelled() => {
                let mut last = ping();
                last.leaving = true;
                let _ = pings.send(last).await;
                drop(pings);
                // The scheduler closes its side when it took note.
                while let Ok(Some(_)) = answers.message().await {}
                return Ended::Left;
            }
            () = tokio::time::sleep_until(next_ping) => {
                if heard.elapsed() > SILENCE_LIMIT {
                    return Ended::Broken(format!("no answer for {:?}", heard.elapsed()));
                }
                if pings.try_send(ping()).is_err() {
                    return Ended::Broken("pings are not taken".to_owned());
                }
                next_ping = tokio::time::Instant::now() + interval;
            }
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    heard = Instant::now();
                    if answer.ping_interval_ms > 0 {
                        interval = Duration::from_millis(answer.ping_interval_ms);
                    }
                    if let Some(ended) = take(answer, events).await {
                        return ended;
                    }
                }
                Ok(None) => return Ended::Broken("the scheduler closed the stream".to_owned()),
                Err(status) => return Ended::Broken(status.to_string()),
            }
        }
    }
}

async fn open_stream(endpoint: &Endpoint, ping: &PingSource) -> std::result::Result<(mpsc::Sender<ExecutorPing>, Streaming<SchedulerPing>), String> {
    let channel: Channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    let (pings, receiver) = mpsc::channel(4);
    pings.try_send(ping()).map_err(|e| e.to_string())?;
    let answers = tokio::time::timeout(SILENCE_LIMIT, ExecutorServiceClient::new(channel).lease(ReceiverStream::new(receiver)))
        .await
        .map_err(|_| "the scheduler did not answer".to_owned())?
        .map_err(|status| status.to_string())?;
    Ok((pings, answers.into_inner()))
}

async fn take(answer: SchedulerPing, events: &mpsc::Sender<LeaseEvent>) -> Option<Ended> {
    if answer.stale {
        return Some(Ended::Stale);
    }
    for command in answer.commands {
        if events.send(LeaseEvent::Command(command)).await.is_err() {
            return Some(Ended::Left);
        }
    }
    None
}
