//! Silver and gold: each table is the result of a query over the layer below, replaced as a whole in one commit.

use async_trait::async_trait;
use chainalytics_common::Result;
use chainalytics_lakehouse::dml::WriteMode;
use datafusion::prelude::{col, lit};

use crate::layers::LAYERS;
use crate::{Job, JobContext, JobReport, NoArgs, parse, tables_report};

/// Bronze to silver: rules, deduplication, and the tables derived from the clean copies.
pub(crate) struct SilverTransformation;

/// Silver tables that are derived from the clean copies, in dependency order.
const SILVER_DERIVED: &[(&str, &str)] = &[
    ("silver_user_sessions", include_str!("../sql/silver/silver_user_sessions.sql")),
    ("silver_product_performance", include_str!("../sql/silver/silver_product_performance.sql")),
    ("silver_customer_behavior", include_str!("../sql/silver/silver_customer_behavior.sql")),
    ("silver_api_performance", include_str!("../sql/silver/silver_api_performance.sql")),
    ("silver_weather_impact", include_str!("../sql/silver/silver_weather_impact.sql")),
];

#[async_trait]
impl Job for SilverTransformation {
    fn name(&self) -> &'static str {
        "silver_transformation"
    }

    fn description(&self) -> &'static str {
        "Bronze to silver: rules (silver_quarantine), deduplication (silver_duplicates), derived tables"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        parse::<NoArgs>(self.name(), args)?;
        let mut steps: Vec<(&str, String)> = LAYERS.iter().map(|layer| (layer.silver, layer.silver_query())).collect();
        // Source by source, not as one UNION: Ballista 55.0 can lose the task updates of a stage with a UNION and never end it.
        for layer in LAYERS {
            for (table, query) in [("silver_quarantine", layer.quarantine_query()), ("silver_duplicates", layer.duplicates_query())] {
                context.check_cancelled()?;
                let frame = context.session().dataframe(&query).await?;
                let mode = WriteMode::OverwriteFilter(col("source_table").eq(lit(layer.bronze)));
                context.session().write(frame, &context.table(table)?, mode, &format!("{table}:{}", layer.bronze)).await?;
            }
        }
        steps.extend(SILVER_DERIVED.iter().map(|(table, query)| (*table, (*query).to_owned())));
        replace_all(&context, &steps).await
    }
}

/// Silver to gold: dimensions, facts and KPIs.
pub(crate) struct GoldAggregation;

/// Gold tables and their queries, in dependency order.
const GOLD: &[(&str, &str)] = &[
    ("dim_date", include_str!("../sql/gold/dim_date.sql")),
    ("dim_product", include_str!("../sql/gold/dim_product.sql")),
    ("fact_customer_activity", include_str!("../sql/gold/fact_customer_activity.sql")),
    ("fact_operational_metrics", include_str!("../sql/gold/fact_operational_metrics.sql")),
    ("gold_customer_analytics", include_str!("../sql/gold/gold_customer_analytics.sql")),
    ("gold_product_performance", include_str!("../sql/gold/gold_product_performance.sql")),
    ("gold_daily_business_summary", include_str!("../sql/gold/gold_daily_business_summary.sql")),
    ("gold_executive_dashboard", include_str!("../sql/gold/gold_executive_dashboard.sql")),
    ("gold_customer_conversion_features", include_str!("../sql/gold/gold_customer_conversion_features.sql")),
];

const WEATHER_PLATFORM: &str = include_str!("../sql/gold/weather_platform.sql");
const WEATHER_FLIGHTS: &str = include_str!("../sql/gold/weather_flights.sql");

#[async_trait]
impl Job for GoldAggregation {
    fn name(&self) -> &'static str {
        "gold_aggregation"
    }

    fn description(&self) -> &'static str {
        "Silver to gold: dimensions, facts, KPIs, and weather against flights where both were loaded"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        parse::<NoArgs>(self.name(), args)?;
        let mut steps: Vec<(&str, String)> = GOLD.iter().map(|(table, query)| (*table, (*query).to_owned())).collect();
        let catalog = context.session().lakehouse().catalog().clone();
        let mut flights = true;
        for table in ["bronze_flights", "bronze_weather_observations"] {
            flights &= catalog.table_exists(&context.table(table)?).await?;
        }
        let weather = if flights { format!("{WEATHER_PLATFORM} UNION ALL {WEATHER_FLIGHTS}") } else { WEATHER_PLATFORM.to_owned() };
        steps.push(("gold_weather_correlation", weather));
        replace_all(&context, &steps).await
    }
}

async fn replace_all(context: &JobContext, steps: &[(&str, String)]) -> Result<JobReport> {
    let mut tables = Vec::with_capacity(steps.len());
    let mut rows = 0;
    for (done, (table, query)) in steps.iter().enumerate() {
        context.check_cancelled()?;
        context.progress(table, done, steps.len(), rows);
        let written = context.replace(table, query).await?;
        tracing::info!(table, rows = written, "table replaced");
        rows += written;
        tables.push(((*table).to_owned(), written));
    }
    context.progress("done", steps.len(), steps.len(), rows);
    Ok(tables_report(&tables))
}
