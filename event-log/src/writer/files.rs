//! The files behind the writer's task.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::RunLogOptions;
use crate::event::RunEvent;
use crate::reader::whole_frames_len;
use crate::{LogError, LogPaths, LogResult};

/// zstd's default; a log shrinks to about a tenth.
const COMPRESSION_LEVEL: i32 = 3;

struct OpenLog {
    file: File,
    gathered: Vec<u8>,
    used: Instant,
    /// End of the last whole frame; a failed write is cut back to it.
    length: u64,
    progress_written: u64,
    progress_at: Option<Instant>,
    /// The newest progress that was held back; written before the run's end.
    progress_held: Option<RunEvent>,
}

pub(super) struct OpenLogs {
    paths: LogPaths,
    options: RunLogOptions,
    open: HashMap<String, OpenLog>,
}

impl OpenLogs {
    pub(super) fn new(paths: LogPaths, options: RunLogOptions) -> Self {
        Self { paths, options, open: HashMap::new() }
    }

    /// Adds an event. What must not be lost is on disk when this returns; the end of a run closes and renames its log.
    pub(super) async fn append(&mut self, run_id: &str, event: RunEvent) -> LogResult<()> {
        let Some(log) = self.log_of(run_id).await? else {
            // A straggler after the end must not make a second log that nobody would ever finish.
            tracing::debug!(run_id, kind = event.kind(), "event after the end of its run");
            return Ok(());
        };
        let ends = matches!(event, RunEvent::RunEnded(_));
        let keep = event.is_droppable();
        let (interval, events) = (log.1.progress_interval, log.1.progress_events);
        let log = log.0;
        log.used = Instant::now();
        if matches!(event, RunEvent::Progress(_)) {
            if !log.progress_due(interval, events) {
                log.progress_held = Some(event);
                return Ok(());
            }
            log.progress_held = None;
        } else if ends && let Some(held) = log.progress_held.take() {
            gather(&mut log.gathered, &held);
        }
        gather(&mut log.gathered, &event);
        if !keep || log.gathered.len() >= self.options.frame_bytes {
            self.flush(run_id).await?;
        }
        if ends { self.finish(run_id).await } else { Ok(()) }
    }

    pub(super) async fn flush_all(&mut self) {
        let waiting: Vec<String> = self.open.iter().filter(|(_, log)| !log.gathered.is_empty()).map(|(run_id, _)| run_id.clone()).collect();
        for run_id in waiting {
            if let Err(error) = self.flush(&run_id).await {
                tracing::warn!(run_id, %error, "run log not written");
            }
        }
    }

    /// The open log, opened or created when needed; `None` when the run's log is closed for good.
    async fn log_of(&mut self, run_id: &str) -> LogResult<Option<(&mut OpenLog, &RunLogOptions)>> {
        if !self.open.contains_key(run_id) {
            let finished = self.paths.finished_run(run_id)?;
            if tokio::fs::try_exists(&finished).await.unwrap_or(false) {
                return Ok(None);
            }
            if self.open.len() >= self.options.files_open_max.max(1) {
                self.close_oldest().await;
            }
            let log = open(&self.paths.running_run(run_id)?).await?;
            self.open.insert(run_id.to_owned(), log);
        }
        Ok(self.open.get_mut(run_id).map(|log| (log, &self.options)))
    }

    async fn close_oldest(&mut self) {
        let Some(run_id) = self.open.iter().min_by_key(|(_, log)| log.used).map(|(run_id, _)| run_id.clone()) else { return };
        if let Err(error) = self.flush(&run_id).await {
            tracing::warn!(run_id, %error, "run log not written");
        }
        self.open.remove(&run_id);
    }

    async fn flush(&mut self, run_id: &str) -> LogResult<()> {
        let path = self.paths.running_run(run_id)?;
        let limit = self.options.frame_bytes.saturating_mul(16);
        let Some(log) = self.open.get_mut(run_id) else { return Ok(()) };
        if log.gathered.is_empty() {
            return Ok(());
        }
        let frame = zstd::bulk::compress(&log.gathered, COMPRESSION_LEVEL).map_err(LogError::io("compress", &path))?;
        let written = async {
            log.file.write_all(&frame).await?;
            log.file.flush().await
        };
        match written.await {
            Ok(()) => {
                log.length += frame.len() as u64;
                log.gathered.clear();
                Ok(())
            }
            Err(error) => {
                // Half a frame would hide everything after it. The lines are kept for the next try, unless they grow without end.
                let _ = log.file.set_len(log.length).await;
                if log.gathered.len() > limit {
                    log.gathered.clear();
                }
                Err(LogError::io("write", &path)(error))
            }
        }
    }

    async fn finish(&mut self, run_id: &str) -> LogResult<()> {
        let (from, to) = (self.paths.running_run(run_id)?, self.paths.finished_run(run_id)?);
        if let Some(log) = self.open.remove(run_id) {
            log.file.sync_data().await.map_err(LogError::io("sync", &from))?;
        }
        tokio::fs::rename(&from, &to).await.map_err(LogError::io("rename", from))
    }
}

impl OpenLog {
    fn progress_due(&mut self, interval: Duration, events: u64) -> bool {
        let doublings = u32::try_from(self.progress_written / events.max(1)).unwrap_or(u32::MAX).min(16);
        let due = self.progress_at.is_none_or(|at| at.elapsed() >= interval.saturating_mul(1 << doublings));
        if due {
            self.progress_written += 1;
            self.progress_at = Some(Instant::now());
        }
        due
    }
}

/// Opens a log for appending, without the torn frame that a crash may have left at its end.
async fn open(path: &Path) -> LogResult<OpenLog> {
    let length = match tokio::fs::read(path).await {
        Ok(bytes) => whole_frames_len(&bytes) as u64,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(LogError::io("read", path)(error)),
    };
    let file = OpenOptions::new().create(true).append(true).open(path).await.map_err(LogError::io("open", path))?;
    file.set_len(length).await.map_err(LogError::io("truncate", path))?;
    Ok(OpenLog { file, gathered: Vec::new(), used: Instant::now(), length, progress_written: 0, progress_at: None, progress_held: None })
}

fn gather(into: &mut Vec<u8>, event: &RunEvent) {
    let before = into.len();
    let line = event.to_envelope().and_then(|envelope| serde_json::to_writer(&mut *into, &envelope));
    match line {
        Ok(()) => into.push(b'\n'),
        Err(error) => {
            into.truncate(before);
            tracing::warn!(kind = event.kind(), %error, "event cannot be written as JSON");
        }
    }
}
