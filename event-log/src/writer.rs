//! Appends events to run logs from one background task, so that nobody who reports an event waits for a disk.
//!
//! The queue is bounded: [`RunLogWriter::record`] drops a droppable event when it is full, any other waits for room, but not for ever.
//! Lines are gathered and written as whole zstd frames, at once for what must not be lost, otherwise after a short time or a certain size;
//! a log that is cut off is readable up to its last whole frame.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::event::RunEvent;
use crate::{LogError, LogResult, is_safe_id};

mod files;

use files::OpenLogs;

/// Limits of a writer.
#[derive(Debug, Clone)]
pub struct RunLogOptions {
    /// Events that wait for the disk, over all runs.
    pub queue_events: usize,
    /// Longest time that a gathered line stays in memory.
    pub flush_interval: Duration,
    /// Gathered bytes of one run that are written at once.
    pub frame_bytes: usize,
    /// Least time between two progress events of a run; doubles with every [`RunLogOptions::progress_events`] written.
    pub progress_interval: Duration,
    /// See `progress_interval`.
    pub progress_events: u64,
    /// Longest wait for room in the queue before an event that must not be dropped is refused.
    pub send_timeout: Duration,
    /// Log files held open; the one unused for longest is closed first.
    pub files_open_max: usize,
}

impl Default for RunLogOptions {
    fn default() -> Self {
        Self {
            queue_events: 4_096,
            flush_interval: Duration::from_secs(2),
            frame_bytes: 256 * 1024,
            progress_interval: Duration::from_secs(2),
            progress_events: 200,
            send_timeout: Duration::from_secs(10),
            files_open_max: 128,
        }
    }
}

pub(crate) enum Message {
    Event { run_id: String, event: Box<RunEvent> },
    Flush { done: oneshot::Sender<()> },
}

/// Handle to the writer; clones feed the same task. Ask [`RunLogWriter::shutdown`] for an orderly end.
#[derive(Clone)]
pub struct RunLogWriter {
    sender: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
    send_timeout: Duration,
    stop: CancellationToken,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl RunLogWriter {
    /// Creates `<event_log_dir>/runs` and starts the task. Must be called within a Tokio runtime.
    pub async fn start(event_log_dir: impl Into<PathBuf>, options: RunLogOptions) -> LogResult<Self> {
        let paths = crate::LogPaths::new(event_log_dir);
        let dir = paths.runs_dir();
        tokio::fs::create_dir_all(&dir).await.map_err(LogError::io("create", dir))?;
        let (sender, receiver) = mpsc::channel(options.queue_events.max(1));
        let stop = CancellationToken::new();
        let send_timeout = options.send_timeout;
        let task = tokio::spawn(run(OpenLogs::new(paths, options.clone()), receiver, options.flush_interval, stop.clone()));
        Ok(Self { sender, dropped: Arc::default(), send_timeout, stop, task: Arc::new(Mutex::new(Some(task))) })
    }

    /// Queues an event. A droppable one ([`RunEvent::is_droppable`]) never waits; any other waits for room up to the send time-out.
    /// Errors are for the caller's log only: history never fails a run.
    pub async fn record(&self, run_id: &str, event: RunEvent) -> LogResult<()> {
        if !is_safe_id(run_id) {
            return Err(LogError::InvalidId { id: run_id.chars().take(200).collect() });
        }
        let droppable = event.is_droppable();
        let message = Message::Event { run_id: run_id.to_owned(), event: Box::new(event) };
        if droppable {
            if self.sender.try_send(message).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        self.send(message).await
    }

    /// [`RunLogWriter::record`] that logs its error instead of returning it.
    pub async fn record_or_warn(&self, run_id: &str, event: RunEvent) {
        let kind = event.kind();
        if let Err(error) = self.record(run_id, event).await {
            tracing::warn!(run_id, kind, %error, "event not recorded in the run's log");
        }
    }

    /// Writes everything queued so far to the files.
    pub async fn flush(&self) -> LogResult<()> {
        let (done, wait) = oneshot::channel();
        self.send(Message::Flush { done }).await?;
        match timeout(self.send_timeout, wait).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(LogError::Unavailable { detail: "flush was not confirmed in time" }),
        }
    }

    /// Droppable events that found the queue full.
    pub fn dropped_events(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is queued, closes every file and waits for the task. Logs of runs that go on stay as they are and are continued by the
    /// next writer.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        if let Some(task) = self.task.lock().await.take()
            && timeout(self.send_timeout, task).await.is_err()
        {
            tracing::warn!("the event-log writer did not end in time");
        }
    }

    async fn send(&self, message: Message) -> LogResult<()> {
        match timeout(self.send_timeout, self.sender.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(LogError::Unavailable { detail: "its task has ended" }),
            Err(_) => Err(LogError::Unavailable { detail: "its queue stayed full" }),
        }
    }
}

async fn run(mut logs: OpenLogs, mut receiver: mpsc::Receiver<Message>, flush_interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(flush_interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = receiver.recv() => match message {
                Some(message) => handle(&mut logs, message).await,
                None => break,
            },
            _ = ticks.tick() => logs.flush_all().await,
            () = stop.cancelled() => {
                receiver.close();
                while let Some(message) = receiver.recv().await {
                    handle(&mut logs, message).await;
                }
                break;
            }
        }
    }
    logs.flush_all().await;
}

async fn handle(logs: &mut OpenLogs, message: Message) {
    match message {
        Message::Event { run_id, event } => {
            let kind = event.kind();
            if let Err(error) = logs.append(&run_id, *event).await {
                tracing::warn!(run_id, kind, %error, "event not written to the run's log");
            }
        }
        Message::Flush { done } => {
            logs.flush_all().await;
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
