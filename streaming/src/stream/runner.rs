//! One batch: look, plan, execute, commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use chrono::{DateTime, Utc};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::commit::SchemaEdit;
use chainalytics_lakehouse::exec::QueryExecutor;
use chainalytics_lakehouse::maintenance::auto;
use chainalytics_lakehouse::{Lakehouse, Table, TableIdent, WriteSpec};
use uuid::Uuid;

use super::commit::{BatchCommit, check_complete};
use super::facts::{Facts, Phases};
use super::look::Situation;
use super::progress::StreamingQueryProgress;
use super::spec::{SchemaEvolution, StreamSpec, TopicSubscription};
use crate::batch::{Basis, BatchLimits, BatchPace, BatchPlan, PartitionEnds, Unit, plan_batch, split_units};
use crate::err;
use crate::exec::{IngestSpec, KafkaToIcebergExec, NewerSchema, TaskReport, TopicSink, read_reports, unit_source};
use crate::kafka::{GroupCommitter, KafkaMetadata};

/// Encoded bytes that all writers of one task may buffer together.
const WRITE_BUFFER_BYTES: u64 = 16 * 1024 * 1024;

/// Outcome of one look for work.
pub(super) enum Outcome {
    /// A batch was committed.
    Committed(Box<StreamingQueryProgress>),
    /// There was nothing to do.
    Idle {
        /// Batch that would be next.
        batch_id: i64,
    },
    /// Tables were given columns for newer schemas; the batch is still to come.
    Evolved,
}

/// Runs batches, and remembers from one to the next what needs not be asked again.
pub(super) struct BatchRunner {
    pub(super) lakehouse: Lakehouse,
    pub(super) spec: StreamSpec,
    /// The topics read: those of the spec, then those that its pattern found.
    pub(super) topics: Vec<TopicSubscription>,
    pub(super) kafka: KafkaMetadata,
    group: Option<GroupCommitter>,
    /// Average record of each topic, bytes.
    pub(super) record_bytes: BTreeMap<String, u64>,
    /// Offsets not to pass, by topic; set once for available-now.
    pub(super) ceilings: Option<BTreeMap<String, PartitionEnds>>,
    /// Where fresh topics start; kept, so that "latest" means the query's start until it is committed.
    pub(super) first_offsets: BTreeMap<String, PartitionEnds>,
    /// Topics that the pattern found and that could not be read, since when.
    pub(super) unreadable: BTreeMap<String, Instant>,
    /// Snapshot of the dead-letter table up to which no dead letters were ahead of their tables.
    pub(super) dead_letters_known: Option<i64>,
    /// What tables are to be given for newer schemas of their writers.
    pub(super) pending: BTreeMap<TableIdent, Vec<SchemaEdit>>,
    pace: BatchPace,
    /// Tables that the last batch changed.
    committed: Vec<TableIdent>,
    event_time_max_us: Option<i64>,
    last_start: Option<Instant>,
    /// Whether brokers and catalog have answered once.
    seen_everything: bool,
    /// The consumer group being told of the last batch: one task at most, which ends with the runner.
    telling: JoinSet<()>,
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
            topics: spec.topics.clone(),
            unreadable: BTreeMap::new(),
            pace: BatchPace::new(spec.batch_target),
            committed: Vec::new(),
            dead_letters_known: None,
            pending: BTreeMap::new(),
            event_time_max_us: None,
            spec,
            kafka,
            group,
            record_bytes: BTreeMap::new(),
            ceilings: None,
            first_offsets: BTreeMap::new(),
            last_start: None,
            seen_everything: false,
            telling: JoinSet::new(),
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
        let rows_max = self.pace.rows_max(self.spec.limits.rows_max);
        let limits = BatchLimits { rows_max, ..self.spec.limits };
        let plan = plan_batch(&situation.topics, &limits).map_err(|e| err::plan(&e))?;
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
            Some(physical) => match cancellable(cancel, execute(exec, physical)).await {
                Ok(report) => report,
                Err(error) => {
                    if err::may_pass(&error) {
                        self.pace.failed(plan.len());
                    }
                    return Err(error);
                }
            },
        };
        let paths = report.paths();
        if !report.failures.is_empty() {
            self.lakehouse.store().delete_best_effort(paths).await;
            return self.react(&report, &situation, &plan).await;
        }
        let checked = match check_complete(&groups, &report) {
            Ok(()) => cancellable(cancel, self.check_topics(&plan)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            self.lakehouse.store().delete_best_effort(paths).await;
            return Err(error);
        }
        let took = executing.elapsed();
        phases.end("addBatch", executing);

        let committing = Instant::now();
        let commit = BatchCommit {
            spec: &self.spec,
            topics: &self.topics,
            plan: &plan,
            batch_id: situation.batch_id,
            tables: &situation.tables,
            edits: &situation.edits,
            report: report.clone(),
            ahead: &situation.ahead,
            stored_at_us: DateTime::<Utc>::from(timestamp).timestamp_micros(),
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

        self.committed = outcome.tables.iter().map(|table| table.ident.clone()).collect();
        self.learn(&report, took);
        let since_last = self.last_start.map(|last| started.duration_since(last)).unwrap_or_else(|| started.elapsed());
        self.last_start = Some(started);
        let facts = Facts {
            spec: &self.spec,
            id: query_id(&situation, &self.spec.name),
            situation: &situation,
            plan: &plan,
            report: &report,
            outcome: &outcome,
            timestamp,
            since_last,
            duration: started.elapsed(),
            phases,
            event_time_max_us: self.event_time_max_us,
        };
        Ok(Outcome::Committed(Box::new(facts.into_progress())))
    }

    /// Looks after the tables that the last batch changed, as their properties say (`chainalytics.maintenance.*`):
    /// compaction, joining of manifests, expiry. What fails is left for another time: rows come first.
    pub(super) async fn maintain(&mut self, exec: &dyn QueryExecutor, cancel: &CancellationToken) -> Result<()> {
        for ident in std::mem::take(&mut self.committed) {
            let started = Instant::now();
            let work = auto(&self.lakehouse, exec, &ident);
            match cancellable(cancel, work).await {
                Ok(None) => {}
                Ok(Some(done)) => {
                    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(table = %ident, took_ms, ?done, "the table was looked after between batches");
                }
                Err(error) if err::is_cancelled(&error) => return Err(error),
                Err(error) => tracing::warn!(table = %ident, %error, "the table could not be looked after"),
            }
        }
        Ok(())
    }

    /// What follows from tasks that failed: tables are given the columns that they lack, or the error.
    async fn react(&mut self, report: &TaskReport, situation: &Situation, plan: &BatchPlan) -> Result<Outcome> {
        let mut newer: Vec<NewerSchema> = Vec::new();
        for found in report.failures.iter().filter_map(|failure| failure.newer.as_ref()) {
            if !newer.contains(found) {
                newer.push(found.clone());
            }
        }
        if !newer.is_empty() {
            self.evolve(&newer, situation).await?;
            return Ok(Outcome::Evolved);
        }
        let error = report.failures.first().map_or_else(|| err::internal("a batch failed without a failure"), err::from_task);
        if err::may_pass(&error) {
            self.pace.failed(plan.len());
        }
        Err(error)
    }

    /// Checks that what was read came from the topics that were planned: by name alone the readers would not notice that
    /// one was deleted and made anew meanwhile.
    async fn check_topics(&self, plan: &BatchPlan) -> Result<()> {
        let planned: Vec<_> = plan.topics.iter().filter(|topic| !topic.is_empty() && topic.topic_id.is_some()).collect();
        let names: Vec<String> = planned.iter().map(|topic| topic.topic.clone()).collect();
        let now = self.kafka.topic_ids(&names).await?;
        match planned.iter().find(|topic| now.get(&topic.topic) != topic.topic_id.as_ref()) {
            None => Ok(()),
            Some(topic) => Err(err::stale(format!("topic '{}' was deleted or made anew while it was read", topic.topic))),
        }
    }

    fn physical_plan(&self, situation: &Situation, groups: &[Vec<Unit>], timestamp: SystemTime) -> Result<Arc<dyn ExecutionPlan>> {
        let writers = self.topics.len() as u64 + 1;
        let write_spec = |table: &Table| {
            let mut write = WriteSpec::from_table(table)?;
            write.buffer_bytes_max = write.buffer_bytes_max.min(WRITE_BUFFER_BYTES / writers);
            Ok::<_, Error>(write)
        };
        let mut topics = Vec::with_capacity(self.topics.len());
        for (subscription, schema) in self.topics.iter().zip(&situation.schemas) {
            let table =
                situation.tables.get(&subscription.table).ok_or_else(|| err::internal(format!("table {} was not loaded", subscription.table)))?;
            topics.push(TopicSink {
                topic: subscription.topic.clone(),
                format: subscription.format,
                schema: schema.clone(),
                event_time: subscription.event_time.clone(),
                tombstones: subscription.tombstones,
                evolve: self.spec.evolution == SchemaEvolution::AddColumns,
                write: write_spec(table)?,
            });
        }
        let spec = IngestSpec {
            kafka: self.spec.kafka.clone(),
            registry: self.spec.registry.clone(),
            on_error: self.spec.on_error,
            topics,
            dead_letters: write_spec(&situation.dead_letters)?,
            settled: situation.settled.clone(),
            batch_id: situation.batch_id,
            run_id: self.spec.run_id.clone(),
            ingested_at_us: DateTime::<Utc>::from(timestamp).timestamp_micros(),
        };
        let source = unit_source(groups).map_err(Error::from_datafusion)?;
        Ok(Arc::new(KafkaToIcebergExec::new(source, Arc::new(spec), Arc::clone(self.lakehouse.store()))))
    }

    fn warn_of_loss(&self, plan: &BatchPlan) {
        for topic in &plan.topics {
            if let Basis::Restart(stood) = &topic.basis {
                tracing::error!(
                    topic = topic.topic,
                    known_id = topic.planned_id,
                    found_id = topic.topic_id,
                    stood = ?stood,
                    "the topic was deleted and made anew, or its log was cut off: the table goes on with what is there now \
                     (fail-on-data-loss is off)"
                );
            }
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

    /// Tells the consumer group beside the next batch, which need not wait for the coordinator's answer.
    async fn tell_group(&mut self, plan: &BatchPlan) {
        self.group_told().await;
        if let Some(group) = self.group.clone() {
            let ends = plan.topics.iter().map(|topic| (topic.topic.clone(), topic.ends())).collect();
            self.telling.spawn(async move { group.commit(ends).await });
        }
    }

    /// Waits until the consumer group was told of the last batch, or that was given up.
    pub(super) async fn group_told(&mut self) {
        while self.telling.join_next().await.is_some() {}
    }

    /// Remembers how large the records are, how fast they went, and how late it is by them.
    fn learn(&mut self, report: &TaskReport, took: std::time::Duration) {
        self.pace.observe(report.consumed.iter().map(|consumed| consumed.records).sum(), took);
        let newest = report.consumed.iter().filter_map(|consumed| consumed.event_time_max_us).max();
        self.event_time_max_us = self.event_time_max_us.max(newest);
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
}

/// The query's id: the same for every run of a query of this name into these tables.
fn query_id(situation: &Situation, name: &str) -> Uuid {
    Uuid::new_v5(&situation.dead_letters.uuid(), name.as_bytes())
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
