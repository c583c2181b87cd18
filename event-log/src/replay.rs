//! Events to the REST body of a run; pure.

use std::collections::{BTreeMap, VecDeque};

use chainalytics_api_types::{QueryState, QuerySummary, RunDetail, RunState, RunSummary, StreamingBatch};

use crate::event::{QueryEnded, QueryRegistered, RunEvent};

/// Most queries and micro-batches that a replayed run holds; the newest are kept, all are counted.
pub const QUERIES_MAX: usize = 2_000;
pub const BATCHES_MAX: usize = 1_000;

/// A run as its log tells it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunReplay {
    pub detail: RunDetail,
    /// Statement of each query in `detail.queries`, by job id.
    pub statements: BTreeMap<String, String>,
    /// The log has its end. Otherwise `detail.summary.state` is `Incomplete`.
    pub complete: bool,
    /// Lines that could not be understood (of a newer writer, or damaged).
    pub skipped_lines: u64,
}

/// Folds events in the order in which they were written.
#[derive(Debug, Default)]
pub struct Replayer {
    summary: RunSummary,
    detail: RunDetail,
    queries: VecDeque<QuerySummary>,
    queries_total: u64,
    statements: BTreeMap<String, String>,
    batches: VecDeque<StreamingBatch>,
    complete: bool,
    skipped_lines: u64,
}

impl Replayer {
    pub fn skip_line(&mut self) {
        self.skipped_lines += 1;
    }

    pub fn apply(&mut self, event: RunEvent) {
        match event {
            RunEvent::RunSubmitted(submitted) => {
                self.summary.run_id = submitted.run_id;
                self.summary.name = submitted.name;
                self.summary.job = submitted.job;
                self.summary.user = submitted.user;
                self.summary.deploy_mode = submitted.deploy_mode;
                self.summary.state = RunState::Submitted;
                self.summary.submitted_at_ms = submitted.at_ms;
                self.detail.args = submitted.args;
                self.detail.conf = submitted.conf;
                self.detail.supervise = submitted.supervise;
                self.detail.priority = submitted.priority;
            }
            RunEvent::RunStarted(started) => {
                self.summary.state = RunState::Running;
                self.summary.attempt = self.summary.attempt.max(started.attempt);
                self.summary.started_at_ms = self.summary.started_at_ms.or(Some(started.at_ms));
                self.detail.driver_location = started.driver_location.or(self.detail.driver_location.take());
            }
            RunEvent::QueryRegistered(query) => self.query_registered(query),
            RunEvent::QueryEnded(query) => self.query_ended(query),
            RunEvent::Progress(progress) => self.summary.progress = Some(progress),
            RunEvent::StreamingBatch(batch) => {
                if self.batches.len() == BATCHES_MAX {
                    self.batches.pop_front();
                }
                self.batches.push_back(batch);
            }
            RunEvent::ExecutorLost(lost) => {
                if !self.detail.lost_executors.contains(&lost.executor_id) {
                    self.detail.lost_executors.push(lost.executor_id);
                }
            }
            RunEvent::KillRequested(_) => self.detail.kill_requested = true,
            RunEvent::RunEnded(ended) => {
                self.summary.state = ended.state;
                self.summary.ended_at_ms = Some(ended.at_ms);
                self.summary.error = ended.error;
                self.detail.report = ended.report;
                self.complete = true;
            }
        }
    }

    pub fn finish(mut self) -> RunReplay {
        if !self.complete {
            self.summary.state = RunState::Incomplete;
        }
        self.summary.queries_total = self.queries_total;
        // A query may have been written before the submission of its run: they come from different tasks of the scheduler.
        for query in &mut self.queries {
            query.run_id = Some(self.summary.run_id.clone());
        }
        self.detail.summary = self.summary;
        self.detail.queries = self.queries.into();
        self.detail.streaming = self.batches.into();
        RunReplay { detail: self.detail, statements: self.statements, complete: self.complete, skipped_lines: self.skipped_lines }
    }

    fn query_registered(&mut self, query: QueryRegistered) {
        // A driver that reconnects registers again; the first time counts.
        if self.queries.iter().rev().any(|known| known.job_id == query.job_id) {
            return;
        }
        self.queries_total += 1;
        if self.queries.len() == QUERIES_MAX
            && let Some(oldest) = self.queries.pop_front()
        {
            self.statements.remove(&oldest.job_id);
        }
        self.statements.insert(query.job_id.clone(), query.statement);
        self.queries.push_back(QuerySummary {
            job_id: query.job_id,
            label: query.label,
            state: QueryState::Running,
            attempt: query.attempt,
            submitted_at_ms: Some(query.at_ms),
            ..QuerySummary::default()
        });
    }

    fn query_ended(&mut self, ended: QueryEnded) {
        let Some(query) = self.queries.iter_mut().rev().find(|query| query.job_id == ended.job_id) else { return };
        query.state = ended.state;
        query.validity = ended.validity;
        query.validity_reason = ended.validity_reason;
        query.started_at_ms = ended.started_at_ms.or(query.submitted_at_ms);
        query.ended_at_ms = Some(ended.ended_at_ms);
        query.output_rows = ended.output_rows;
        query.stages_total = ended.stages_total;
        query.stages_done = ended.stages_done;
        query.error = ended.error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{RunStarted, RunSubmitted};

    #[test]
    fn a_run_without_an_end_is_incomplete() {
        let mut replayer = Replayer::default();
        replayer.apply(RunEvent::RunSubmitted(RunSubmitted { run_id: "r".into(), ..RunSubmitted::default() }));
        replayer.apply(RunEvent::RunStarted(RunStarted { attempt: 1, at_ms: 5, driver_location: None }));
        let replay = replayer.finish();
        assert!(!replay.complete);
        assert_eq!(replay.detail.summary.state, RunState::Incomplete);
        assert_eq!(replay.detail.summary.started_at_ms, Some(5));
    }

    #[test]
    fn a_long_stream_keeps_the_newest_and_counts_all() {
        let mut replayer = Replayer::default();
        for n in 0..(QUERIES_MAX + 10) {
            replayer.apply(RunEvent::QueryRegistered(QueryRegistered { job_id: format!("j{n}"), ..QueryRegistered::default() }));
            replayer.apply(RunEvent::StreamingBatch(StreamingBatch { batch: n as u64, ..StreamingBatch::default() }));
        }
        let replay = replayer.finish();
        assert_eq!(replay.detail.summary.queries_total, QUERIES_MAX as u64 + 10);
        assert_eq!((replay.detail.queries.len(), replay.statements.len()), (QUERIES_MAX, QUERIES_MAX));
        assert_eq!(replay.detail.streaming.last().map(|batch| batch.batch), Some(QUERIES_MAX as u64 + 9));
        assert_eq!(replay.detail.streaming.len(), BATCHES_MAX);
    }
}
