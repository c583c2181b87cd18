//! What jobs with state over growing tables have in common: the loop of batches, watermarks of their inputs, and what they tell of a batch.

mod input;
mod progress;
mod tables;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chainalytics_common::{ErrorCode, Result};
use chainalytics_lakehouse::maintenance::auto;
use chainalytics_proto::v1::Progress;
use chainalytics_streaming::stream::{SourceProgress, StateOperatorProgress, StreamingQueryProgress, Trigger};
use futures::future::BoxFuture;

use crate::JobContext;

pub(crate) use input::{Input, InputState, News, Partitions, micros, partition_times};
pub(crate) use progress::{check_state, expire, read_property, row_count, same_definition, snapshots, state_table, timestamp, to_property};
pub(crate) use tables::{column, columns_of, ensure, quoted};

/// Another run may take the position first this often in a row; then it is said that two runs share a query.
const CONFLICTS_MAX: u32 = 3;

/// What a batch did.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Batch {
    /// Rows that were new.
    pub rows: u64,
    /// Of them dropped because the watermark had passed them.
    pub dropped: u64,
    /// Of them dropped as repeats.
    pub duplicates: u64,
    /// Rows written as results.
    pub output: u64,
    /// Rows or windows of state after it.
    pub state: u64,
    /// Rows of state that are new or changed, and that went.
    pub state_updated: u64,
    pub state_removed: u64,
    /// Watermark after it, microseconds since the epoch.
    pub watermark: Option<i64>,
    pub batch_id: i64,
    /// Snapshot of each table that it changed.
    pub snapshots: BTreeMap<String, i64>,
}

impl Batch {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.dropped += other.dropped;
        self.duplicates += other.duplicates;
        self.output += other.output;
        self.state = other.state;
        self.watermark = other.watermark;
    }

    /// The watermark as text.
    pub(crate) fn watermark_text(&self) -> Option<String> {
        self.watermark.and_then(chrono::DateTime::from_timestamp_micros).map(|at| at.to_rfc3339())
    }
}

/// A query over tables that grow, batch after batch. Its future is written out, as that of [`Job`](crate::Job) is.
pub(crate) trait Stateful: Send + Sync {
    /// Name of the query.
    fn name(&self) -> &str;

    /// The state's operator, by Spark's name.
    fn operator(&self) -> &'static str;

    /// Tables that it reads.
    fn sources(&self) -> Vec<&str>;

    /// Works on the rows that came since the last commit. No rows, no commit.
    fn batch<'a>(&'a self, context: &'a JobContext) -> BoxFuture<'a, Result<Batch>>;
}

/// Runs batches by the trigger; the sums, and how many batches had rows.
pub(crate) async fn drive(context: &JobContext, trigger: Trigger, query: &dyn Stateful) -> Result<(Batch, u64)> {
    let mut total = Batch::default();
    let (mut batches, mut conflicts) = (0_u64, 0);
    let mut last_start: Option<Instant> = None;
    loop {
        context.check_cancelled()?;
        let (started, timestamp) = (Instant::now(), chrono::Utc::now());
        let progressed = match query.batch(context).await {
            Ok(batch) => {
                conflicts = 0;
                total.add(&batch);
                if batch.rows > 0 {
                    batches += 1;
                    let since_last = last_start.map_or_else(|| started.elapsed(), |last| started.duration_since(last));
                    last_start = Some(started);
                    tidy(context, &batch).await;
                    tell(context, query, &batch, (total.rows, batches), timestamp, (since_last, started.elapsed()));
                }
                batch.rows > 0
            }
            // Nothing was written: the next batch begins where the other run's ended.
            Err(error) if error.code() == ErrorCode::CommitConflict && conflicts < CONFLICTS_MAX => {
                conflicts += 1;
                tracing::warn!(query = query.name(), "another run moved this query: {error}");
                true
            }
            Err(error) => return Err(error),
        };
        match trigger {
            Trigger::Once => break,
            Trigger::AvailableNow if !progressed => break,
            Trigger::AvailableNow => {}
            Trigger::Interval(interval) => {
                let cancelled = context.session().run().cancellation().cancelled();
                if tokio::time::timeout(interval.saturating_sub(started.elapsed()), cancelled).await.is_ok() {
                    break;
                }
            }
        }
    }
    Ok((total, batches))
}

/// Looks after the tables that a batch changed, as their properties say. What fails is left for another time: rows come first.
async fn tidy(context: &JobContext, batch: &Batch) {
    let session = context.session();
    for name in batch.snapshots.keys() {
        let done = match context.table(name) {
            Ok(ident) => auto(session.lakehouse(), session, &ident).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(table = name, %error, "the table could not be looked after");
        }
    }
}

/// Tells the run of a batch, in the form of Spark's progress.
fn tell(
    context: &JobContext,
    query: &dyn Stateful,
    batch: &Batch,
    (rows, batches): (u64, u64),
    timestamp: chrono::DateTime<chrono::Utc>,
    (since_last, took): (Duration, Duration),
) {
    #[allow(clippy::cast_precision_loss)]
    let per_second = |time: Duration| batch.rows as f64 / time.as_secs_f64().max(0.001);
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let mut progress = StreamingQueryProgress {
        run_id: context.session().run().run_id().unwrap_or_default().to_owned(),
        name: query.name().to_owned(),
        timestamp: timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        batch_id: batch.batch_id,
        batch_duration: took_ms,
        num_input_rows: batch.rows,
        input_rows_per_second: per_second(since_last),
        processed_rows_per_second: per_second(took),
        duration_ms: BTreeMap::from([("triggerExecution".to_owned(), took_ms)]),
        event_time: batch.watermark_text().map(|at| ("watermark".to_owned(), at)).into_iter().collect(),
        state_operators: vec![StateOperatorProgress {
            operator_name: query.operator().to_owned(),
            num_rows_total: batch.state,
            num_rows_updated: batch.state_updated,
            num_rows_removed: batch.state_removed,
            num_rows_dropped_by_watermark: batch.dropped,
            custom_metrics: BTreeMap::from([("numDroppedDuplicateRows".to_owned(), batch.duplicates)]),
        }],
        ..StreamingQueryProgress::default()
    };
    progress.id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, query.name().as_bytes()).to_string();
    progress.sources =
        query.sources().into_iter().map(|table| SourceProgress { description: format!("Iceberg[{table}]"), ..SourceProgress::default() }).collect();
    progress.sink.num_output_rows = batch.output;
    progress.sink.snapshot_ids = batch.snapshots.clone();
    let metrics_json = serde_json::to_string(&progress).unwrap_or_default();
    tracing::info!(progress = metrics_json, "streaming query made progress");
    let stage = format!("{}: batch {batches}", query.name());
    context.session().run().progress(Progress { stage, done: 0, total: 0, rows, metrics_json });
}
