//! `stream_join`: two tables that grow, joined by key and by the distance of their event times.
//!
//! Rows of both sides stay as state (`<output>_left_state`, `<output>_right_state`) as long as a row that is not late can match them, or one
//! of the other side is still to be judged by them (outer joins). One commit per batch holds the pairs, the rows without a match, both
//! states, the watermarks and both positions: a restart, however it came, goes on exactly where the last commit stands. The join runs where
//! the session's queries run; the driver holds no rows.

mod queries;
mod spec;

#[cfg(test)]
mod model_tests;

use std::time::Duration;

use arrow::datatypes::FieldRef;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::sql::load_table;
use chainalytics_streaming::stream::Trigger;
use clap::{Parser, ValueEnum};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::stage::{Keep, Part, commit};
use crate::stateful::{
    Batch, Input, InputState, News, Stateful, check_state, column, columns_of, drive, ensure, expire, micros, quoted, read_property, row_count,
    same_definition, snapshots, state_table, to_property,
};
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
        "Two streams joined within an interval of event time, inner or outer (-- --left a --right b --on k --upper 1h --output t)"
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
        let on: Vec<(&str, &str)> = args.on.iter().map(|pair| pair.split_once('=').unwrap_or((pair, pair))).collect();
        let left = SideOf::new(context, &args.left, &args.left_time, on.iter().map(|(l, _)| *l), &args.left_columns).await?;
        let right = SideOf::new(context, &args.right, &args.right_time, on.iter().map(|(_, r)| *r), &args.right_columns).await?;
        for (side, name) in [(&left, "left"), (&right, "right")] {
            let state = state_table(&format!("{}_{name}", args.output));
            ensure(context, &state, side.columns("").collect(), Some((&side.time, "hour"))).await?;
        }
        let output = left.columns("").chain(right.columns(RIGHT_PREFIX)).collect();
        ensure(context, &args.output, output, Some((&left.time, "day"))).await?;
        let input = |table: &str, side: &SideOf, delay: Option<Duration>| Input {
            table: table.to_owned(),
            time: side.time.clone(),
            delay: micros(delay.unwrap_or(args.watermark)),
        };
        Ok(Self {
            definition: Definition {
                left: input(&args.left, &left, args.left_watermark),
                right: input(&args.right, &right, args.right_watermark),
                on: left.keys.iter().cloned().zip(right.keys.iter().cloned()).collect(),
                interval: Interval { lower: args.lower, upper: args.upper, kind: args.kind },
            },
            columns: (left.names(), right.names()),
            output: args.output.clone(),
            policy: args.watermark_policy,
            idle_after: micros(args.idle_timeout),
            max_state_rows: args.max_state_rows,
        })
    }

    fn progress(&self, table: &Table) -> Result<Progress> {
        let progress: Progress = read_property(table, STATE_PROPERTY)?.unwrap_or_default();
        if let Some(known) = &progress.definition {
            same_definition(known, &self.definition, |known| {
                format!("table {} has the results of another join; take another --output, or the definition that it has: {known}", table.ident())
            })?;
        }
        Ok(progress)
    }

    fn watermark(&self, left: Option<i64>, right: Option<i64>) -> Option<i64> {
        match (self.policy, left, right) {
            (WatermarkPolicy::Min, Some(left), Some(right)) => Some(left.min(right)),
            (WatermarkPolicy::Min, ..) => None,
            (WatermarkPolicy::Max, left, right) => left.max(right),
        }
    }

    fn queries(&self, left: &News, right: &News, watermark: Option<i64>) -> Queries {
        let side = |input: &Input, news: &News, columns: &[String], keys: Vec<String>, side: &str| {
            let list: Vec<String> = columns.iter().map(|c| quoted(c)).collect();
            Side {
                new: format!("SELECT {} FROM {} WHERE {} AND {}", list.join(", "), input.table, news.span.condition(), input.in_time(watermark)),
                state: state_table(&format!("{}_{side}", self.output)),
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

/// One side as its table has it.
struct SideOf {
    time: String,
    keys: Vec<String>,
    fields: Vec<FieldRef>,
}

impl SideOf {
    /// What the join and the search for new rows need of the table, then what was asked for.
    async fn new(context: &JobContext, table: &str, time: &str, keys: impl Iterator<Item = &str>, named: &[String]) -> Result<Self> {
        let table = load_table(context.session().lakehouse(), &context.table(table)?).await?;
        let time = column(&table, time)?.name().clone();
        let keys = keys.map(|key| Ok(column(&table, key)?.name().clone())).collect::<Result<Vec<_>>>()?;
        let needed: Vec<&str> = LINEAGE.into_iter().chain(keys.iter().map(String::as_str)).chain([time.as_str()]).collect();
        let fields = columns_of(&table, named, &needed)?;
        Ok(Self { time, keys, fields })
    }

    fn columns(&self, prefix: &str) -> impl Iterator<Item = (String, FieldRef)> {
        self.fields.iter().map(move |field| (format!("{prefix}{}", field.name()), field.clone()))
    }

    fn names(&self) -> Vec<String> {
        self.fields.iter().map(|field| field.name().clone()).collect()
    }
}

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

    fn batch<'a>(&'a self, context: &'a JobContext) -> BoxFuture<'a, Result<Batch>> {
        Box::pin(async move {
            // First: whoever moves the progress from here on makes this batch a conflict, so that states are read as it left them.
            let mut output = Part::new(context, &self.output, Keep::All).await?;
            let before = self.progress(&output.table)?;
            let old = before.watermark;
            let Definition { left: left_input, right: right_input, interval, .. } = &self.definition;
            let left = left_input.look(context, &before.left, old, self.idle_after).await?;
            let right = right_input.look(context, &before.right, old, self.idle_after).await?;
            let rows = left.span.rows + right.span.rows;
            let queries = self.queries(&left, &right, old);
            let mut left_state = Part::new(context, &queries.left.state, Keep::All).await?;
            let mut right_state = Part::new(context, &queries.right.state, Keep::All).await?;
            let state_before = left_state.table.row_count().unwrap_or(0) + right_state.table.row_count().unwrap_or(0);
            if rows == 0 {
                return Ok(Batch { state: state_before, watermark: old, ..Batch::default() });
            }
            let watermark = old.max(self.watermark(left.state.watermark, right.state.watermark));
            if let Some(watermark) = watermark {
                left_state.keep = expire(&left_input.time, interval.left_gone(watermark));
                right_state.keep = expire(&right_input.time, interval.right_gone(watermark));
            }
            for rows in queries.pairs().into_iter().chain(queries.unmatched(old, watermark)) {
                output = output.query(context, &rows).await?;
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
            let after_json = to_property(&after);
            let output_before = output.table.row_count().unwrap_or(0);
            let step = format!("stream_join:{}:{}", self.output, crate::digest(&after_json));
            let parts = vec![output.set(STATE_PROPERTY, after_json), left_state, right_state];
            let outcome = commit(context, &step, parts).await?;
            let state = row_count(context, &queries.left.state).await? + row_count(context, &queries.right.state).await?;
            check_state(&self.output, state, self.max_state_rows, "shorten the interval or the watermark")?;
            let late = left.late + right.late;
            let updated = rows - late;
            Ok(Batch {
                rows,
                dropped: late,
                output: row_count(context, &self.output).await?.saturating_sub(output_before),
                state,
                state_updated: updated,
                state_removed: (state_before + updated).saturating_sub(state),
                watermark,
                batch_id: after.batch_id,
                snapshots: snapshots(&outcome),
                ..Batch::default()
            })
        })
    }
}
