//! `silver_transformation`: new bronze rows to silver, each once; days that were asked for anew; then the tables derived from the copies.
//!
//! Per topic one commit moves the silver copy, its quarantine and its duplicates together with the position that they were read up to.

use chainalytics_common::Result;
use clap::Parser;
use datafusion::prelude::{col, lit};
use futures::future::BoxFuture;
use serde_json::{Map, json};

use crate::derived::{Derived, Done, GENERATION, derive};
use crate::layers::{LAYERS, Layer};
use crate::reprocessing::{self, Layer as Turn, day_start, days_condition, days_filter, days_of, since_filter};
use crate::source::{Position, Span, span};
use crate::stage::{Keep, Part, commit};
use crate::{Job, JobContext, JobReport, parse};

/// Bronze to silver: rules, deduplication, and the tables derived from the clean copies.
pub(crate) struct SilverTransformation;

#[derive(Debug, Parser)]
#[command(name = "silver_transformation")]
struct Args {
    /// Work on every bronze row again, not only on new ones; silver rows older than bronze's oldest day stay
    #[arg(long)]
    full: bool,
}

const EVENTS: &str = "silver_user_events";

/// Silver tables that are derived from the clean copies, in dependency order.
const DERIVED: &[Derived] = &[
    Derived::whole("silver_user_sessions", &[EVENTS], include_str!("../sql/silver/silver_user_sessions.sql")),
    Derived::whole("silver_product_performance", &["silver_products", EVENTS], include_str!("../sql/silver/silver_product_performance.sql")),
    Derived::whole(
        "silver_customer_behavior",
        &[EVENTS, "silver_user_sessions", "silver_product_performance"],
        include_str!("../sql/silver/silver_customer_behavior.sql"),
    ),
    Derived::whole("silver_api_performance", &["silver_api_logs"], include_str!("../sql/silver/silver_api_performance.sql")),
    Derived::whole("silver_weather_impact", &["silver_weather_data"], include_str!("../sql/silver/silver_weather_impact.sql")),
];

impl Job for SilverTransformation {
    fn name(&self) -> &'static str {
        "silver_transformation"
    }

    fn description(&self) -> &'static str {
        "New bronze rows to silver: rules (silver_quarantine), deduplication (silver_duplicates), queued days anew, derived tables"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let requests = reprocessing::pending(&context, Turn::Silver).await?;
            let total = LAYERS.len() + DERIVED.len();
            let (mut tables, mut read, mut rows) = (Map::new(), Map::new(), 0);
            let mut rebuilt = Map::new();
            for (done, layer) in LAYERS.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(layer.silver, done, total, rows);
                let new = transform(&context, layer, args.full).await?;
                let days = days_of(&requests, &layer.topic());
                if !days.is_empty() {
                    context.check_cancelled()?;
                    rebuilt.insert(layer.silver.to_owned(), json!(rebuild(&context, layer, &days).await?));
                }
                rows += new.silver;
                tables.insert(layer.silver.to_owned(), json!(new.silver));
                read.insert(layer.bronze.to_owned(), json!(new.read));
                tracing::info!(table = layer.silver, read = new.read, rows = new.silver, "silver copy up to date");
            }
            for (done, derived) in DERIVED.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(derived.table, LAYERS.len() + done, total, rows);
                if let Done::Written { rows: written, .. } = derive(&context, derived, &[], args.full).await? {
                    rows += written;
                    tables.insert(derived.table.to_owned(), json!(written));
                }
            }
            reprocessing::mark(&context, Turn::Silver, &requests, crate::now_micros()).await?;
            context.progress("done", total, total, rows);
            Ok(json!({ "tables": tables, "rows": rows, "bronze_rows_read": read, "requests": requests.len(), "days_rebuilt": rebuilt }))
        })
    }
}

/// Rows that a step read and gave to silver.
#[derive(Debug, Clone, Copy, Default)]
struct Transformed {
    read: u64,
    silver: u64,
}

/// Property of the silver copy: up to where bronze was worked on.
pub(crate) fn progress_key(layer: &Layer) -> String {
    format!("chainalytics.position.{}", layer.bronze)
}

/// Works on the rows that came since the last time; on all of them the first time.
async fn transform(context: &JobContext, layer: &Layer, full: bool) -> Result<Transformed> {
    let key = progress_key(layer);
    let silver = Part::new(context, layer.silver, Keep::All).await?;
    let before = Position::of(&silver.table, &key)?;
    let anew = full || before.is_none();
    let new = span(context, layer.bronze, layer.time, if anew { Position::default() } else { before.unwrap_or_default() }).await?;
    if new.rows == 0 {
        return Ok(Transformed::default());
    }
    let mut silver = silver.set(key, new.end.to_json());
    if anew {
        silver = silver.set(GENERATION, uuid::Uuid::new_v4().to_string());
    }
    let parts = parts(context, layer, silver, &new, anew).await?;
    let outcomes = commit(context, layer.silver, parts).await?;
    let name = context.table(layer.silver)?;
    let written = outcomes.iter().find(|o| o.ident == name).map_or(0, |o| o.added_rows);
    Ok(Transformed { read: new.rows, silver: written })
}

/// The three tables' parts.
async fn parts(context: &JobContext, layer: &Layer, silver: Part, new: &Span, anew: bool) -> Result<Vec<Part>> {
    let selected = new.condition();
    // Rows of days that bronze has lost to its retention stay.
    let from = new.times.map(|(first, _)| day_start(first)).filter(|_| anew);
    let against = new.times.filter(|_| !anew && silver.table.current_snapshot_id().is_some());
    let of_source = || col("source_table").eq(lit(layer.bronze));
    let side = |time: &str| from.map_or(Keep::All, |from| Keep::AllBut(of_source().and(since_filter(time, from))));
    let quarantine = Part::new(context, "silver_quarantine", side("event_time")).await?.query(context, &layer.quarantine_query(&selected)).await?;
    let duplicates =
        Part::new(context, "silver_duplicates", side("event_time")).await?.query(context, &layer.duplicates_query(&selected, against)).await?;
    let mut silver = silver.query(context, &layer.silver_query(&selected, against)).await?;
    if let Some(from) = from {
        silver.keep = Keep::AllBut(since_filter(layer.time, from));
    }
    Ok(vec![quarantine, duplicates, silver])
}

/// Builds whole days anew from every bronze row that silver has worked on; the rows of those days.
async fn rebuild(context: &JobContext, layer: &Layer, days: &std::collections::BTreeSet<i32>) -> Result<u64> {
    let mut silver = Part::new(context, layer.silver, Keep::AllBut(days_filter(layer.time, days))).await?;
    let Some(position) = Position::of(&silver.table, &progress_key(layer))? else { return Ok(0) };
    let selected = format!("{} AND {}", position.before(), days_condition(layer.time, days));
    let of_source = || col("source_table").eq(lit(layer.bronze));
    let side = || Keep::AllBut(of_source().and(days_filter("event_time", days)));
    let quarantine = Part::new(context, "silver_quarantine", side()).await?.query(context, &layer.quarantine_query(&selected)).await?;
    let duplicates = Part::new(context, "silver_duplicates", side()).await?.query(context, &layer.duplicates_query(&selected, None)).await?;
    silver = silver.query(context, &layer.silver_query(&selected, None)).await?;
    // Unchanged, but checked: rows that another run appends meanwhile must not be lost.
    silver = silver.set(progress_key(layer), position.to_json());
    let name = context.table(layer.silver)?;
    let outcomes = commit(context, &format!("{}:days", layer.silver), vec![quarantine, duplicates, silver]).await?;
    Ok(outcomes.iter().find(|o| o.ident == name).map_or(0, |o| o.added_rows))
}
