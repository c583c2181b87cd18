//! What a batch came to, in the form of Spark's progress.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use chainalytics_lakehouse::CommitOutcome;

use super::look::Situation;
use super::progress::{SinkProgress, SourceProgress, StreamingQueryProgress};
use super::spec::StreamSpec;
use crate::batch::{BatchPlan, PartitionEnds};
use crate::exec::{ConsumedUnit, TaskReport};

/// What a batch's progress is made of.
pub(super) struct Facts<'a> {
    pub(super) spec: &'a StreamSpec,
    pub(super) id: Uuid,
    pub(super) situation: &'a Situation,
    pub(super) plan: &'a BatchPlan,
    pub(super) report: &'a TaskReport,
    pub(super) outcome: &'a CommitOutcome,
    pub(super) timestamp: SystemTime,
    /// Since the batch before began.
    pub(super) since_last: Duration,
    pub(super) duration: Duration,
    pub(super) phases: Phases,
    /// Latest event time of any batch of this run, microseconds.
    pub(super) event_time_max_us: Option<i64>,
}

impl Facts<'_> {
    pub(super) fn into_progress(self) -> StreamingQueryProgress {
        let rows: u64 = self.report.consumed.iter().map(|consumed| consumed.records).sum();
        StreamingQueryProgress {
            id: self.id.to_string(),
            run_id: self.spec.run_id.clone(),
            name: self.spec.name.clone(),
            timestamp: rfc3339(DateTime::<Utc>::from(self.timestamp)),
            batch_id: self.situation.batch_id,
            batch_duration: millis(self.duration),
            num_input_rows: rows,
            input_rows_per_second: per_second(rows, self.since_last),
            processed_rows_per_second: per_second(rows, self.duration),
            event_time: self.event_time(),
            state_operators: Vec::new(),
            sources: self.sources(),
            sink: self.sink(),
            duration_ms: self.phases.0,
        }
    }

    fn event_time(&self) -> BTreeMap<String, String> {
        let consumed = &self.report.consumed;
        let delay_us = i64::try_from(self.spec.watermark_delay.as_micros()).unwrap_or(i64::MAX);
        [
            ("min", consumed.iter().filter_map(|consumed| consumed.event_time_min_us).min()),
            ("max", consumed.iter().filter_map(|consumed| consumed.event_time_max_us).max()),
            ("watermark", self.event_time_max_us.map(|max| max.saturating_sub(delay_us))),
        ]
        .into_iter()
        .filter_map(|(name, us)| Some((name.to_owned(), rfc3339(DateTime::from_timestamp_micros(us?)?))))
        .collect()
    }

    fn sources(&self) -> Vec<SourceProgress> {
        self.plan
            .topics
            .iter()
            .zip(&self.situation.topics)
            .map(|(plan, state)| {
                let consumed: Vec<&ConsumedUnit> = self.report.consumed.iter().filter(|consumed| consumed.unit.topic == plan.topic).collect();
                let rows = consumed.iter().map(|consumed| consumed.records).sum();
                let named = |ends: PartitionEnds| BTreeMap::from([(plan.topic.clone(), ends)]);
                SourceProgress {
                    description: format!("KafkaV2[Subscribe[{}]]", plan.topic),
                    topic: plan.topic.clone(),
                    topic_id: plan.topic_id.clone(),
                    start_offset: named(plan.commit.iter().map(|(partition, range)| (*partition, range.start)).collect()),
                    end_offset: named(plan.ends()),
                    latest_offset: named(state.watermarks.iter().map(|(partition, marks)| (*partition, marks.high)).collect()),
                    metrics: lag_metrics(&plan.lag),
                    lag: plan.lag.clone(),
                    offsets_behind_latest: plan.lag.values().sum(),
                    num_input_rows: rows,
                    input_rows_per_second: per_second(rows, self.since_last),
                    processed_rows_per_second: per_second(rows, self.duration),
                    num_input_bytes: consumed.iter().map(|consumed| consumed.bytes).sum(),
                    hole_offsets: consumed.iter().map(|consumed| consumed.holes()).sum(),
                    lost_offsets: plan.lost.values().map(crate::batch::OffsetRange::len).sum(),
                }
            })
            .collect()
    }

    fn sink(&self) -> SinkProgress {
        let (report, outcome) = (self.report, self.outcome);
        let by_code = |of: fn(&ConsumedUnit) -> &BTreeMap<String, u64>| {
            let mut sums: BTreeMap<String, u64> = BTreeMap::new();
            for (code, count) in report.consumed.iter().flat_map(of) {
                *sums.entry(code.clone()).or_insert(0) += count;
            }
            sums
        };
        let dead_letters = by_code(|consumed| &consumed.rejected);
        let skipped = by_code(|consumed| &consumed.skipped);
        let tables: Vec<String> = outcome.tables.iter().map(|table| table.ident.name().to_owned()).collect();
        let files = || report.data.iter().chain(&report.dead_letters);
        SinkProgress {
            description: format!("Iceberg[{}]", tables.join(", ")),
            num_output_rows: report.consumed.iter().map(|consumed| consumed.accepted).sum(),
            num_dead_letter_rows: dead_letters.values().sum(),
            dead_letters,
            num_skipped_rows: skipped.values().sum(),
            skipped,
            num_output_files: files().count() as u64,
            num_output_bytes: files().map(|written| written.file.file_size_bytes).sum(),
            snapshot_ids: outcome.tables.iter().filter_map(|table| Some((table.ident.to_string(), table.snapshot_id?))).collect(),
        }
    }
}

/// As Spark's Kafka source names them.
fn lag_metrics(lag: &BTreeMap<i32, u64>) -> BTreeMap<String, String> {
    let (Some(min), Some(max)) = (lag.values().min(), lag.values().max()) else { return BTreeMap::new() };
    let average = lag.values().sum::<u64>() as f64 / lag.len() as f64;
    BTreeMap::from([
        ("avgOffsetsBehindLatest".to_owned(), average.to_string()),
        ("maxOffsetsBehindLatest".to_owned(), max.to_string()),
        ("minOffsetsBehindLatest".to_owned(), min.to_string()),
    ])
}

/// Milliseconds by phase.
#[derive(Default)]
pub(super) struct Phases(BTreeMap<String, u64>);

impl Phases {
    pub(super) fn end(&mut self, phase: &str, since: Instant) {
        self.0.insert(phase.to_owned(), millis(since.elapsed()));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn per_second(rows: u64, duration: Duration) -> f64 {
    rows as f64 / duration.as_secs_f64().max(0.001)
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
