//! Kafka to Iceberg: JSON events through `kafka_to_bronze`, once through everything that is there (`available-now`), exactly-once and validation on.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::process::{Binary, Cluster};
use crate::results::ratio;
use crate::sampler::{Sampler, Usage};
use crate::{Result, machine, note, results};

const TOPIC: &str = "user-events";
const COUNT: &str = "SELECT (SELECT count(*) FROM bronze_user_events) + (SELECT count(*) FROM bronze_dead_letters) AS n";

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Records in the topic
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// The binary; by default this checkout's release build
    #[arg(long)]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 3)]
    executors: usize,
    #[arg(long, default_value_t = 3300)]
    port_offset: u16,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Brokers of a real Kafka; without it the embedded broker
    #[arg(long)]
    kafka: Option<String>,
    /// Configuration, key=value; may be repeated
    #[arg(long)]
    conf: Vec<String>,
    /// A command that lets Spark read the same topic once, run in turn with ours; its wall-clock time counts. $KAFKA and $TOPIC are in its environment
    #[arg(long)]
    spark_command: Option<String>,
    /// Keep the result out of benches/results and benches/README.md
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Default)]
struct Measured {
    seconds: Option<f64>,
    peak_rss_bytes: u64,
    peak_pss_bytes: u64,
    broker_rss_bytes: u64,
    cpu_seconds: f64,
}

impl Measured {
    fn add(&mut self, seconds: f64, usage: &Usage, broker_rss_bytes: u64) {
        self.peak_rss_bytes = self.peak_rss_bytes.max(usage.peak_rss_bytes);
        self.peak_pss_bytes = self.peak_pss_bytes.max(usage.peak_pss_bytes);
        self.broker_rss_bytes = self.broker_rss_bytes.max(broker_rss_bytes);
        if self.seconds.is_none_or(|best| seconds < best) {
            self.seconds = Some(seconds);
            self.cpu_seconds = usage.cpu_seconds;
        }
    }
}

/// # Errors
/// If the cluster or a job fails, or a record is missing or doubled.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let dir = std::env::temp_dir().join(format!("chainalytics-bench-{}", std::process::id()));
    let outcome = measure(options, &dir);
    let _removed = std::fs::remove_dir_all(&dir);
    let (ours, spark, bytes) = outcome?;
    let rate = |m: &Measured| m.seconds.map(|s| options.records as f64 / s);
    let mut table = format!(
        "`make bench-streaming RECORDS={} ROUNDS={}`, {}: {} JSON records of {:.0} bytes, {}, {} executors, best of {} rounds; {}.\n\n\
         | engine | seconds | records/s | peak RSS MB | peak PSS MB | broker RSS MB | CPU s |\n|---|---|---|---|---|---|---|\n",
        options.records,
        options.rounds,
        results::now(),
        options.records,
        bytes,
        if options.kafka.is_some() { "Apache Kafka" } else { "embedded broker" },
        options.executors,
        options.rounds,
        machine::line(&machine)
    );
    for (name, measured) in [("ChainAnalytics", Some(&ours)), ("Spark", spark.as_ref())] {
        let _ = match measured {
            Some(m) => writeln!(
                table,
                "| {name} | {:.2} | {:.0} | {} | {} | {} | {:.1} |",
                m.seconds.unwrap_or_default(),
                rate(m).unwrap_or_default(),
                m.peak_rss_bytes >> 20,
                m.peak_pss_bytes >> 20,
                m.broker_rss_bytes >> 20,
                m.cpu_seconds
            ),
            None => writeln!(table, "| {name} | not run | | | | | |"),
        };
    }
    if let Some(spark) = &spark {
        let _ = writeln!(table, "\nThroughput over Spark's: {}", ratio(rate(&ours), rate(spark)));
    }
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))?;
    if !options.dry_run {
        let value = |m: &Measured| {
            json!({ "seconds": m.seconds, "records_per_second": rate(m), "peak_rss_mb": m.peak_rss_bytes >> 20, "peak_pss_mb": m.peak_pss_bytes >> 20, "broker_rss_mb": m.broker_rss_bytes >> 20,
                "cpu_seconds": m.cpu_seconds })
        };
        results::append(
            "streaming",
            &json!({ "bench": "streaming", "at": results::now(), "records": options.records, "record_bytes": bytes, "kafka": options.kafka.is_some(),
                "executors": options.executors, "conf": options.conf, "machine": machine, "ours": value(&ours), "spark": spark.as_ref().map(value) }),
        )?;
        results::publish("streaming", &table)?;
    }
    Ok(())
}

/// Ours, Spark's, and the mean bytes of a record.
fn measure(options: &Options, dir: &std::path::Path) -> Result<(Measured, Option<Measured>, f64)> {
    let binary = Binary::new(options.binary.clone(), dir)?;
    let mut more = Vec::new();
    if let Some(kafka) = &options.kafka {
        more.extend(["--conf".to_owned(), format!("kafka.bootstrap.servers={kafka}")]);
    }
    for setting in &options.conf {
        more.extend(["--conf".to_owned(), setting.clone()]);
    }
    let cluster = Cluster::start(&binary, options.executors, options.port_offset, &more)?;
    let records = options.records.to_string();
    let produced = binary.run(&["produce", TOPIC, "--count", &records, "--format", "json", "--quiet", "--output", "json"])?;
    let report: Value = serde_json::from_str(&produced).map_err(|e| format!("cannot read the producer's report: {e}"))?;
    let bytes = report["topics"][0]["bytes"].as_f64().unwrap_or(0.0) / options.records as f64;
    note(&format!("produced {records} records in {} s", report["seconds"]));

    let (mut ours, mut spark) = (Measured::default(), options.spark_command.as_ref().map(|_| Measured::default()));
    for round in 1..=options.rounds.max(1) {
        // A stream's progress is its tables': without them it starts anew.
        binary.run(&["sql", "--quiet", "-e", "DROP TABLE IF EXISTS bronze_user_events; DROP TABLE IF EXISTS bronze_dead_letters"])?;
        binary.run(&["submit", "create_bronze_tables", "--quiet"])?;
        let (engine, broker) = (Sampler::start(cluster.engine()), Sampler::watch(cluster.broker()));
        let started = Instant::now();
        binary.run(&["submit", "kafka_to_bronze", "--quiet", "--", "--topics", TOPIC, "--trigger", "available-now"])?;
        let seconds = started.elapsed().as_secs_f64();
        ours.add(seconds, &engine.stop(), broker.stop().peak_rss_bytes);
        note(&format!("round {round}: {seconds:.2} s, {:.0} records/s", options.records as f64 / seconds));
        let stored = binary.run(&["sql", "--quiet", "--output", "json", "-e", COUNT])?;
        let stored: Value = serde_json::from_str(&stored).map_err(|e| format!("cannot read a count: {e}"))?;
        if options.kafka.is_none() && stored["n"].as_u64() != Some(options.records) {
            return Err(format!("{} of {} records are stored", stored["n"], options.records));
        }
        if let (Some(command), Some(spark)) = (&options.spark_command, &mut spark) {
            let sampler = Sampler::start(vec![]);
            let started = Instant::now();
            let status = Command::new("sh")
                .args(["-c", command])
                .env("KAFKA", options.kafka.clone().unwrap_or_else(|| cluster.kafka.clone()))
                .env("TOPIC", TOPIC)
                .stdout(std::process::Stdio::null())
                .status()
                .map_err(|e| format!("cannot start Spark's command: {e}"))?;
            let seconds = started.elapsed().as_secs_f64();
            if !status.success() {
                return Err(format!("Spark's command failed: {status}"));
            }
            spark.add(seconds, &sampler.stop(), 0);
            note(&format!("round {round}: Spark {seconds:.2} s"));
        }
    }
    Ok((ours, spark, bytes))
}
