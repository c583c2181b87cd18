//! `late_data_handler`: how late rows came, how far event time is, what is missing, and which days have to be built anew.
//!
//! Per topic one commit: the copies of user events by lateness, rejected rows, statistics, watermarks, completeness, alerts, requests for
//! reprocessing, and the position that bronze was read up to. Running again finds nothing new and writes nothing.

mod alerts;
mod categories;
mod completeness;
mod queries;
mod tables;

use std::collections::BTreeMap;
use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::sql::load_table;
use chainalytics_streaming::batch::{AbsentOffsets, Progress};
use chainalytics_streaming::stream::{absent_offsets, committed_ranges, table_progress};
use chainalytics_streaming::topics::PLATFORM_TOPICS;
use chainalytics_streaming::window::PartitionTime;
use clap::Parser;
use datafusion::prelude::{col, lit};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use crate::layers::{Layer, layer_of};
use crate::rows::fetch;
use crate::source::{Position, span, text};
use crate::stage::{Keep, Part, commit};
use crate::{Job, JobContext, JobReport, parse, parse_duration, parse_moment};
use alerts::{BatchFigures, alerts};
use completeness::{Covered, HourCount, Known, Stored, by_hour};
use queries::Queries;
use tables::Batch;

/// Judges rows by their delay.
pub(crate) struct LateDataHandler;

#[derive(Debug, Parser)]
#[command(name = "late_data_handler")]
struct Args {
    /// Topics, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = PLATFORM_TOPICS.map(str::to_owned))]
    topics: Vec<String>,
    /// How far a watermark stays behind the newest event
    #[arg(long, default_value = "48h", value_parser = parse_duration)]
    watermark: Duration,
    /// A partition that is silent for longer, while others go on, does not hold back its topic's watermark
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    idle_timeout: Duration,
    /// The time that counts as now in what is written, RFC 3339
    #[arg(long, value_parser = parse_moment)]
    now: Option<i64>,
}

const WATERMARKS: &str = "monitoring_watermarks";

impl Job for LateDataHandler {
    fn name(&self) -> &'static str {
        "late_data_handler"
    }

    fn description(&self) -> &'static str {
        "Lateness of new bronze rows: categories, watermarks, completeness, alerts, rejected rows, days to rebuild (-- --topics a,b)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let now = args.now.unwrap_or_else(crate::now_micros);
            let (mut topics, mut rows) = (Map::new(), 0);
            for (done, topic) in args.topics.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(topic, done, args.topics.len(), rows);
                let layer = layer_of(topic).ok_or_else(|| {
                    Error::new(ErrorCode::TopicNotFound, format!("topic {topic:?} is none of the platform's: {}", PLATFORM_TOPICS.join(", ")))
                })?;
                let handled = handle(&context, &args, layer, topic, now).await?;
                rows += handled.figures.rows;
                topics.insert(topic.clone(), handled.report());
            }
            context.progress("done", args.topics.len(), args.topics.len(), rows);
            Ok(json!({ "rows": rows, "topics": topics }))
        })
    }
}

/// What a topic's batch came to.
#[derive(Debug, Default)]
struct Handled {
    figures: BatchFigures,
    watermark: Option<i64>,
    alerts: usize,
}

impl Handled {
    fn report(&self) -> Value {
        let f = &self.figures;
        json!({
            "rows": f.rows, "on_time": f.on_time, "late": f.rows - f.on_time - f.too_late, "too_late": f.too_late,
            "missing": f.completeness.missing(), "days_requested": f.days_requested, "alerts": self.alerts,
            "watermark": self.watermark.and_then(chrono::DateTime::from_timestamp_micros).map(|t| t.to_rfc3339()),
        })
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Works on the rows of a topic that came since the last time.
async fn handle(context: &JobContext, args: &Args, layer: &Layer, topic: &str, now: i64) -> Result<Handled> {
    let (position_key, batch_key) = (format!("chainalytics.position.{topic}"), format!("chainalytics.batch.{topic}"));
    let state = Part::new(context, WATERMARKS, Keep::AllBut(col("kafka_topic").eq(lit(topic)))).await?;
    let start = Position::of(&state.table, &position_key)?.unwrap_or_default();
    let known = tables::read_watermarks(context, topic).await?;
    // Dead letters first: a stream commits them with or before the rows beside them, so that the bronze table, looked at later, has every row
    // before the last dead letter.
    let dead =
        span(context, &format!("(SELECT * FROM bronze_dead_letters WHERE kafka_topic = {}) AS d", text(topic)), "ingested_at", start.clone()).await?;
    let new = span(context, layer.bronze, layer.time, start.clone()).await?;
    if new.rows == 0 && dead.rows == 0 {
        return Ok(Handled { watermark: known.watermark, ..Handled::default() });
    }
    // Looked at after the rows: what it says it has come to covers them.
    let bronze = load_table(context.session().lakehouse(), &context.table(layer.bronze)?).await?;
    let mut end = new.end.clone();
    match table_progress(&bronze, topic) {
        // Dead letters behind it belong to a batch that is still being committed.
        Ok(Progress::At(ends)) => ends.iter().for_each(|(partition, next)| end.raise(topic, *partition, *next)),
        // Rows that no stream brought.
        _ => dead.end.iter().for_each(|(topic, partition, next)| end.raise(topic, partition, next)),
    }
    let selected = end.since(&start);
    let queries = Queries::new(layer, topic, &selected, &known);
    let statistics = fetch(context.session(), &queries.statistics()).await?;
    let news: BTreeMap<i32, PartitionTime> = (0..statistics.len())
        .filter_map(|row| {
            let time = PartitionTime {
                next_offset: statistics.long(row, "last_offset")? + 1,
                max_event: statistics.micros(row, "max_event")?,
                last_arrival: statistics.micros(row, "last_arrival")?,
            };
            Some((statistics.int(row, "kafka_partition")?, time))
        })
        .collect();
    let watermarks = known.advance(&news, micros(args.watermark), micros(args.idle_timeout));

    let mut stored = stored_rows(context, &queries.stored(layer.bronze), false).await?;
    stored.extend(stored_rows(context, &queries.stored("bronze_dead_letters"), true).await?);
    let first: BTreeMap<i32, i64> = start.0.get(topic).cloned().unwrap_or_default();
    let absent_key = format!("chainalytics.absent.{topic}");
    let known_log = known_log(&bronze, topic, &first, &stored, &AbsentOffsets::from_json(state.table.property(&absent_key)));
    let hours = by_hour(&known_log, &stored);
    let late_days = fetch(context.session(), &queries.days_to_rebuild()).await?;

    let mut figures = BatchFigures { days_requested: late_days.len() as u64, ..BatchFigures::default() };
    let mut delay_sum = 0.0;
    for row in 0..statistics.len() {
        let rows = statistics.count(row, "n");
        figures.rows += rows;
        figures.on_time += statistics.count(row, "on_time");
        figures.too_late += statistics.count(row, "too_late");
        #[allow(clippy::cast_precision_loss)]
        let weight = rows as f64;
        delay_sum += statistics.double(row, "average_delay_s").unwrap_or(0.0) * weight;
        figures.max_delay_s = figures.max_delay_s.max(statistics.double(row, "max_delay_s").unwrap_or(0.0));
    }
    #[allow(clippy::cast_precision_loss)]
    let rows = figures.rows.max(1) as f64;
    figures.average_delay_s = delay_sum / rows;
    figures.idle_partitions = watermarks.partitions.values().filter(|p| p.idle).count() as u64;
    figures.completeness = hours.values().fold(HourCount::default(), |mut sum, hour| {
        sum.add(hour);
        sum
    });
    if dead.rows > 0 {
        figures.incompatible = fetch(context.session(), &queries.incompatible()).await?.count(0, "n");
    }
    let found = alerts(topic, &figures);

    let batch_id = state.table.property(&batch_key).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0) + 1;
    let batch = Batch { context, topic, id: batch_id, now };
    let mut parts = vec![
        state
            .frame(batch.watermarks(&watermarks)?)
            .set(position_key, end.to_json())
            .set(batch_key, batch_id.to_string())
            .set(absent_key, absent_json(&bronze, topic)),
        Part::new(context, "monitoring_late_data_statistics", Keep::All).await?.frame(batch.statistics(&statistics, &first)?),
        batch.completeness(&hours).await?,
    ];
    if !found.is_empty() {
        parts.push(Part::new(context, "late_data_alerts", Keep::All).await?.frame(batch.alerts(&found)?));
    }
    if late_days.len() > 0 {
        parts.push(Part::new(context, "reprocessing_queue", Keep::All).await?.frame(batch.requests(&late_days)?));
    }
    if figures.too_late > 0 {
        let rejected = queries.rejected(batch_id, now, watermarks.watermark);
        parts.push(Part::new(context, "monitoring_rejected_late_data", Keep::All).await?.query(context, &rejected).await?);
    }
    if topic == "user-events" {
        parts.push(Part::new(context, "bronze_streaming_events", Keep::All).await?.query(context, &queries.on_time_events(now)).await?);
        parts.push(Part::new(context, "bronze_streaming_events_late", Keep::All).await?.query(context, &queries.late_events(now)).await?);
    }
    commit(context, &format!("late:{topic}"), parts).await?;
    tracing::info!(topic, rows = figures.rows, too_late = figures.too_late, days = figures.days_requested, "late data handled");
    Ok(Handled { figures, watermark: watermarks.watermark, alerts: found.len() })
}

/// What the bronze table says of the topic's log since `start`. `told`: positions without a row that were taken into account before.
fn known_log(bronze: &Table, topic: &str, start: &BTreeMap<i32, i64>, stored: &[Stored], told: &AbsentOffsets) -> Known {
    let told = told.of(topic);
    let mut ranges = committed_ranges(bronze, topic, start);
    // Without a start, the batches known must reach back to the first row.
    let begins = |p: i32| stored.iter().filter(|s| s.partition == p).map(|s| s.first_offset).min().unwrap_or(i64::MAX);
    ranges.retain(|p, batches| start.contains_key(p) || batches.last().is_some_and(|first| first.range.start <= begins(*p)));
    let covered = ranges.into_iter().map(|(partition, ranges)| {
        let from = start.get(&partition).copied();
        let of_batch = |batch: chainalytics_streaming::batch::CommittedRange| {
            // A position that was taken from rows may stand within a batch.
            let skipped = from.map_or(0, |from| u64::try_from(from - batch.range.start).unwrap_or(0));
            Covered { hour: hour_of(batch.stored_at_us), expected: batch.range.len().saturating_sub(skipped).saturating_sub(batch.absent) }
        };
        (partition, ranges.into_iter().map(of_batch).collect())
    });
    let absent = absent_offsets(bronze, topic).into_iter().map(|(p, n)| (p, n.saturating_sub(told.get(&p).copied().unwrap_or(0))));
    Known { start: start.clone(), covered: covered.collect(), absent: absent.collect() }
}

fn absent_json(bronze: &Table, topic: &str) -> String {
    AbsentOffsets(BTreeMap::from([(topic.to_owned(), absent_offsets(bronze, topic))])).to_json()
}

fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(3_600_000_000) * 3_600_000_000
}

async fn stored_rows(context: &JobContext, query: &str, dead_letters: bool) -> Result<Vec<Stored>> {
    let rows = fetch(context.session(), query).await?;
    let stored = |row| {
        Some(Stored {
            partition: rows.int(row, "kafka_partition")?,
            hour: rows.micros(row, "arrival_hour")?,
            rows: rows.count(row, "n"),
            first_offset: rows.long(row, "first_offset")?,
            last_offset: rows.long(row, "last_offset")?,
            dead_letters,
        })
    };
    Ok((0..rows.len()).filter_map(stored).collect())
}
