//! `stream_dedup`: the rows of a table that grows, each key once within the watermark: Spark's `dropDuplicatesWithinWatermark`.
//!
//! The first row of a key passes and its key stays as state (`<output>_state`) until the watermark is behind the row's time plus the
//! delay; rows of that key that come until then are dropped. So repeats that are at most the delay apart in event time never pass twice.
//! One commit per batch holds the rows, the state, the watermark and the position.

use std::time::Duration;

use chainalytics_common::Result;
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::sql::load_table;
use chainalytics_streaming::stream::Trigger;
use clap::Parser;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::source::moment;
use crate::stage::{Keep, Part, commit};
use crate::stateful::{
    Batch, Input, InputState, Stateful, check_state, column, columns_of, drive, ensure, expire, micros, quoted, read_property, row_count,
    same_definition, snapshots, state_table, to_property,
};
use crate::{Job, JobContext, JobReport, parse, parse_duration};

/// Deduplication with state.
pub(crate) struct StreamDedup;

#[derive(Debug, Parser)]
#[command(
    name = "stream_dedup",
    about = "Copies a growing table, each key once within the watermark (Spark's dropDuplicatesWithinWatermark), exactly once",
    after_help = "Example:\n  stream_dedup --source bronze_user_events --key event_id --time event_timestamp --watermark 1h --output unique_user_events\n\n\
                  The source needs the lineage columns kafka_topic, kafka_partition and kafka_offset; the first row of a key is the first by them."
)]
struct Args {
    /// Table to read
    #[arg(long, value_name = "TABLE", default_value = "bronze_user_events")]
    source: String,
    /// Columns that make two rows the same, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "COLUMNS")]
    key: Vec<String>,
    /// Event time
    #[arg(long, value_name = "COLUMN", default_value = "event_timestamp")]
    time: String,
    /// How far the watermark stays behind the newest event, and how long a key is remembered
    #[arg(long, default_value = "48h", value_parser = parse_duration, value_name = "TIME")]
    watermark: Duration,
    /// A partition that is silent for longer does not hold back the watermark
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "TIME")]
    idle_timeout: Duration,
    /// Columns of the output [default: all]
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    columns: Vec<String>,
    /// Table of the results, made if it is not there; it also holds the query's progress
    #[arg(long, value_name = "TABLE")]
    output: String,
    /// available-now, once, or an interval such as 30s
    #[arg(long, default_value = "available-now")]
    trigger: Trigger,
    /// Keys of state at most
    #[arg(long, default_value_t = 100_000_000)]
    max_state_rows: u64,
}

const STATE_PROPERTY: &str = "chainalytics.stream-dedup";
const EXPIRES: &str = "expires_at";

impl Job for StreamDedup {
    fn name(&self) -> &'static str {
        "stream_dedup"
    }

    fn description(&self) -> &'static str {
        "A stream's rows, each key once within the watermark (-- --source a --key event_id --watermark 1h --output t)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let query = Query::new(&context, &args).await?;
            let (total, batches) = drive(&context, args.trigger, &query).await?;
            Ok(json!({
                "query": query.name(), "batches": batches, "input_rows": total.rows, "late_rows_dropped": total.dropped, "duplicates": total.duplicates,
                "output_rows": total.output, "state_rows": total.state, "watermark": total.watermark_text(),
            }))
        })
    }
}

/// What a query computes. It cannot change under the same output: the state would mean something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Definition {
    source: Input,
    key: Vec<String>,
}

/// Progress as the output's property has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    batch_id: i64,
    source: InputState,
    definition: Option<Definition>,
}

struct Query {
    definition: Definition,
    output: String,
    columns: Vec<String>,
    idle_after: i64,
    max_state_rows: u64,
}

/// Queries of one batch.
#[derive(Debug, Clone)]
struct Queries {
    /// Query of the new rows that are in time, with all columns.
    new: String,
    state: String,
    key: Vec<String>,
    time: String,
    delay: i64,
}

impl Queries {
    /// The rows that pass.
    fn first(&self, columns: &str) -> String {
        let keys = self.key.iter().map(|k| format!("n.{0} IS NOT DISTINCT FROM s.{0}", quoted(k))).collect::<Vec<_>>().join(" AND ");
        format!(
            "SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY {} ORDER BY kafka_topic, kafka_partition, kafka_offset) AS place FROM ({}) AS r) AS n \
             LEFT ANTI JOIN {} AS s ON {keys} WHERE n.place = 1",
            self.keys(),
            self.new,
            self.state
        )
    }

    fn keys(&self) -> String {
        self.key.iter().map(|k| quoted(k)).collect::<Vec<_>>().join(", ")
    }

    /// Their keys, as far as they are to be remembered.
    fn remembered(&self, watermark: Option<i64>) -> String {
        let expires = format!("{} + INTERVAL '{} microseconds'", quoted(&self.time), self.delay);
        let columns = self.key.iter().map(|k| format!("n.{0} AS {0}", quoted(k))).collect::<Vec<_>>().join(", ");
        let still = watermark.map_or_else(String::new, |w| format!(" WHERE {EXPIRES} > {}", moment(w)));
        format!("SELECT {}, {EXPIRES} FROM ({}) AS f{still}", self.keys(), self.first(&format!("{columns}, {expires} AS {EXPIRES}")))
    }
}

impl Query {
    async fn new(context: &JobContext, args: &Args) -> Result<Self> {
        let table = load_table(context.session().lakehouse(), &context.table(&args.source)?).await?;
        let time = column(&table, &args.time)?;
        let key = args.key.iter().map(|name| column(&table, name).cloned()).collect::<Result<Vec<_>>>()?;
        let mut needed = vec!["kafka_topic", "kafka_partition", "kafka_offset"];
        needed.extend(key.iter().map(|field| field.name().as_str()).chain([time.name().as_str()]));
        let fields = columns_of(&table, &args.columns, &needed)?;
        let mut state: Vec<_> = key.iter().map(|field| (field.name().clone(), field.clone())).collect();
        state.push((EXPIRES.to_owned(), time.clone()));
        ensure(context, &state_table(&args.output), state, Some((EXPIRES, "hour"))).await?;
        let output: Vec<_> = fields.iter().map(|f| (f.name().clone(), f.clone())).collect();
        ensure(context, &args.output, output, Some((time.name(), "day"))).await?;
        let source = Input { table: args.source.clone(), time: time.name().clone(), delay: micros(args.watermark) };
        Ok(Self {
            columns: fields.iter().map(|f| f.name().clone()).collect(),
            output: args.output.clone(),
            definition: Definition { source, key: key.iter().map(|field| field.name().clone()).collect() },
            idle_after: micros(args.idle_timeout),
            max_state_rows: args.max_state_rows,
        })
    }

    fn progress(&self, table: &Table) -> Result<Progress> {
        let progress: Progress = read_property(table, STATE_PROPERTY)?.unwrap_or_default();
        if let Some(known) = &progress.definition {
            same_definition(known, &self.definition, |known| {
                format!("table {} has the results of another query; take another --output, or the definition that it has: {known}", table.ident())
            })?;
        }
        Ok(progress)
    }
}

impl Stateful for Query {
    fn name(&self) -> &str {
        &self.output
    }

    fn operator(&self) -> &'static str {
        "dedupeWithinWatermark"
    }

    fn sources(&self) -> Vec<&str> {
        vec![&self.definition.source.table]
    }

    fn batch<'a>(&'a self, context: &'a JobContext) -> BoxFuture<'a, Result<Batch>> {
        Box::pin(async move {
            // First: whoever moves the progress from here on makes this batch a conflict, so that the state is read as it left it.
            let output = Part::new(context, &self.output, Keep::All).await?;
            let before = self.progress(&output.table)?;
            let old = before.source.watermark;
            let Definition { source, key } = &self.definition;
            let news = source.look(context, &before.source, old, self.idle_after).await?;
            let state_name = state_table(&self.output);
            let mut state = Part::new(context, &state_name, Keep::All).await?;
            let state_before = state.table.row_count().unwrap_or(0);
            let watermark = news.state.watermark;
            if news.span.rows == 0 {
                return Ok(Batch { state: state_before, watermark, ..Batch::default() });
            }
            let queries = Queries {
                new: format!("SELECT * FROM {} WHERE {} AND {}", source.table, news.span.condition(), source.in_time(old)),
                state: state_name.clone(),
                key: key.clone(),
                time: source.time.clone(),
                delay: source.delay,
            };
            if let Some(watermark) = watermark {
                state.keep = expire(EXPIRES, watermark);
            }
            let columns = self.columns.iter().map(|c| format!("n.{0} AS {0}", quoted(c))).collect::<Vec<_>>().join(", ");
            let output_before = output.table.row_count().unwrap_or(0);
            let output = output.query(context, &queries.first(&columns)).await?;
            let state = state.query(context, &queries.remembered(watermark)).await?;
            let after = Progress { batch_id: before.batch_id + 1, source: news.state.clone(), definition: Some(self.definition.clone()) };
            let after_json = to_property(&after);
            let step = format!("stream_dedup:{}:{}", self.output, crate::digest(&after_json));
            let outcome = commit(context, &step, vec![output.set(STATE_PROPERTY, after_json), state]).await?;
            let passed = row_count(context, &self.output).await?.saturating_sub(output_before);
            let state = row_count(context, &state_name).await?;
            check_state(&self.output, state, self.max_state_rows, "shorten the watermark")?;
            Ok(Batch {
                rows: news.span.rows,
                dropped: news.late,
                duplicates: (news.span.rows - news.late).saturating_sub(passed),
                output: passed,
                state,
                state_updated: passed,
                state_removed: (state_before + passed).saturating_sub(state),
                watermark,
                batch_id: after.batch_id,
                snapshots: snapshots(&outcome),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use chainalytics_streaming::window::{PartitionTime, TopicWatermark};
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;

    use super::*;

    const RUNTIME: &str = "a runtime for the queries";

    async fn column_of(context: &SessionContext, query: &str) -> Vec<(i64, i64)> {
        let batches = context
            .sql(&format!("SELECT CAST(a AS BIGINT), CAST(b AS BIGINT) FROM ({query}) AS q ORDER BY 1, 2"))
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        let of = |b: &arrow::array::RecordBatch, c: usize| b.column(c).as_primitive::<Int64Type>().values().to_vec();
        batches.iter().flat_map(|b| of(b, 0).into_iter().zip(of(b, 1)).collect::<Vec<_>>()).collect()
    }

    /// Rows as SQL: key, time in microseconds, offset.
    fn values(rows: &[(i64, i64, i64)]) -> String {
        let list: Vec<String> = rows.iter().map(|(k, t, o)| format!("({k}, {}, 't', 0, {o})", moment(*t))).collect();
        match list.is_empty() {
            true => {
                format!("(SELECT * FROM (VALUES (0, {}, 't', 0, 0)) AS v (k, t, kafka_topic, kafka_partition, kafka_offset) WHERE FALSE)", moment(0))
            }
            false => format!("(VALUES {}) AS v (k, t, kafka_topic, kafka_partition, kafka_offset)", list.join(", ")),
        }
    }

    fn state_values(rows: &[(i64, i64)]) -> String {
        let list: Vec<String> = rows.iter().map(|(k, t)| format!("({k}, {})", moment(*t))).collect();
        match list.is_empty() {
            true => format!("(SELECT * FROM (VALUES (0, {})) AS v (k, expires_at) WHERE FALSE)", moment(0)),
            false => format!("(SELECT * FROM (VALUES {}) AS v (k, expires_at))", list.join(", ")),
        }
    }

    /// Spark's operator, row by row.
    fn model(batches: &[Vec<(i64, i64)>], delay: i64) -> (Vec<i64>, Vec<i64>) {
        let (mut state, mut out, mut late): (BTreeMap<i64, i64>, Vec<i64>, Vec<i64>) = Default::default();
        let (mut watermark, mut newest, mut offset) = (None::<i64>, i64::MIN, 0);
        for batch in batches {
            for (key, time) in batch {
                offset += 1;
                newest = newest.max(*time);
                if watermark.is_some_and(|w| *time <= w) {
                    late.push(offset);
                } else if let std::collections::btree_map::Entry::Vacant(free) = state.entry(*key) {
                    free.insert(time + delay);
                    out.push(offset);
                }
            }
            if newest > i64::MIN {
                watermark = watermark.max(Some(newest - delay));
                state.retain(|_, expires| watermark.is_none_or(|w| *expires > w));
            }
        }
        (out, late)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// The queries, batch after batch with the state that each left, let through what Spark's operator does.
        #[test]
        fn keys_pass_as_spark_lets_them(
            batches in prop::collection::vec(prop::collection::vec((0..6_i64, 0..100_i64), 0..12), 1..6), delay in 0..40_i64
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect(RUNTIME);
            let (mut passed, mut late, mut offset) = (Vec::new(), Vec::new(), 0);
            let (mut state, mut watermarks): (Vec<(i64, i64)>, _) = (Vec::new(), TopicWatermark::default());
            for batch in &batches {
                let rows: Vec<_> = batch.iter().map(|(k, t)| { offset += 1; (*k, *t, offset) }).collect();
                if rows.is_empty() {
                    continue;
                }
                let input = Input { table: String::new(), time: "t".into(), delay };
                let in_time = input.in_time(watermarks.watermark);
                let queries = Queries {
                    new: format!("SELECT * FROM {} WHERE {in_time}", values(&rows)),
                    state: state_values(&state), key: vec!["k".into()], time: "t".into(), delay,
                };
                let (context, micros) = (SessionContext::new(), |c: &str| format!("arrow_cast({c}, 'Int64')"));
                let first = runtime.block_on(column_of(&context, &queries.first("n.kafka_offset AS a, 0 AS b")));
                passed.extend(first.iter().map(|(o, _)| *o));
                let dropped = format!("SELECT kafka_offset AS a, 0 AS b FROM {} WHERE NOT ({in_time})", values(&rows));
                late.extend(runtime.block_on(column_of(&context, &dropped)).iter().map(|(o, _)| *o));
                let newest = rows.iter().map(|(_, t, _)| *t).max().unwrap();
                watermarks = watermarks.advance(&BTreeMap::from([(0, PartitionTime { next_offset: offset, max_event: newest, last_arrival: 0 })]), delay, 0);
                let remembered = format!("SELECT k AS a, {} AS b FROM ({}) AS r", micros("expires_at"), queries.remembered(watermarks.watermark));
                let new_state = runtime.block_on(column_of(&context, &remembered));
                state.retain(|(_, expires)| watermarks.watermark.is_none_or(|w| *expires > w));
                state.extend(new_state);
            }
            let (expected, expected_late) = model(&batches, delay);
            prop_assert_eq!((passed, late), (expected, expected_late));
        }
    }
}
