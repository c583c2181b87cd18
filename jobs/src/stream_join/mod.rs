//! `stream_join`: two tables that grow, joined by key and by the distance of their event times.
//!
//! Rows of both sides stay as state (`<output>_left_state`, `<output>_right_state`) as long as a row that is not late can match them. One
//! commit per batch holds the pairs, the outer rows, both states, the watermarks and both positions: a restart, however it came, goes on
//! exactly where the last commit stands. The join runs where the session's queries run; the driver holds no rows.

mod queries;
mod spec;

#[cfg(test)]
mod model_tests;

use std::time::Duration;

use async_trait::async_trait;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::sql::load_table;
use chainalytics_streaming::stream::Trigger;
use clap::{Parser, ValueEnum};
use datafusion::common::ScalarValue;
use datafusion::prelude::{col, lit};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::stage::{Keep, Part, commit};
use crate::stateful::{Batch, Input, InputState, Stateful, column, columns_of, drive, ensure, micros};
use crate::{Job, JobContext, JobReport, parse, parse_duration};
use queries::{Queries, RIGHT_PREFIX, Side};
use spec::{Interval, Kind};

/// Interval join with state.
pub(crate) struct StreamJoin;

/// Which of the two watermarks holds for both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WatermarkPolicy {
    /// The one behind: no row of the slower side is dropped
    Min,
    /// The one ahead: the slower side does not hold back the faster
    Max,
}

#[derive(Debug, Parser)]
#[command(
    name = "stream_join",
    about = "Joins two growing tables by key and distance in event time, with watermarks and state, exactly once",
    after_help = "Examples:\n  stream_join --left bronze_user_events --right bronze_user_posts --on user_id --left-time event_timestamp --right-time created_timestamp \\\n    \
                  --lower 0s --upper 1h --output events_with_posts\n  \
                  stream_join --left bronze_api_logs --right bronze_user_events --on api_source=event_type --left-time call_timestamp --right-time event_timestamp \\\n    \
                  --lower -5m --upper 5m --type left-outer --watermark 10m --output calls_with_events --trigger 30s\n\n\
                  The output has the left side's columns under their names, the right side's behind right_. Both tables need the lineage columns kafka_topic, \
                  kafka_partition and kafka_offset, by which new rows are found."
)]
struct Args {
    /// Left table
    #[arg(long, value_name = "TABLE")]
    left: String,
    /// Right table
    #[arg(long, value_name = "TABLE")]
    right: String,
    /// Columns that must be equal: NAME, or LEFT=RIGHT; several separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "COLUMNS")]
    on: Vec<String>,
    /// Event time of the left table
    #[arg(long, value_name = "COLUMN", default_value = "event_timestamp")]
    left_time: String,
    /// Event time of the right table
    #[arg(long, value_name = "COLUMN", default_value = "event_timestamp")]
    right_time: String,
    /// A right row matches from this long after the left one on (before it, with a minus)
    #[arg(long, default_value = "0s", value_parser = parse_signed, allow_hyphen_values = true, value_name = "TIME")]
    lower: i64,
    /// A right row matches until this long after the left one
    #[arg(long, value_parser = parse_signed, allow_hyphen_values = true, value_name = "TIME")]
    upper: i64,
    #[arg(long = "type", value_enum, default_value = "inner")]
    kind: Kind,
    /// How far the watermarks stay behind the newest event
    #[arg(long, default_value = "48h", value_parser = parse_duration, value_name = "TIME")]
    watermark: Duration,
    /// The same for the left table alone
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    left_watermark: Option<Duration>,
    /// The same for the right table alone
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    right_watermark: Option<Duration>,
    #[arg(long, value_enum, default_value = "min")]
    watermark_policy: WatermarkPolicy,
    /// A partition that is silent for longer does not hold back its side's watermark
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "TIME")]
    idle_timeout: Duration,
    /// Left columns of the output [default: all]
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    left_columns: Vec<String>,
    /// Right columns of the output [default: all]
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    right_columns: Vec<String>,
    /// Table of the results, made if it is not there; it also holds the query's progress
    #[arg(long, value_name = "TABLE")]
    output: String,
    /// available-now, once, or an interval such as 30s
    #[arg(long, default_value = "available-now")]
    trigger: Trigger,
    /// Rows of state at most, both sides together
    #[arg(long, default_value_t = 100_000_000)]
    max_state_rows: u64,
}

const STATE_PROPERTY: &str = "chainalytics.stream-join";
const LINEAGE: [&str; 3] = ["kafka_topic", "kafka_partition", "kafka_offset"];

/// A length such as 10m or -1h30m, as microseconds.
fn parse_signed(text: &str) -> Result<i64, String> {
    let (sign, length) = match text.strip_prefix('-') {
        Some(length) => (-1, length),
        None => (1, text),
    };
    parse_duration(length).map(|length| sign * micros(length))
}

impl Job for StreamJoin {
    fn name(&self) -> &'static str {
        "stream_join"
    }

    fn description(&self) -> &'static str {
        "Two streams joined within an interval of event time, inner or left outer (-- --left a --right b --on k --upper 1h --output t)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let query = Query::new(&context, &args).await?;
            let (total, batches) = drive(&context, args.trigger, &query).await?;
            Ok(json!({
                "query": query.name(), "batches": batches, "input_rows": total.rows, "late_rows_dropped": total.dropped, "output_rows": total.output,
                "state_rows": total.state, "watermark": total.watermark_text(),
            }))
        })
    }
}

/// What a query computes. It cannot change under the same output: the state would mean something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Definition {
    left: Input,
    right: Input,
    on: Vec<(String, String)>,
    interval: Interval,
}

/// Progress as the output's property has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    batch_id: i64,
    left: InputState,
    right: InputState,
    watermark: Option<i64>,
    definition: Option<Definition>,
}

struct Query {
    definition: Definition,
    output: String,
    /// Column names of each side, as the states have them.
    columns: (Vec<String>, Vec<String>),
    policy: WatermarkPolicy,
    idle_after: i64,
    max_state_rows: u64,
}

impl Query {
    /// Checks the arguments against the tables, and makes those that the query writes.
    async fn new(context: &JobContext, args: &Args) -> Result<Self> {
        if args.lower > args.upper {
            return Err(Error::new(ErrorCode::InvalidArgument, "stream_join: --lower is after --upper, so nothing matches"));
        }
        let input = |table: &str, time: &str, delay: Option<Duration>| Input {
            table: table.to_owned(),
            time: time.to_owned(),
            delay: micros(delay.unwrap_or(args.watermark)),
        };
        let on: Vec<(String, String)> =
            args.on.iter().map(|pair| pair.split_once('=').unwrap_or((pair, pair))).map(|(l, r)| (l.to_owned(), r.to_owned())).collect();
        let definition = Definition {
            left: input(&args.left, &args.left_time, args.left_watermark),
            right: input(&args.right, &args.right_time, args.right_watermark),
            interval: Interval { lower: args.lower, upper: args.upper, kind: args.kind },
            on,
        };
        let lakehouse = context.session().lakehouse();
        let mut sides = Vec::new();
        for (input, named, keys) in [
            (&definition.left, &args.left_columns, definition.on.iter().map(|(l, _)| l.as_str()).collect::<Vec<_>>()),
            (&definition.right, &args.right_columns, definition.on.iter().map(|(_, r)| r.as_str()).collect()),
        ] {
            let table = load_table(lakehouse, &context.table(&input.table)?).await?;
            // What the join and the search for new rows need, then what was asked for.
            let mut kept: Vec<&str> = LINEAGE.to_vec();
            kept.extend(keys);
            kept.push(&input.time);
            let mut unique: Vec<&str> = Vec::new();
            kept.retain(|name| {
                !unique.contains(name) && {
                    unique.push(name);
                    true
                }
            });
            for name in &kept {
                column(&table, name)?;
            }
            sides.push(columns_of(&table, named, &kept)?);
        }
        let (Some(right), Some(left)) = (sides.pop(), sides.pop()) else { return Err(Error::internal("two sides")) };
        let own = |fields: &[arrow::datatypes::FieldRef]| fields.iter().map(|f| (f.name().clone(), f.clone())).collect::<Vec<_>>();
        let states = [(own(&left), &definition.left.time, "left"), (own(&right), &definition.right.time, "right")];
        for (columns, time, side) in states {
            ensure(context, &format!("{}_{side}_state", args.output), columns, Some((time, "hour"))).await?;
        }
        let prefixed = right.iter().map(|f| (format!("{RIGHT_PREFIX}{}", f.name()), f.clone()));
        let output: Vec<_> = own(&left).into_iter().chain(prefixed).collect();
        ensure(context, &args.output, output, Some((&definition.left.time, "day"))).await?;
        let names = |fields: &[arrow::datatypes::FieldRef]| fields.iter().map(|f| f.name().clone()).collect();
        Ok(Self {
            columns: (names(&left), names(&right)),
            output: args.output.clone(),
            definition,
            policy: args.watermark_policy,
            idle_after: micros(args.idle_timeout),
            max_state_rows: args.max_state_rows,
        })
    }

    fn progress(&self, table: &Table) -> Result<Progress> {
        let Some(text) = table.property(STATE_PROPERTY) else { return Ok(Progress::default()) };
        let progress: Progress = serde_json::from_str(text)
            .map_err(|e| Error::new(ErrorCode::ProgressLost, format!("property {STATE_PROPERTY} of table {} cannot be read: {e}", table.ident())))?;
        match &progress.definition {
            Some(known) if known != &self.definition => {
                let known = serde_json::to_string(known).unwrap_or_default();
                let message =
                    format!("table {} has the results of another join; take another --output, or the definition that it has: {known}", table.ident());
                Err(Error::new(ErrorCode::InvalidArgument, message))
            }
            _ => Ok(progress),
        }
    }

    fn watermark(&self, left: Option<i64>, right: Option<i64>) -> Option<i64> {
        match (self.policy, left, right) {
            (WatermarkPolicy::Min, Some(left), Some(right)) => Some(left.min(right)),
            (WatermarkPolicy::Min, ..) => None,
            (WatermarkPolicy::Max, left, right) => left.max(right),
        }
    }

    fn queries(&self, left: &crate::stateful::News, right: &crate::stateful::News, watermark: Option<i64>) -> Queries {
        let side = |input: &Input, news: &crate::stateful::News, columns: &[String], keys: Vec<String>, side: &str| {
            let list: Vec<String> = columns.iter().map(|c| format!("\"{c}\"")).collect();
            Side {
                new: format!("SELECT {} FROM {} WHERE {} AND {}", list.join(", "), input.table, news.span.condition(), input.in_time(watermark)),
                state: format!("{}_{side}_state", self.output),
                columns: columns.to_vec(),
                keys,
                time: input.time.clone(),
            }
        };
        let Definition { left: l, right: r, on, interval } = &self.definition;
        Queries {
            left: side(l, left, &self.columns.0, on.iter().map(|(l, _)| l.clone()).collect(), "left"),
            right: side(r, right, &self.columns.1, on.iter().map(|(_, r)| r.clone()).collect(), "right"),
            interval: *interval,
        }
    }
}

#[async_trait]
impl Stateful for Query {
    fn name(&self) -> &str {
        &self.output
    }

    fn operator(&self) -> &'static str {
        "symmetricHashJoin"
    }

    fn sources(&self) -> Vec<&str> {
        vec![&self.definition.left.table, &self.definition.right.table]
    }

    async fn batch(&self, context: &JobContext) -> Result<Batch> {
        // First: whoever moves the progress from here on makes this batch a conflict, so that states are read as it left them.
        let output = Part::new(context, &self.output, Keep::All).await?;
        let before = self.progress(&output.table)?;
        let old = before.watermark;
        let left = self.definition.left.look(context, &before.left, old, self.idle_after).await?;
        let right = self.definition.right.look(context, &before.right, old, self.idle_after).await?;
        let (left_name, right_name) = (format!("{}_left_state", self.output), format!("{}_right_state", self.output));
        let rows = left.span.rows + right.span.rows;
        let mut left_state = Part::new(context, &left_name, Keep::All).await?;
        let mut right_state = Part::new(context, &right_name, Keep::All).await?;
        let state_before = left_state.table.row_count().unwrap_or(0) + right_state.table.row_count().unwrap_or(0);
        if rows == 0 {
            return Ok(Batch { state: state_before, watermark: old, ..Batch::default() });
        }
        let watermark = old.max(self.watermark(left.state.watermark, right.state.watermark));
        let queries = self.queries(&left, &right, old);
        if let Some(watermark) = watermark {
            let up_to = |time: &str, done: i64| Keep::AllBut(col(time).lt_eq(lit(ScalarValue::TimestampMicrosecond(Some(done), Some("UTC".into())))));
            let (interval, l, r) = (&self.definition.interval, &self.definition.left.time, &self.definition.right.time);
            left_state.keep = up_to(l, interval.left_done(watermark));
            right_state.keep = up_to(r, interval.right_done(watermark));
        }
        let mut output = output;
        for pairs in queries.pairs() {
            output = output.query(context, &pairs).await?;
        }
        if let Some(unmatched) = queries.unmatched(watermark) {
            output = output.query(context, &unmatched).await?;
        }
        left_state = left_state.query(context, &queries.left_kept(watermark)).await?;
        right_state = right_state.query(context, &queries.right_kept(watermark)).await?;
        let after = Progress {
            batch_id: before.batch_id + 1,
            left: left.state.clone(),
            right: right.state.clone(),
            watermark,
            definition: Some(self.definition.clone()),
        };
        // Texts and numbers: serialising cannot fail.
        let after_json = serde_json::to_string(&after).unwrap_or_default();
        let output_before = output.table.row_count().unwrap_or(0);
        let step = format!("stream_join:{}:{}", self.output, crate::digest(&after_json));
        let parts = vec![output.set(STATE_PROPERTY, after_json), left_state, right_state];
        let outcome = commit(context, &step, parts).await?;
        let count = async |name: &str| -> Result<u64> {
            Ok(load_table(context.session().lakehouse(), &context.table(name)?).await?.row_count().unwrap_or(0))
        };
        let state = count(&left_name).await? + count(&right_name).await?;
        if state > self.max_state_rows {
            let message = format!(
                "{} has {state} rows of state (--max-state-rows {}): shorten the interval or the watermark",
                self.output, self.max_state_rows
            );
            return Err(Error::new(ErrorCode::ResourcesExhausted, message));
        }
        let late = left.late + right.late;
        let updated = rows - late;
        Ok(Batch {
            rows,
            dropped: late,
            output: count(&self.output).await?.saturating_sub(output_before),
            state,
            state_updated: updated,
            state_removed: (state_before + updated).saturating_sub(state),
            watermark,
            batch_id: after.batch_id,
            snapshots: outcome.iter().filter_map(|t| Some((t.ident.to_string(), t.snapshot_id?))).collect(),
            ..Batch::default()
        })
    }
}
