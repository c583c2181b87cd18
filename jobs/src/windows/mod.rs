//! `window_aggregation`: user events in windows over event time. Rows are grouped where the session's queries run; open windows are state.
//!
//! One commit per batch holds the closed windows, the open ones (`window_state`), the identities that a repeat could still have
//! (`window_seen_events`), the watermark and the position in bronze. So a restart, however it came, goes on exactly where the last
//! commit stands, and no row counts twice or is lost. A batch reads and writes the windows that its rows touch and those that it closes;
//! the others stay where they are.

mod layout;
mod queries;
mod state;
mod touched;

#[cfg(test)]
mod model_tests;

use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::dml::RowPlaces;
use chainalytics_streaming::stream::Trigger;
use chainalytics_streaming::window::{Partial, WindowOperator, WindowSpec};
use clap::{Parser, ValueEnum};
use datafusion::prelude::{col, lit};
use futures::future::BoxFuture;
use serde_json::json;

use crate::layers::layer_of;
use crate::source::{Position, span};
use crate::stage::{Keep, Part, commit};
use crate::stateful::{Batch, Stateful, drive, micros, snapshots, timestamp, to_property};
use crate::{Job, JobContext, JobReport, parse, parse_duration};
use queries::{Partials, Queries};
use state::{Definition, State, windows_frame};
use touched::{Known, of_query, open_results};

/// Windows with state over user events.
pub(crate) struct WindowAggregation;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Tumbling,
    Sliding,
    Session,
}

/// What the windows are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    UserId,
    ProductId,
    EventType,
    /// All events together
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Windows once they have closed
    Append,
    /// Open windows too, as they are after each batch
    Update,
}

#[derive(Debug, Parser)]
#[command(name = "window_aggregation")]
struct Args {
    /// Kind of window
    #[arg(long = "type", value_enum, default_value = "tumbling")]
    kind: Kind,
    /// Length of tumbling and sliding windows
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    size: Duration,
    /// From one sliding window to the next
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    slide: Duration,
    /// Silence that ends a session
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    gap: Duration,
    /// What the windows are made for [default: user-id for sessions, else event-type]
    #[arg(long, value_enum)]
    key: Option<Key>,
    /// How far the watermark stays behind the newest event
    #[arg(long, default_value = "48h", value_parser = parse_duration)]
    watermark: Duration,
    /// A partition that is silent for longer does not hold back the watermark
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    idle_timeout: Duration,
    #[arg(long, value_enum, default_value = "append")]
    output: Output,
    /// Name under which state and results stand [default: kind, key and lengths]
    #[arg(long)]
    query: Option<String>,
    /// available-now, once, or an interval such as 30s
    #[arg(long, default_value = "available-now")]
    trigger: Trigger,
    /// Count repeated events each time
    #[arg(long)]
    keep_duplicates: bool,
    /// Open windows at most
    #[arg(long, default_value_t = 2_000_000)]
    max_open_windows: usize,
}

pub(crate) const RESULTS: &str = "windowed_user_events";
pub(crate) const STATE: &str = "window_state";
pub(crate) const SEEN: &str = "window_seen_events";
const BRONZE: &str = "bronze_user_events";

impl Job for WindowAggregation {
    fn name(&self) -> &'static str {
        "window_aggregation"
    }

    fn description(&self) -> &'static str {
        "User events in tumbling, sliding or session windows with watermark and state, exactly once (-- --type session --gap 5m)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let query = Query::new(&args)?;
            layout::prepare(&context).await?;
            let (total, batches) = drive(&context, args.trigger, &query).await?;
            Ok(json!({
                "query": query.name, "batches": batches, "input_rows": total.rows, "duplicates": total.duplicates,
                "late_rows_dropped": total.dropped, "windows_closed": total.output, "windows_open": total.state,
                "watermark": total.watermark_text(),
            }))
        })
    }
}

/// A query as its arguments define it.
struct Query {
    name: String,
    definition: Definition,
    output: Output,
    idle_after: i64,
    max_open_windows: usize,
}

impl Query {
    fn new(args: &Args) -> Result<Self> {
        let (size, slide, gap) = (micros(args.size), micros(args.slide), micros(args.gap));
        let spec = match args.kind {
            Kind::Tumbling => WindowSpec::Tumbling { size },
            Kind::Sliding => WindowSpec::Sliding { size, slide },
            Kind::Session => WindowSpec::Session { gap },
        };
        let spec = spec.validate().map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("window_aggregation: {e}")))?;
        let key = args.key.unwrap_or(if args.kind == Kind::Session { Key::UserId } else { Key::EventType });
        let definition = Definition { spec, key, watermark_delay: micros(args.watermark), deduplicate: !args.keep_duplicates };
        let name = args.query.clone().unwrap_or_else(|| definition.default_name());
        if name.is_empty() || name.len() > 100 {
            return Err(Error::new(ErrorCode::InvalidArgument, "window_aggregation: --query takes a name of 1 to 100 bytes"));
        }
        Ok(Self { name, definition, output: args.output, idle_after: micros(args.idle_timeout), max_open_windows: args.max_open_windows })
    }

    /// Identities of this batch; those whose windows have all closed are forgotten, by whole days.
    async fn seen(&self, context: &JobContext, queries: &Queries<'_>, watermark: Option<i64>) -> Result<Part> {
        let forget = watermark.map(|w| crate::reprocessing::day_start(w.saturating_sub(self.definition.spec.reach())));
        let keep = forget.map_or(Keep::All, |before| Keep::AllBut(of_query(&self.name).and(col("event_timestamp").lt(timestamp(before)))));
        Part::new(context, SEEN, keep).await?.query(context, &queries.newly_seen(forget)).await
    }
}

impl Stateful for Query {
    fn name(&self) -> &str {
        &self.name
    }

    fn operator(&self) -> &'static str {
        if matches!(self.definition.spec, WindowSpec::Session { .. }) { "sessionWindowStateStoreSave" } else { "stateStoreSave" }
    }

    fn sources(&self) -> Vec<&str> {
        vec![BRONZE]
    }

    fn batch<'a>(&'a self, context: &'a JobContext) -> BoxFuture<'a, Result<Batch>> {
        Box::pin(async move {
            let layer = layer_of("user-events").ok_or_else(|| Error::internal("no layer for user-events"))?;
            let state_key = format!("chainalytics.windows.{}", self.name);
            let mut state_part = Part::new(context, STATE, Keep::AllBut(of_query(&self.name))).await?;
            let before = State::of(&state_part.table, &state_key, &self.name, self.definition)?;
            let start = before.as_ref().map_or_else(Position::default, |s| s.position.clone());
            let new = span(context, BRONZE, layer.time, start).await?;
            let topic_watermark = before.as_ref().map(State::watermarks).unwrap_or_default();
            if new.rows == 0 {
                let open = before.as_ref().map_or(0, |s| s.open);
                return Ok(Batch { state: open, watermark: topic_watermark.watermark, ..Batch::default() });
            }
            let old = topic_watermark.watermark;
            let selected = new.condition();
            let queries = Queries::new(&self.name, self.definition, &selected, new.times, old);
            let watermarks = topic_watermark.advance(&queries.partition_times(context).await?, self.definition.watermark_delay, self.idle_after);
            let Partials { partials, rows: unique } = queries.partials(context).await?;

            let spec = self.definition.spec;
            let judge = WindowOperator::restore(spec, old, []);
            let taken: Vec<&Partial> = partials.iter().filter(|partial| !judge.drops(partial)).collect();
            let update = self.output == Output::Update;
            // Results that do not mirror the state yet are made from all of it, once.
            let whole = update && !before.as_ref().is_some_and(|s| s.told);
            let known = match &before {
                None => Known::default(),
                Some(_) if whole => Known::all(context, &state_part.table, &self.name).await?,
                Some(_) => Known::of(context, &state_part.table, &self.name, spec, &taken, (old, watermarks.watermark)).await?,
            };
            drop(taken);
            let results = Part::new(context, RESULTS, Keep::All).await?;
            let told_before =
                if update && !whole { open_results(context, &results.table, &self.name, &known.windows).await? } else { RowPlaces::default() };
            let open_before = before.as_ref().map_or(0, |s| s.open);
            // Open windows that this batch has nothing to do with.
            let others = open_before.saturating_sub(known.windows.len() as u64);
            let Known { windows, places } = known;
            if before.is_some() {
                state_part.keep = Keep::AllButRows { places, within: of_query(&self.name) };
            }
            let mut operator = WindowOperator::restore(spec, old, windows);
            for partial in partials {
                operator.absorb(partial);
                if others + operator.len() as u64 > self.max_open_windows as u64 {
                    let message = format!("query {} has more than {} open windows (--max-open-windows)", self.name, self.max_open_windows);
                    return Err(Error::new(ErrorCode::ResourcesExhausted, message));
                }
            }
            let closed = operator.advance(watermarks.watermark);
            let changed: Vec<_> = operator.open().collect();
            let open = others + changed.len() as u64;

            let batch_id = before.as_ref().map_or(0, |s| s.batch_id) + 1;
            let kept = State::new(batch_id, self.definition, new.end.clone(), &watermarks, open, update);
            let mut parts = vec![state_part.frame(windows_frame(context, &self.name, &changed, None)?).set(state_key, to_property(&kept))];
            let of_open = of_query(&self.name).and(col("closed").eq(lit(false)));
            let mut results = results;
            results.keep = match (update, whole) {
                (false, _) => Keep::All,
                (true, true) => Keep::AllBut(of_open),
                (true, false) => Keep::AllButRows { places: told_before, within: of_open },
            };
            let mut frames = Vec::new();
            if !closed.is_empty() {
                frames.push(windows_frame(context, &self.name, &closed, Some((spec, true)))?);
            }
            if update && !changed.is_empty() {
                frames.push(windows_frame(context, &self.name, &changed, Some((spec, false)))?);
            }
            parts.push(frames.into_iter().fold(results, Part::frame));
            if self.definition.deduplicate {
                parts.push(self.seen(context, &queries, watermarks.watermark).await?);
            }
            let step = format!("windows:{}:{}", self.name, crate::digest(&new.end.to_json()));
            let outcome = commit(context, &step, parts).await?;
            let closed = closed.len() as u64;
            Ok(Batch {
                rows: new.rows,
                duplicates: new.rows.saturating_sub(unique),
                dropped: operator.dropped(),
                output: closed,
                state: open,
                state_updated: changed.len() as u64,
                state_removed: closed,
                watermark: watermarks.watermark,
                batch_id: kept.batch_id,
                snapshots: snapshots(&outcome),
            })
        })
    }
}
