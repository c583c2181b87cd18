//! `chainalytics produce`: seeded events into Kafka topics, with a known share of faults.

use std::time::Duration;

use chainalytics_producers::{Format as RecordFormat, ProduceOptions, ProduceReport, Progress, Topic};
use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output::{self, Rows, thousands};
use crate::progress::Bars;
use crate::signals;
use crate::suggest;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  chainalytics produce user-events --count 100000\n  chainalytics produce all --rate 500 --duration 60s --malformed 0.02\n  \
                        chainalytics produce weather-data --count 1000 --seed 7 --output json\n\n\
                        The same seed and base time give the same records. Shares are fractions of all records, 0.1 for ten per cent."
)]
pub struct ProduceArgs {
    /// user-events, products, api-logs, user-posts, weather-data, or all; several separated by commas
    #[arg(value_name = "TOPIC", required = true, value_delimiter = ',')]
    topics: Vec<String>,
    /// Records per topic [default: 10000 unless --duration or --rate is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Records per second and topic [default: as fast as the broker takes them]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Time over which the rate rises from zero, such as 10s
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "rate")]
    ramp: Option<Duration>,
    /// End after this time, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Seed of the generators
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Share of late records
    #[arg(long, value_name = "SHARE")]
    late: Option<f64>,
    /// Share of records out of order
    #[arg(long, value_name = "SHARE")]
    out_of_order: Option<f64>,
    /// Share of repeated records
    #[arg(long, value_name = "SHARE")]
    duplicates: Option<f64>,
    /// Share of records that no reader can decode
    #[arg(long, value_name = "SHARE")]
    malformed: Option<f64>,
    /// Share of records that break a business rule
    #[arg(long, value_name = "SHARE")]
    invalid: Option<f64>,
    /// How values are written: auto (Avro with a schema registry, else JSON), json, avro, json-schema
    #[arg(long, default_value = "auto", value_name = "FORMAT", value_parser = ["auto", "json", "avro", "json-schema"])]
    format: String,
}

const DEFAULT_COUNT: u64 = 10_000;
/// Longest name of a topic.
const NAME_WIDTH: usize = 14;

pub async fn run(context: &Context, args: ProduceArgs) -> CliResult<()> {
    let options = options(&args)?;
    let report = produce(context, &options, signals::cancel_on_signal()).await?;
    print(context, &report)?;
    if report.cancelled { Err(CliError::Interrupted) } else { Ok(()) }
}

fn options(args: &ProduceArgs) -> CliResult<ProduceOptions> {
    let mut topics = Vec::new();
    for name in &args.topics {
        if name == "all" {
            topics.extend(Topic::ALL);
        } else {
            topics.push(name.parse::<Topic>().map_err(|_| {
                let known: Vec<&str> = Topic::ALL.iter().map(|t| t.name()).chain(["all"]).collect();
                CliError::usage(suggest::unknown("topic", name, &known))
            })?);
        }
    }
    let endless = args.rate.is_some() || args.duration.is_some();
    let options = ProduceOptions {
        topics,
        count: args.count.or((!endless).then_some(DEFAULT_COUNT)),
        rate: args.rate,
        ramp: args.ramp.unwrap_or_default(),
        duration: args.duration,
        seed: args.seed,
        late: args.late,
        out_of_order: args.out_of_order,
        duplicates: args.duplicates,
        malformed: args.malformed,
        invalid: args.invalid,
        format: args.format.parse::<RecordFormat>().map_err(|e| CliError::usage(e.to_string()))?,
        ..ProduceOptions::default()
    };
    options.validate().map_err(|e| CliError::usage(e.to_string()))?;
    Ok(options)
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 30s, 5m or 1h"))
}

/// Produces with live figures on stderr.
pub async fn produce(context: &Context, options: &ProduceOptions, cancel: CancellationToken) -> CliResult<ProduceReport> {
    let bars = Bars::new(context, NAME_WIDTH);
    produce_under(context, options, &bars, cancel).await
}

/// As [`produce`], below the bars that are there.
pub async fn produce_under(context: &Context, options: &ProduceOptions, bars: &Bars, cancel: CancellationToken) -> CliResult<ProduceReport> {
    let all: Vec<_> = options.topics.iter().map(|topic| (*topic, bars.add(topic.name(), options.count.unwrap_or(0)))).collect();
    let show = |progress: &Progress| {
        for told in &progress.topics {
            if let Some((_, bar)) = all.iter().find(|(topic, _)| *topic == told.topic) {
                let rate = told.acked as f64 / progress.seconds.max(0.001);
                let text = format!("{} records, {}/s, {:.1} MB", thousands(told.acked), thousands(rate as u64), told.bytes as f64 / 1e6);
                bar.set(told.acked, told.total.unwrap_or(0), &text);
            }
        }
    };
    let report = chainalytics_producers::produce(&context.config(), options, show, cancel).await;
    match &report {
        Ok(report) => {
            for told in &report.topics {
                if let Some((_, bar)) = all.iter().find(|(topic, _)| *topic == told.topic) {
                    bar.done(&format!("{} records", thousands(told.acked)));
                }
            }
        }
        Err(_) => all.iter().for_each(|(_, bar)| bar.failed("")),
    }
    Ok(report?)
}

fn print(context: &Context, report: &ProduceReport) -> CliResult<()> {
    if context.json() {
        return output::json(report);
    }
    let mut rows =
        Rows::new(&["topic", "sent", "acked", "on_time", "late", "too_late", "out_of_order", "duplicates", "malformed", "invalid", "seconds"]);
    for t in &report.topics {
        let c = &t.counts;
        rows.push(vec![
            json!(t.topic.name()),
            json!(c.sent),
            json!(t.acked),
            json!(c.on_time),
            json!(c.late),
            json!(c.too_late),
            json!(c.out_of_order),
            json!(c.duplicates),
            json!(c.malformed),
            json!(c.invalid),
            json!((t.seconds * 100.0).round() / 100.0),
        ]);
    }
    rows.print(context.format())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: ProduceArgs,
    }

    fn parse(line: &str) -> CliResult<ProduceOptions> {
        options(&Wrapper::try_parse_from(std::iter::once("produce").chain(line.split(' '))).unwrap().args)
    }

    #[test]
    fn a_count_is_assumed_only_when_nothing_else_ends_it() {
        assert_eq!(parse("products").unwrap().count, Some(DEFAULT_COUNT));
        assert_eq!(parse("products --duration 30s").unwrap().count, None);
        assert_eq!(parse("all").unwrap().topics.len(), 5);
        assert_eq!(parse("products,api-logs --count 5").unwrap().count, Some(5));
    }

    #[test]
    fn wrong_topics_and_shares_are_refused() {
        assert!(parse("product").unwrap_err().to_string().contains("products"), "the nearest name is suggested");
        assert!(parse("products --malformed 1.5").is_err());
    }
}
