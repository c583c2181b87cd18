//! One task: units in, data files and reports out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::{Count, Time};
use futures::StreamExt;

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::{DataFileWriter, StoreRegistry};

use super::batches::BatchLineage;
use super::feed::{Fed, Feed};
use super::report::{ConsumedUnit, NewerSchema, TaskReport, WrittenFile};
use super::spec::{IngestSpec, OnError, Tombstones, TopicSink};
use super::units::from_batch;
use crate::batch::Unit;
use crate::decode::{Decoder, RecordChunk, Reject, RejectCode};
use crate::err;
use crate::kafka::RangeStats;
use crate::registry::SchemaRegistry;
use crate::topics::{bronze_schema, dead_letters_schema};

/// The operator's figures.
pub(super) struct TaskMetrics {
    pub(super) records: Count,
    pub(super) bytes: Count,
    pub(super) rejected: Count,
    pub(super) files: Count,
    pub(super) decode: Time,
    pub(super) write: Time,
}

/// Runs one task to its end. On failure the files written so far are deleted.
pub(super) async fn run(
    spec: Arc<IngestSpec>,
    store: Arc<StoreRegistry>,
    input: SendableRecordBatchStream,
    metrics: TaskMetrics,
) -> Result<TaskReport> {
    let units = collect_units(input).await?;
    let mut task = Task::new(spec, store, metrics)?;
    let outcome = task.consume(units).await;
    match outcome {
        Ok(consumed) => task.finish(consumed).await,
        Err(error) => {
            let newer = task.newer.take();
            task.abort().await;
            match newer {
                Some(newer) => Ok(TaskReport::behind(newer)),
                None => Err(error),
            }
        }
    }
}

async fn collect_units(mut input: SendableRecordBatchStream) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    while let Some(batch) = input.next().await {
        units.extend(from_batch(&batch.map_err(Error::from_datafusion)?)?);
    }
    Ok(units)
}

/// A topic as this task writes it.
struct TopicWriter {
    decoder: Decoder,
    schema: SchemaRef,
    event_time: Option<usize>,
    tombstones: Tombstones,
    writer: DataFileWriter,
}

impl TopicWriter {
    fn new(sink: &TopicSink, registry: Option<Arc<SchemaRegistry>>, store: &Arc<StoreRegistry>) -> Result<Self> {
        Ok(Self {
            decoder: Decoder::new(sink.format, &sink.schema, registry, sink.evolve)?,
            schema: bronze_schema(&sink.schema),
            event_time: sink.event_time.as_ref().and_then(|name| sink.schema.index_of(name)),
            tombstones: sink.tombstones,
            writer: DataFileWriter::new(sink.write.clone(), Arc::clone(store))?,
        })
    }
}

struct Task {
    spec: Arc<IngestSpec>,
    store: Arc<StoreRegistry>,
    registry: Option<Arc<SchemaRegistry>>,
    lineage: BatchLineage,
    topics: HashMap<String, TopicWriter>,
    dead_letters: Option<DataFileWriter>,
    dead_letters_schema: SchemaRef,
    metrics: TaskMetrics,
    /// Why the task ends early, if it is a writer's schema.
    newer: Option<NewerSchema>,
}

impl Task {
    fn new(spec: Arc<IngestSpec>, store: Arc<StoreRegistry>, metrics: TaskMetrics) -> Result<Self> {
        let registry = match &spec.registry {
            Some(options) => Some(crate::registry::shared(options)?),
            None => None,
        };
        Ok(Self {
            lineage: BatchLineage::new(&spec),
            spec,
            store,
            registry,
            topics: HashMap::new(),
            dead_letters: None,
            dead_letters_schema: dead_letters_schema(),
            metrics,
            newer: None,
        })
    }

    async fn consume(&mut self, units: Vec<Unit>) -> Result<Vec<ConsumedUnit>> {
        let mut consumed: Vec<Tally> = units.iter().map(|_| Tally::default()).collect();
        let mut reports = Vec::with_capacity(units.len());
        let mut feed = Feed::start(self.spec.kafka.clone(), units.clone());
        while let Some(fed) = feed.next().await {
            match fed {
                Fed::Chunk(position, chunk) => {
                    let Some((unit, tally)) = units.get(position).zip(consumed.get_mut(position)) else {
                        return Err(err::internal("the reader fed a chunk of a unit that nobody asked for"));
                    };
                    let settled = self.spec.settled.get(&unit.topic).and_then(|partitions| partitions.get(&unit.partition));
                    let rest = settled.map(|offsets| chunk.without(offsets));
                    tally.settled += rest.as_ref().map_or(0, |rest| (chunk.len() - rest.len()) as u64);
                    self.chunk(unit, rest.as_ref().unwrap_or(&chunk), tally).await?;
                }
                Fed::Done(position, stats) => {
                    let Some((unit, tally)) = units.get(position).zip(consumed.get_mut(position)) else {
                        return Err(err::internal("the reader ended a unit that nobody asked for"));
                    };
                    reports.push(std::mem::take(tally).into_report(unit.clone(), stats)?);
                }
                Fed::Failed(error) => return Err(error),
            }
        }
        if reports.len() != units.len() {
            return Err(err::internal(format!("the reader ended after {} of {} units", reports.len(), units.len())));
        }
        Ok(reports)
    }

    async fn chunk(&mut self, unit: &Unit, chunk: &RecordChunk, tally: &mut Tally) -> Result<()> {
        let topic = self.topic_writer(&unit.topic)?;
        let timer = self.metrics.decode.timer();
        let Some(topic) = self.topics.get_mut(&topic) else {
            return Err(err::internal(format!("no writer for topic '{}'", unit.topic)));
        };
        let mut decoded = topic.decoder.decode(chunk).await?;
        if let Some(schema_id) = decoded.newer_schema {
            self.newer = Some(NewerSchema { topic: unit.topic.clone(), schema_id });
            return Err(err::internal("a writer's schema is newer than the table"));
        }
        let batch = self.lineage.accepted(&topic.schema, unit, chunk, &decoded)?;
        drop(timer);

        self.metrics.records.add(chunk.len());
        self.metrics.bytes.add(chunk.bytes());
        let timer = self.metrics.write.timer();
        if let Some(batch) = batch {
            if let Some(column) = topic.event_time {
                tally.observe(&batch, column);
            }
            tally.accepted += batch.num_rows() as u64;
            topic.writer.write(&batch).await?;
        }
        let tombstones = topic.tombstones;
        tally.sort_out(&mut decoded.rejected, tombstones, self.spec.on_error);
        if let Some(first) = decoded.rejected.first() {
            if self.spec.on_error == OnError::Fail {
                return Err(refuse(unit, chunk, first));
            }
            self.metrics.rejected.add(decoded.rejected.len());
            let batch = self.lineage.rejected(&self.dead_letters_schema, unit, chunk, &decoded.rejected)?;
            let writer = match &mut self.dead_letters {
                Some(writer) => writer,
                None => self.dead_letters.insert(DataFileWriter::new(self.spec.dead_letters.clone(), Arc::clone(&self.store))?),
            };
            writer.write(&batch).await?;
        }
        drop(timer);
        Ok(())
    }

    /// Makes the topic's writer ready; gives its key.
    fn topic_writer(&mut self, topic: &str) -> Result<String> {
        if !self.topics.contains_key(topic) {
            let sink = self
                .spec
                .topics
                .iter()
                .find(|sink| sink.topic == topic)
                .ok_or_else(|| err::internal(format!("a unit of topic '{topic}', which the batch does not know")))?;
            self.topics.insert(topic.to_owned(), TopicWriter::new(sink, self.registry.clone(), &self.store)?);
        }
        Ok(topic.to_owned())
    }

    async fn finish(self, consumed: Vec<ConsumedUnit>) -> Result<TaskReport> {
        let mut report = TaskReport { consumed, ..TaskReport::default() };
        let timer = self.metrics.write.timer();
        for (name, topic) in self.topics {
            let table = self.spec.topics.iter().find(|sink| sink.topic == name).map(|sink| sink.write.table.clone()).unwrap_or_default();
            let files = topic.writer.close().await?;
            report.data.extend(files.into_iter().map(|file| WrittenFile { table: table.clone(), file }));
        }
        if let Some(writer) = self.dead_letters {
            let table = self.spec.dead_letters.table.clone();
            let files = writer.close().await?;
            report.dead_letters.extend(files.into_iter().map(|file| WrittenFile { table: table.clone(), file }));
        }
        drop(timer);
        self.metrics.files.add(report.data.len() + report.dead_letters.len());
        Ok(report)
    }

    async fn abort(self) {
        for topic in self.topics.into_values() {
            topic.writer.abort().await;
        }
        if let Some(writer) = self.dead_letters {
            writer.abort().await;
        }
    }
}

/// The error of a record that stops the stream.
fn refuse(unit: &Unit, chunk: &RecordChunk, reject: &Reject) -> Error {
    err::record_rejected(format!(
        "topic '{}' partition {} offset {}: {}: {} (on-error is fail)",
        unit.topic,
        unit.partition,
        chunk.offsets().get(reject.row as usize).copied().unwrap_or(-1),
        reject.code,
        reject.error
    ))
}

/// A unit's figures while it is read.
#[derive(Default)]
struct Tally {
    accepted: u64,
    rejected: BTreeMap<String, u64>,
    skipped: BTreeMap<String, u64>,
    settled: u64,
    event_time_min_us: Option<i64>,
    event_time_max_us: Option<i64>,
}

impl Tally {
    /// Counts what is no row by its fate, and leaves in `rejected` what is to be kept or to stop the stream.
    fn sort_out(&mut self, rejected: &mut Vec<Reject>, tombstones: Tombstones, on_error: OnError) {
        rejected.retain(|reject| {
            let expected = reject.code == RejectCode::Tombstone && tombstones == Tombstones::Skip;
            let keep = !expected && on_error != OnError::Skip;
            let counts = if keep { &mut self.rejected } else { &mut self.skipped };
            *counts.entry(reject.code.as_str().to_owned()).or_insert(0) += 1;
            keep
        });
    }

    fn observe(&mut self, batch: &RecordBatch, column: usize) {
        let Some(times) = batch.column(column).as_primitive_opt::<TimestampMicrosecondType>() else { return };
        self.event_time_min_us = [self.event_time_min_us, min(times)].into_iter().flatten().min();
        self.event_time_max_us = [self.event_time_max_us, max(times)].into_iter().flatten().max();
    }

    /// The unit's report; every record must have become a row or a dead letter, or been one.
    fn into_report(self, unit: Unit, stats: RangeStats) -> Result<ConsumedUnit> {
        let report = ConsumedUnit {
            unit,
            records: stats.records,
            bytes: stats.bytes,
            accepted: self.accepted,
            rejected: self.rejected,
            skipped: self.skipped,
            settled: self.settled,
            event_time_min_us: self.event_time_min_us,
            event_time_max_us: self.event_time_max_us,
            idle_ms: stats.idle_ms,
        };
        if report.accepted + report.rejected_rows() + report.skipped_rows() + report.settled != report.records {
            return Err(err::internal(format!(
                "topic '{}' partition {}: {} records read, {} accepted, {} rejected, {} skipped, {} settled before",
                report.unit.topic,
                report.unit.partition,
                report.records,
                report.accepted,
                report.rejected_rows(),
                report.skipped_rows(),
                report.settled
            )));
        }
        Ok(report)
    }
}
