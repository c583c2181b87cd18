//! One batch: look, plan, execute, commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::exec::QueryExecutor;
use chainalytics_lakehouse::{CommitOutcome, Lakehouse, Table, TableIdent, WriteSpec};

use super::commit::{BatchCommit, check_complete};
use super::load::{last_batch_id, table_progress};
use super::progress::{SinkProgress, SourceProgress, StreamingQueryProgress};
use super::spec::{StartPolicy, StreamSpec};
use crate::batch::{BatchPlan, PartitionEnds, Progress, TopicState, Unit, Watermarks, plan_batch, split_units};
use crate::err;
use crate::exec::{IngestSpec, KafkaToIcebergExec, TaskReport, TopicSink, read_reports, unit_source};
use crate::kafka::{GroupCommitter, KafkaMetadata};

/// Bytes of a record while none has been seen.
const RECORD_BYTES_GUESS: u64 = 512;
/// Encoded bytes that all writers of one task may buffer together.
const WRITE_BUFFER_BYTES: u64 = 64 * 1024 * 1024;

/// Outcome of one look for work.
pub(super) enum Outcome {
    /// A batch was committed.
    Committed(Box<StreamingQueryProgress>),
    /// There was nothing to do.
    Idle {
        /// Batch that would be next.
        batch_id: i64,
    },
}

/// Runs batches, and remembers from one to the next what needs not be asked again.
pub(super) struct BatchRunner {
    lakehouse: Lakehouse,
    spec: StreamSpec,
    kafka: KafkaMetadata,
    group: Option<GroupCommitter>,
    /// Average record of each topic, bytes.
    record_bytes: BTreeMap<String, u64>,
    /// Offsets not to pass, by topic; set once for available-now.
    ceilings: Option<BTreeMap<String, PartitionEnds>>,
    /// Where fresh topics start; kept, so that "latest" means the query's start until it is committed.
    first_offsets: BTreeMap<String, PartitionEnds>,
    last_start: Option<Instant>,
    /// Whether brokers and catalog have answered once.
    seen_everything: bool,
}

/// Where everything stands when a batch is planned.
struct Situation {
    tables: BTreeMap<TableIdent, Table>,
    dead_letters: Table,
    topics: Vec<TopicState>,
    batch_id: i64,
}

impl BatchRunner {
    pub(super) fn new(lakehouse: Lakehouse, spec: StreamSpec) -> Result<Self> {
        spec.check()?;
        let kafka = KafkaMetadata::new(&spec.kafka)?;
        let group = match &spec.consumer_group {
            Some(group) => Some(GroupCommitter::new(&spec.kafka, group)?),
            None => None,
        };
        Ok(Self {
            lakehouse,
            spec,
            kafka,
            group,
            record_bytes: BTreeMap::new(),
            ceilings: None,
            first_offsets: BTreeMap::new(),
            last_start: None,
            seen_everything: false,
        })
    }

    pub(super) fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    /// Whether brokers and catalog have answered once. What was there and is away will come back; what never was there
    /// is a mistake that should be told at once.
    pub(super) fn has_seen_everything(&self) -> bool {
        self.seen_everything
    }

    /// Bounds the query by what is in the log now.
    ///
    /// # Errors
    /// Those of the brokers; a topic that is not there.
    pub(super) async fn bound_by_now(&mut self) -> Result<()> {
        let marks = self.watermarks().await?;
        let ceilings = marks.into_iter().map(|(topic, marks)| {
            (topic, marks.into_iter().map(|(partition, marks)| (partition, marks.high)).collect())
        });
        self.ceilings = Some(ceilings.collect());
        Ok(())
    }

    /// Runs the next batch if there is anything to do. Nothing is visible, and nothing is left behind, if it fails or
    /// is cancelled before its commit begins; once begun the commit is brought to its end.
    pub(super) async fn run(&mut self, exec: &dyn QueryExecutor, cancel: &CancellationToken) -> Result<Outcome> {
        let started = Instant::now();
        let timestamp = SystemTime::now();
        let mut phases = Phases::default();

        let situation = cancellable(cancel, self.look()).await?;
        self.seen_everything = true;
        phases.end("latestOffset", started);

        let planning = Instant::now();
        let plan = plan_batch(&situation.topics, &self.spec.limits).map_err(|e| err::plan(&e))?;
        if !plan.needs_commit() {
            self.last_start = Some(started);
            return Ok(Outcome::Idle { batch_id: situation.batch_id });
        }
        self.warn_of_loss(&plan);
        let groups = split_units(&plan, self.spec.parallelism, self.spec.unit_len_min);
        let physical = match groups.is_empty() {
            true => None,
            false => Some(self.physical_plan(&situation, &groups, timestamp)?),
        };
        phases.end("queryPlanning", planning);

        let executing = Instant::now();
        let report = match physical {
            None => TaskReport::default(),
            Some(physical) => cancellable(cancel, execute(exec, physical)).await?,
        };
        let paths = report.paths();
        if let Some(failure) = report.failures.first() {
            self.lakehouse.store().delete_best_effort(paths).await;
            return Err(err::from_task(failure));
        }
        if let Err(error) = check_complete(&groups, &report) {
            self.lakehouse.store().delete_best_effort(paths).await;
            return Err(error);
        }
        phases.end("addBatch", executing);

        let committing = Instant::now();
        let commit = BatchCommit {
            spec: &self.spec,
            plan: &plan,
            batch_id: situation.batch_id,
            tables: &situation.tables,
            report: report.clone(),
        };
        let outcome = match commit.run(&self.lakehouse).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // Where the outcome is unknown the files may be referenced: orphan removal decides about them later.
                if err::is_certain(&error) {
                    self.lakehouse.store().delete_best_effort(paths).await;
                }
                return Err(error);
            }
        };
        phases.end("commitOffsets", committing);
        self.tell_group(&plan).await;
        phases.end("triggerExecution", started);

        self.learn(&report);
        let since_last = self.last_start.map(|last| started.duration_since(last)).unwrap_or_else(|| started.elapsed());
        self.last_start = Some(started);
        let facts = Facts { situation: &situation, plan: &plan, report: &report, outcome: &outcome };
        Ok(Outcome::Committed(Box::new(self.progress(facts, timestamp, since_last, started.elapsed(), phases))))
    }

    /// Asks tables and brokers.
    async fn look(&mut self) -> Result<Situation> {
        let catalog = self.lakehouse.catalog();
        let mut tables = BTreeMap::new();
        for topic in &self.spec.topics {
            if !tables.contains_key(&topic.table) {
                tables.insert(topic.table.clone(), catalog.load_table(&topic.table).await?);
            }
        }
        let dead_letters = catalog.load_table(&self.spec.dead_letters).await?;
        let batch_id = tables.values().filter_map(last_batch_id).max().map_or(0, |last| last + 1);
        let marks = self.watermarks().await?;

        let mut topics = Vec::with_capacity(self.spec.topics.len());
        for subscription in self.spec.topics.clone() {
            let table = tables
                .get(&subscription.table)
                .ok_or_else(|| err::internal(format!("table {} was not loaded", subscription.table)))?;
            let progress = table_progress(table, &subscription.topic)?;
            let watermarks = marks.get(&subscription.topic).cloned().unwrap_or_default();
            let first_offsets = match progress {
                Progress::At(_) => PartitionEnds::new(),
                Progress::Fresh => self.first_offsets(&subscription.topic, &watermarks).await?,
            };
            topics.push(TopicState {
                first_offsets,
                progress,
                watermarks,
                ceilings: self.ceilings.as_ref().map(|all| all.get(&subscription.topic).cloned().unwrap_or_default()),
                record_bytes_avg: self.record_bytes.get(&subscription.topic).copied().unwrap_or(RECORD_BYTES_GUESS),
                topic: subscription.topic,
            });
        }
        Ok(Situation { tables, dead_letters, topics, batch_id })
    }

    async fn watermarks(&self) -> Result<BTreeMap<String, BTreeMap<i32, Watermarks>>> {
        let names: Vec<String> = self.spec.topics.iter().map(|topic| topic.topic.clone()).collect();
        let partitions = self.kafka.partitions(&names).await?;
        let mut marks = BTreeMap::new();
        for (topic, partitions) in partitions {
            let of_topic = self.kafka.watermarks(&topic, &partitions).await?;
            marks.insert(topic, of_topic);
        }
        Ok(marks)
    }

    async fn first_offsets(&mut self, topic: &str, marks: &BTreeMap<i32, Watermarks>) -> Result<PartitionEnds> {
        if let Some(known) = self.first_offsets.get(topic) {
            return Ok(known.clone());
        }
        let offsets = match self.spec.start {
            StartPolicy::Earliest => {
                return Ok(marks.iter().map(|(partition, marks)| (*partition, marks.low)).collect());
            }
            StartPolicy::Latest => marks.iter().map(|(partition, marks)| (*partition, marks.high)).collect(),
            StartPolicy::Timestamp(at_ms) => self.kafka.offsets_at(topic, marks, at_ms).await?,
        };
        self.first_offsets.insert(topic.to_owned(), PartitionEnds::clone(&offsets));
        Ok(offsets)
    }

    fn physical_plan(
        &self,
        situation: &Situation,
        groups: &[Vec<Unit>],
        timestamp: SystemTime,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let writers = self.spec.topics.len() as u64 + 1;
        let write_spec = |table: &Table| {
            let mut write = WriteSpec::from_table(table)?;
            write.buffer_bytes_max = write.buffer_bytes_max.min(WRITE_BUFFER_BYTES / writers);
            Ok::<_, Error>(write)
        };
        let mut topics = Vec::with_capacity(self.spec.topics.len());
        for subscription in &self.spec.topics {
            let table = situation
                .tables
                .get(&subscription.table)
                .ok_or_else(|| err::internal(format!("table {} was not loaded", subscription.table)))?;
            topics.push(TopicSink {
                topic: subscription.topic.clone(),
                format: subscription.format,
                schema: subscription.schema.clone(),
                event_time: subscription.event_time.clone(),
                write: write_spec(table)?,
            });
        }
        let spec = IngestSpec {
            kafka: self.spec.kafka.clone(),
            registry: self.spec.registry.clone(),
            topics,
            dead_letters: write_spec(&situation.dead_letters)?,
            batch_id: situation.batch_id,
            run_id: self.spec.run_id.clone(),
            ingested_at_us: DateTime::<Utc>::from(timestamp).timestamp_micros(),
        };
        let source = unit_source(groups).map_err(Error::from_datafusion)?;
        Ok(Arc::new(KafkaToIcebergExec::new(source, Arc::new(spec), Arc::clone(self.lakehouse.store()))))
    }

    fn warn_of_loss(&self, plan: &BatchPlan) {
        for topic in &plan.topics {
            for (partition, lost) in &topic.lost {
                tracing::error!(
                    topic = topic.topic,
                    partition,
                    from = lost.start,
                    to = lost.end,
                    "records were removed by the broker's retention before they were read (fail-on-data-loss is off)"
                );
            }
        }
    }

    async fn tell_group(&self, plan: &BatchPlan) {
        if let Some(group) = &self.group {
            group.commit(plan.topics.iter().map(|topic| (topic.topic.clone(), topic.ends())).collect()).await;
        }
    }

    /// Remembers how large the records are.
    fn learn(&mut self, report: &TaskReport) {
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for consumed in &report.consumed {
            let sum = sums.entry(&consumed.unit.topic).or_default();
            sum.0 += consumed.bytes;
            sum.1 += consumed.records;
        }
        for (topic, (bytes, records)) in sums {
            if records > 0 {
                self.record_bytes.insert(topic.to_owned(), bytes.div_ceil(records).max(1));
            }
        }
    }

    fn progress(
        &self,
        facts: Facts<'_>,
        timestamp: SystemTime,
        since_last: std::time::Duration,
        duration: std::time::Duration,
        phases: Phases,
    ) -> StreamingQueryProgress {
        let Facts { situation, plan, report, outcome } = facts;
        let rows: u64 = report.consumed.iter().map(|consumed| consumed.records).sum();
        let times = |us: Option<i64>| us.and_then(DateTime::from_timestamp_micros).map(rfc3339);
        let event_time = [
            ("min", times(report.consumed.iter().filter_map(|consumed| consumed.event_time_min_us).min())),
            ("max", times(report.consumed.iter().filter_map(|consumed| consumed.event_time_max_us).max())),
        ];
        StreamingQueryProgress {
            name: self.spec.name.clone(),
            run_id: self.spec.run_id.clone(),
            batch_id: situation.batch_id,
            timestamp: rfc3339(DateTime::<Utc>::from(timestamp)),
            num_input_rows: rows,
            input_rows_per_second: per_second(rows, since_last),
            processed_rows_per_second: per_second(rows, duration),
            duration_ms: phases.0,
            event_time: event_time.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?))).collect(),
            sources: sources(situation, plan, report),
            sink: self.sink(report, outcome),
        }
    }

    fn sink(&self, report: &TaskReport, outcome: &CommitOutcome) -> SinkProgress {
        let mut dead_letters: BTreeMap<String, u64> = BTreeMap::new();
        for (code, count) in report.consumed.iter().flat_map(|consumed| &consumed.rejected) {
            *dead_letters.entry(code.clone()).or_insert(0) += count;
        }
        let tables: Vec<String> = outcome.tables.iter().map(|table| table.ident.name().to_owned()).collect();
        SinkProgress {
            description: format!("Iceberg[{}]", tables.join(", ")),
            num_output_rows: report.consumed.iter().map(|consumed| consumed.accepted).sum(),
            num_dead_letter_rows: dead_letters.values().sum(),
            dead_letters,
            num_output_files: (report.data.len() + report.dead_letters.len()) as u64,
            num_output_bytes: report
                .data
                .iter()
                .chain(&report.dead_letters)
                .map(|written| written.file.file_size_bytes)
                .sum(),
            snapshot_ids: outcome
                .tables
                .iter()
                .filter_map(|table| Some((table.ident.to_string(), table.snapshot_id?)))
                .collect(),
        }
    }
}

/// What a batch's progress is made of.
struct Facts<'a> {
    situation: &'a Situation,
    plan: &'a BatchPlan,
    report: &'a TaskReport,
    outcome: &'a CommitOutcome,
}

fn sources(situation: &Situation, plan: &BatchPlan, report: &TaskReport) -> Vec<SourceProgress> {
    plan.topics
        .iter()
        .zip(&situation.topics)
        .map(|(plan, state)| {
            let consumed = report.consumed.iter().filter(|consumed| consumed.unit.topic == plan.topic);
            let (rows, bytes) =
                consumed.fold((0, 0), |sum, consumed| (sum.0 + consumed.records, sum.1 + consumed.bytes));
            SourceProgress {
                description: format!("KafkaV2[{}]", plan.topic),
                topic: plan.topic.clone(),
                start_offset: plan.commit.iter().map(|(partition, range)| (*partition, range.start)).collect(),
                end_offset: plan.ends(),
                latest_offset: state.watermarks.iter().map(|(partition, marks)| (*partition, marks.high)).collect(),
                lag: plan.lag.clone(),
                offsets_behind_latest: plan.lag.values().sum(),
                num_input_rows: rows,
                num_input_bytes: bytes,
                lost_offsets: plan.lost.values().map(crate::batch::OffsetRange::len).sum(),
            }
        })
        .collect()
}

/// Runs a batch's plan and reads its reports.
async fn execute(exec: &dyn QueryExecutor, plan: Arc<dyn ExecutionPlan>) -> Result<TaskReport> {
    let rows = exec.execute_physical(plan).await?;
    let batches: Vec<_> = rows.try_collect().await.map_err(Error::from_datafusion)?;
    read_reports(&batches)
}

/// The work's result, or `Cancelled` as soon as the token says so.
pub(super) async fn cancellable<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(err::cancelled("the stream was stopped")),
        outcome = work => outcome,
    }
}

/// Milliseconds by phase.
#[derive(Default)]
struct Phases(BTreeMap<String, u64>);

impl Phases {
    fn end(&mut self, phase: &str, since: Instant) {
        self.0.insert(phase.to_owned(), u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
}

fn per_second(rows: u64, duration: std::time::Duration) -> f64 {
    rows as f64 / duration.as_secs_f64().max(0.001)
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
