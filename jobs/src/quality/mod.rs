//! `quality_checks`: every expectation of the data model measured, told in `data_quality_report`, failures in `data_quality_alerts`. A failed
//! critical check fails the run, after it has been told.

mod report;
mod rules;

use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use clap::{Parser, ValueEnum};
use futures::future::BoxFuture;

use crate::layers::{LAYERS, Layer};
use crate::rows::fetch;
use crate::silver::progress_key;
use crate::source::{Position, moment, text};
use crate::stage::{Keep, Part, commit};
use crate::{Job, JobContext, JobReport, parse, parse_duration, parse_moment, setup};
use report::{Report, Severity};
use rules::{REFERENCES, Reference, TABLES, TableRules};

/// Measures tables against what is expected of them.
pub(crate) struct QualityChecks;

/// What makes the run fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Critical,
    Warning,
    Never,
}

#[derive(Debug, Parser)]
#[command(name = "quality_checks")]
struct Args {
    /// Only these tables, separated by commas
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
    /// What makes the run fail
    #[arg(long, value_enum, default_value = "critical")]
    fail_on: FailOn,
    /// How old the newest event of a table may be
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    freshness: Duration,
    /// The time that counts as now, RFC 3339
    #[arg(long, value_parser = parse_moment)]
    now: Option<i64>,
}

impl Job for QualityChecks {
    fn name(&self) -> &'static str {
        "quality_checks"
    }

    fn description(&self) -> &'static str {
        "Completeness, uniqueness, ranges, references, schema, freshness, delays, sums, volume; fails on critical findings (-- --fail-on never)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let now = args.now.unwrap_or_else(crate::now_micros);
            let wanted = |table: &str| args.tables.is_empty() || args.tables.iter().any(|t| t == table);
            if let Some(unknown) = args.tables.iter().find(|t| !TABLES.iter().any(|rules| rules.table == t.as_str())) {
                let known: Vec<&str> = TABLES.iter().map(|rules| rules.table).collect();
                return Err(Error::new(
                    ErrorCode::InvalidArgument,
                    format!("no checks are known for table {unknown:?}; there are some for {}", known.join(", ")),
                ));
            }
            let tables: Vec<&TableRules> = TABLES.iter().filter(|rules| wanted(rules.table)).collect();
            let mut report = Report::default();
            schema(&context, &mut report).await?;
            let total = tables.len() + 1;
            for (done, rules) in tables.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(rules.table, done, total, report.findings.len() as u64);
                if exists(&context, rules.table).await? {
                    table(&context, rules, args.freshness, now, &mut report).await?;
                }
            }
            context.progress("across tables", tables.len(), total, report.findings.len() as u64);
            for layer in LAYERS.iter().filter(|layer| wanted(layer.silver)) {
                context.check_cancelled()?;
                accounted(&context, layer, &mut report).await?;
            }
            for reference in REFERENCES.iter().filter(|reference| wanted(reference.table)) {
                orphans(&context, reference, &mut report).await?;
            }
            if args.tables.is_empty() {
                platform(&context, &mut report).await?;
            }
            let told = Part::new(&context, "data_quality_report", Keep::All).await?.frame(report.frame(&context, now)?);
            let mut parts = vec![told];
            if let Some(alerts) = report.alerts(&context, now)? {
                parts.push(Part::new(&context, "data_quality_alerts", Keep::All).await?.frame(alerts));
            }
            commit(&context, "data_quality_report", parts).await?;
            context.progress("done", total, total, report.findings.len() as u64);
            verdict(&report, args.fail_on)?;
            Ok(report.to_json())
        })
    }
}

fn verdict(report: &Report, fail_on: FailOn) -> Result<()> {
    let mut failed = match fail_on {
        FailOn::Never => return Ok(()),
        FailOn::Critical | FailOn::Warning => report.failed(Severity::Critical),
    };
    if fail_on == FailOn::Warning {
        failed.extend(report.failed(Severity::Warning));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let named: Vec<String> =
        failed.iter().take(10).map(|f| format!("{} {} {} = {}", f.table, f.check, f.metric, f.value.unwrap_or_default())).collect();
    let more = if failed.len() > named.len() { format!(" and {} more", failed.len() - named.len()) } else { String::new() };
    Err(Error::new(ErrorCode::QualityFailed, format!("{} checks failed: {}{more}", failed.len(), named.join("; "))))
}

async fn exists(context: &JobContext, table: &str) -> Result<bool> {
    context.session().lakehouse().catalog().table_exists(&context.table(table)?).await
}

/// Tables and columns as declared.
async fn schema(context: &JobContext, report: &mut Report) -> Result<()> {
    let found = setup::verify(context).await?;
    let message = found.problems.join("; ");
    #[allow(clippy::cast_precision_loss)]
    let missing = found.problems.len() as f64;
    report.value("platform", "schema", "missing_tables_and_columns", Some(missing), Some(0.0), Severity::Critical, message);
    Ok(())
}

/// One pass over a table for everything that one row tells, one more for each key.
async fn table(context: &JobContext, rules: &TableRules, freshness: Duration, now: i64, report: &mut Report) -> Result<()> {
    let table = rules.table;
    let mut columns = vec!["count(*) AS n".to_owned()];
    let nulls = rules.critical.iter().chain(rules.others);
    columns.extend(nulls.map(|c| format!("count(*) FILTER (WHERE {c} IS NULL) AS null_{c}")));
    columns.extend(rules.ranges.iter().map(|(name, broken)| format!("count(*) FILTER (WHERE {broken}) AS rule_{name}")));
    if let Some(time) = rules.time {
        columns.push(format!("count(*) FILTER (WHERE {time} > {}) AS future, max({time}) AS newest", moment(now)));
        if let Some(arrival) = rules.arrival {
            let delay = format!("CAST(greatest(arrow_cast({arrival}, 'Int64') - arrow_cast({time}, 'Int64'), 0) AS DOUBLE) / 1000000.0");
            columns.push(format!("avg({delay}) AS average_delay_s, max({delay}) AS max_delay_s"));
        }
    }
    let rows = fetch(context.session(), &format!("SELECT {} FROM {table}", columns.join(", "))).await?;
    let n = rows.count(0, "n");
    report.count(table, "profile", "row_count", n, None, Severity::Info);
    for column in rules.critical {
        report.share(table, "completeness", format!("null_{column}"), rows.count(0, &format!("null_{column}")), n, 0.0, Severity::Critical);
    }
    for column in rules.others {
        report.share(
            table,
            "completeness",
            format!("null_{column}"),
            rows.count(0, &format!("null_{column}")),
            n,
            rules::NULLS_MAX,
            Severity::Warning,
        );
    }
    for (name, _) in rules.ranges {
        report.share(table, "range", *name, rows.count(0, &format!("rule_{name}")), n, 0.0, Severity::Critical);
    }
    if rules.time.is_some() {
        report.share(table, "timeliness", "future_events", rows.count(0, "future"), n, 0.0, Severity::Critical);
        #[allow(clippy::cast_precision_loss)]
        let age = rows.micros(0, "newest").map(|newest| (now - newest) as f64 / 1e6);
        report.value(table, "freshness", "newest_event_age_s", age, Some(freshness.as_secs_f64()), Severity::Warning, String::new());
    }
    if rules.arrival.is_some() {
        for (metric, most) in [("average_delay_s", rules::AVERAGE_DELAY_MAX_S), ("max_delay_s", rules::DELAY_MAX_S)] {
            report.value(table, "sla", metric, rows.double(0, metric), Some(most), Severity::Warning, String::new());
        }
    }
    for (key, most) in rules.unique {
        let query =
            format!("SELECT coalesce(sum(n - 1), 0) AS repeated FROM (SELECT count(*) AS n FROM {table} GROUP BY {key} HAVING count(*) > 1) AS r");
        let repeated = fetch(context.session(), &query).await?.count(0, "repeated");
        let severity = if *most > 0.0 { Severity::Warning } else { Severity::Critical };
        report.share(table, "uniqueness", format!("repeated({key})"), repeated, n, *most, severity);
    }
    Ok(())
}

/// Every bronze row that silver has worked on is in the copy, in quarantine or among the duplicates.
async fn accounted(context: &JobContext, layer: &Layer, report: &mut Report) -> Result<()> {
    for table in [layer.bronze, layer.silver, "silver_quarantine", "silver_duplicates"] {
        if !exists(context, table).await? {
            return Ok(());
        }
    }
    let silver = context.session().lakehouse().catalog().load_table(&context.table(layer.silver)?).await?;
    let Some(position) = Position::of(&silver, &progress_key(layer))? else { return Ok(()) };
    let source = text(layer.bronze);
    let query = format!(
        "SELECT b.n AS bronze, s.n + q.n + d.n AS found FROM (SELECT count(*) AS n FROM {} WHERE {}) AS b CROSS JOIN (SELECT count(*) AS n FROM {}) AS s \
         CROSS JOIN (SELECT count(*) AS n FROM silver_quarantine WHERE source_table = {source}) AS q \
         CROSS JOIN (SELECT count(*) AS n FROM silver_duplicates WHERE source_table = {source}) AS d",
        layer.bronze,
        position.before(),
        layer.silver
    );
    let rows = fetch(context.session(), &query).await?;
    // Silver is kept longer than bronze, so that only what is lacking is a fault.
    let lacking = rows.count(0, "bronze").saturating_sub(rows.count(0, "found"));
    report.count(layer.silver, "accounting", "bronze_rows_unaccounted", lacking, Some(0), Severity::Critical);
    Ok(())
}

async fn orphans(context: &JobContext, reference: &Reference, report: &mut Report) -> Result<()> {
    let Reference { table, column, to, to_column, critical } = *reference;
    if !exists(context, table).await? || !exists(context, to).await? {
        return Ok(());
    }
    let query = format!(
        "SELECT count(*) AS n, count(*) FILTER (WHERE r.k IS NULL) AS orphans FROM (SELECT {column} AS c FROM {table} WHERE {column} IS NOT NULL) AS t \
         LEFT JOIN (SELECT DISTINCT {to_column} AS k FROM {to}) AS r ON t.c = r.k"
    );
    let rows = fetch(context.session(), &query).await?;
    let severity = if critical { Severity::Critical } else { Severity::Warning };
    report.share(table, "referential_integrity", format!("{column}->{to}.{to_column}"), rows.count(0, "orphans"), rows.count(0, "n"), 0.0, severity);
    Ok(())
}

/// What no single table tells.
async fn platform(context: &JobContext, report: &mut Report) -> Result<()> {
    let session = context.session();
    if exists(context, "dim_customer").await? {
        let overlapping = fetch(session, rules::VERSIONS).await?.count(0, "n");
        report.count("dim_customer", "history", "overlapping_versions", overlapping, Some(0), Severity::Critical);
    }
    if exists(context, "gold_daily_business_summary").await? && exists(context, "silver_user_events").await? {
        let behind = pending_rows(context).await?;
        // Before gold has caught up, its revenue is not yet silver's.
        if behind == 0 {
            let difference = fetch(session, rules::REVENUE).await?.double(0, "value");
            report.value(
                "gold_daily_business_summary",
                "consistency",
                "revenue_difference",
                difference,
                Some(1e-6),
                Severity::Critical,
                String::new(),
            );
        }
        let deviation = fetch(session, rules::VOLUME).await?.double(0, "value");
        let most = Some(rules::VOLUME_DEVIATION_MAX);
        report.value("gold_daily_business_summary", "anomaly", "daily_events_deviation", deviation, most, Severity::Warning, String::new());
    }
    if exists(context, "monitoring_completeness").await? {
        let query = "SELECT coalesce(sum(missing), 0) AS missing, coalesce(sum(expected), 0) AS expected FROM monitoring_completeness";
        let rows = fetch(session, query).await?;
        report.share(
            "monitoring_completeness",
            "completeness",
            "missing_positions",
            rows.count(0, "missing"),
            rows.count(0, "expected"),
            0.0,
            Severity::Critical,
        );
    }
    if exists(context, "bronze_streaming_events_late").await? && exists(context, "bronze_streaming_events").await? {
        let query = "SELECT l.n AS late, o.n AS on_time FROM (SELECT count(*) AS n FROM bronze_streaming_events_late) AS l \
                     CROSS JOIN (SELECT count(*) AS n FROM bronze_streaming_events) AS o";
        let rows = fetch(session, query).await?;
        report.share(
            "bronze_streaming_events_late",
            "sla",
            "late_share",
            rows.count(0, "late"),
            rows.count(0, "on_time"),
            rules::LATE_SHARE_MAX,
            Severity::Warning,
        );
    }
    if exists(context, "bronze_dead_letters").await? {
        let query = "SELECT d.n AS dead, b.n AS rows FROM (SELECT count(*) AS n FROM bronze_dead_letters WHERE kafka_topic = 'user-events') AS d \
                     CROSS JOIN (SELECT count(*) AS n FROM bronze_user_events) AS b";
        let rows = fetch(session, query).await?;
        report.share(
            "bronze_dead_letters",
            "validity",
            "dead_letter_share",
            rows.count(0, "dead"),
            rows.count(0, "rows"),
            rules::DEAD_LETTERS_MAX,
            Severity::Warning,
        );
    }
    Ok(())
}

/// Rows of silver that gold's facts by day have not seen.
async fn pending_rows(context: &JobContext) -> Result<u64> {
    let gold = context.session().lakehouse().catalog().load_table(&context.table("gold_daily_business_summary")?).await?;
    let Some(position) = crate::derived::followed_position(&gold, "silver_user_events")? else { return Ok(1) };
    Ok(crate::source::span(context, "silver_user_events", "event_timestamp", position).await?.rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report(severity: Severity) -> Report {
        let mut report = Report::default();
        report.count("t", "range", "m", 1, Some(0), severity);
        report
    }

    #[test]
    fn critical_findings_fail_the_run_and_warnings_do_not() {
        assert_eq!(verdict(&report(Severity::Critical), FailOn::Critical).unwrap_err().code(), ErrorCode::QualityFailed);
        assert!(verdict(&report(Severity::Warning), FailOn::Critical).is_ok());
        assert!(verdict(&report(Severity::Warning), FailOn::Warning).is_err());
        assert!(verdict(&report(Severity::Critical), FailOn::Never).is_ok());
    }
}
