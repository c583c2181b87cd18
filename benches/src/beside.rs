//! Kafka to Iceberg beside Spark, on one Apache Kafka and the same topics, each side in turn: everything there is, once, into a new table of the same
//! columns, partitions and compression. And bare consumption by librdkafka, as what the machine could do at most.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::events::{self, FIELDS};
use crate::kafka::{self, Format};
use crate::parts::Parts;
use crate::process::{Binary, Cluster};
use crate::results::ratio;
use crate::sampler::{Sampler, Usage};
use crate::spark::Spark;
use crate::{Result, machine, note, results};

const SCRIPT: &str = include_str!("../python/spark_stream.py");
/// Spark's workers, and executors of ours.
const WORKERS: usize = 3;
/// What our table has beside the events' columns.
const LINEAGE: &str = "kafka_topic STRING, kafka_partition INT, kafka_offset BIGINT, kafka_timestamp TIMESTAMP, ingestion_batch_id BIGINT, ingestion_run_id STRING, \
                       ingested_at TIMESTAMP";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Side {
    /// A cluster of three executors
    Cluster,
    /// One process, local[2]
    Local,
    /// Spark, one JVM, local[2]
    SparkLocal,
    /// Spark standalone: a master, three workers
    SparkStandalone,
    /// librdkafka alone, no decoding, nothing written
    Bare,
}

impl Side {
    fn words(self) -> &'static str {
        match self {
            Side::Cluster => "ChainAnalytics, 3 executors",
            Side::Local => "ChainAnalytics local[2]",
            Side::SparkLocal => "Spark local[2]",
            Side::SparkStandalone => "Spark standalone, 3 workers",
            Side::Bare => "librdkafka, read only",
        }
    }
}

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Events in each topic
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// How the events are written: json, avro
    #[arg(long, value_delimiter = ',', default_value = "json,avro")]
    formats: Vec<String>,
    /// Which sides run
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bare,cluster,spark-standalone,local,spark-local")]
    sides: Vec<Side>,
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// The binary; by default this checkout's release build
    #[arg(long)]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 3600)]
    port_offset: u16,
    /// Configuration of our sides, key=value; may be repeated
    #[arg(long)]
    conf: Vec<String>,
    /// Keep the result out of benches/results and benches/README.md
    #[arg(long)]
    dry_run: bool,
}

/// The best of the rounds.
#[derive(Debug, Clone, Default)]
struct Best {
    /// Of the job's own work: all of it for us, from the first task on for Spark.
    seconds: f64,
    /// From the command's start to its end.
    wall_seconds: f64,
    usage: Usage,
    rounds: Vec<f64>,
}

/// What a side gave in one round.
struct Once {
    seconds: f64,
    wall_seconds: f64,
    usage: Usage,
    /// Stored rows, and count and sums over whole events; none for those who only read.
    rows: Option<(u64, Vec<i64>)>,
}

struct Bench<'a> {
    options: &'a Options,
    dir: &'a Path,
    spark: Option<Spark>,
    bootstrap: String,
    registry: Option<String>,
}

/// # Errors
/// If a side fails, or two have different rows.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let dir = std::env::temp_dir().join(format!("chainalytics-beside-{}", std::process::id()));
    let outcome = measure(options, &dir);
    let _removed = std::fs::remove_dir_all(&dir);
    let (found, sizes) = outcome?;
    let mut table = format!(
        "`make bench-streaming-spark RECORDS={} ROUNDS={}`, {}: Apache Kafka, {} events, best of {} rounds, in turn; {}. Seconds are of the job: all of it for us, \
         without the start of the JVM and its executors for Spark (that is in the wall time).\n",
        options.records,
        options.rounds,
        results::now(),
        options.records,
        options.rounds,
        machine::line(&machine)
    );
    for format in &options.formats {
        let Some(sides) = found.get(format) else { continue };
        let size = sizes.get(format).copied().unwrap_or(0.0);
        let _ = write!(
            table,
            "\n{} of {size:.0} bytes:\n\n| side | seconds | events/s | wall s | peak RSS MB | peak PSS MB | CPU s |\n|---|---|---|---|---|---|---|\n",
            format.to_uppercase()
        );
        for (side, best) in sides {
            let _ = writeln!(
                table,
                "| {} | {:.2} | {:.0} | {:.2} | {} | {} | {:.1} |",
                side.words(),
                best.seconds,
                options.records as f64 / best.seconds,
                best.wall_seconds,
                best.usage.peak_rss_bytes >> 20,
                best.usage.peak_pss_bytes >> 20,
                best.usage.cpu_seconds
            );
        }
        let rate = |side: Side| sides.get(&side).map(|best| 1.0 / best.seconds);
        for (ours, theirs) in
            [(Side::Cluster, Side::SparkStandalone), (Side::Local, Side::SparkLocal), (Side::Cluster, Side::Bare), (Side::Local, Side::Bare)]
        {
            if let (Some(a), Some(b)) = (rate(ours), rate(theirs)) {
                let _ = writeln!(table, "\nThroughput of {} over {}: {}", ours.words(), theirs.words(), ratio(Some(a), Some(b)));
            }
        }
    }
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))?;
    if !options.dry_run {
        let value = |best: &Best| {
            json!({ "seconds": best.seconds, "events_per_second": options.records as f64 / best.seconds, "wall_seconds": best.wall_seconds, "rounds": best.rounds,
                "peak_rss_mb": best.usage.peak_rss_bytes >> 20, "peak_pss_mb": best.usage.peak_pss_bytes >> 20, "cpu_seconds": best.usage.cpu_seconds })
        };
        let formats: BTreeMap<&String, BTreeMap<&str, Value>> =
            found.iter().map(|(format, sides)| (format, sides.iter().map(|(side, best)| (side.words(), value(best))).collect())).collect();
        results::append(
            "streaming-spark",
            &json!({ "bench": "streaming-spark", "at": results::now(), "records": options.records, "bytes": sizes, "conf": options.conf, "machine": machine, "formats": formats }),
        )?;
        results::publish("streaming beside spark", &table)?;
    }
    Ok(())
}

type Found = BTreeMap<String, BTreeMap<Side, Best>>;

/// The best of each side by format, and the mean bytes of an event.
fn measure(options: &Options, dir: &Path) -> Result<(Found, BTreeMap<String, f64>)> {
    let mut parts = Parts::new(&dir.join("parts"), options.port_offset, &[])?;
    parts.up("kafka")?;
    let avro = options.formats.iter().any(|f| f == "avro");
    if avro {
        parts.up("registry")?;
    }
    let registry = if avro { Some(parts.get("SCHEMA_REGISTRY_URL")?.to_owned()) } else { None };
    let bench = Bench { options, dir, spark: Spark::find(), bootstrap: parts.get("KAFKA_BOOTSTRAP_SERVERS")?.to_owned(), registry };
    if bench.spark.is_none() {
        note("Spark is not here: `scripts/parts/spark.sh install`, and its `env` in the environment");
    }
    let mut sizes = BTreeMap::new();
    for format in &options.formats {
        let written = match (format.as_str(), &bench.registry) {
            ("json", _) => Format::Json,
            ("avro", Some(url)) => Format::Avro(register(url, &topic(format))?),
            _ => return Err(format!("no format '{format}': json or avro")),
        };
        let started = Instant::now();
        let bytes = kafka::fill(&bench.bootstrap, &topic(format), options.records, written)?;
        note(&format!("{} {format} events, {} MB, in {:.1} s", options.records, bytes / 1_000_000, started.elapsed().as_secs_f64()));
        sizes.insert(format.clone(), bytes as f64 / options.records as f64);
    }
    let mut found = Found::new();
    for round in 1..=options.rounds.max(1) {
        for format in &options.formats {
            let mut stored: Option<(Side, (u64, Vec<i64>))> = None;
            for side in &options.sides {
                if bench.spark.is_none() && matches!(side, Side::SparkLocal | Side::SparkStandalone) {
                    continue;
                }
                let once = bench.once(*side, format)?;
                note(&format!(
                    "round {round}: {format}, {}: {:.2} s, {:.0} events/s",
                    side.words(),
                    once.seconds,
                    options.records as f64 / once.seconds
                ));
                if let Some(rows) = once.rows {
                    if rows.0 != options.records {
                        return Err(format!("{}: {} of {} events are stored", side.words(), rows.0, options.records));
                    }
                    match &stored {
                        Some((other, there)) if *there != rows => {
                            return Err(format!("{} has {rows:?}, {} has {there:?}", side.words(), other.words()));
                        }
                        Some(_) => {}
                        None => stored = Some((*side, rows)),
                    }
                }
                let best = found.entry(format.clone()).or_default().entry(*side).or_default();
                best.rounds.push(once.seconds);
                best.usage.peak_rss_bytes = best.usage.peak_rss_bytes.max(once.usage.peak_rss_bytes);
                best.usage.peak_pss_bytes = best.usage.peak_pss_bytes.max(once.usage.peak_pss_bytes);
                if best.rounds.len() == 1 || once.seconds < best.seconds {
                    best.seconds = once.seconds;
                    best.wall_seconds = once.wall_seconds;
                    best.usage.cpu_seconds = once.usage.cpu_seconds;
                }
            }
        }
    }
    Ok((found, sizes))
}

fn topic(format: &str) -> String {
    format!("shop-{format}")
}

fn table(format: &str) -> String {
    format!("bronze_shop_{format}")
}

impl Bench<'_> {
    fn once(&self, side: Side, format: &str) -> Result<Once> {
        let dir = self.dir.join(format!("{side:?}"));
        let _removed = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        match side {
            Side::Bare => {
                let sampler = Sampler::watch(vec![std::process::id()]);
                let (seen, seconds) = kafka::consume(&self.bootstrap, &topic(format))?;
                if seen != self.options.records {
                    return Err(format!("librdkafka read {seen} of {} events", self.options.records));
                }
                Ok(Once { seconds, wall_seconds: seconds, usage: sampler.stop(), rows: None })
            }
            Side::Cluster | Side::Local => self.ours(side, format, &dir),
            Side::SparkLocal | Side::SparkStandalone => self.spark(side, format, &dir),
        }
    }

    fn ours(&self, side: Side, format: &str, dir: &Path) -> Result<Once> {
        let binary = Binary::new(self.options.binary.clone(), dir)?;
        let mut conf = vec!["--conf".to_owned(), format!("kafka.bootstrap.servers={}", self.bootstrap)];
        if let (Some(url), "avro") = (&self.registry, format) {
            conf.extend(["--conf".to_owned(), format!("schema.registry.url={url}")]);
        }
        for setting in &self.options.conf {
            conf.extend(["--conf".to_owned(), setting.clone()]);
        }
        let cluster = if side == Side::Cluster { Some(Cluster::start(&binary, WORKERS, self.options.port_offset, &conf)?) } else { None };
        let local = ["--master".to_owned(), format!("local[{}]", machine::cores())];
        let run = |command: &[&str], more: &[&str]| {
            let mut args: Vec<&str> = command.to_vec();
            args.extend(conf.iter().map(String::as_str));
            if side == Side::Local {
                args.extend(local.iter().map(String::as_str));
            }
            args.extend(more);
            binary.run(&args)
        };
        let columns: Vec<String> = FIELDS.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
        run(&["submit", "create_bronze_tables", "--quiet"], &[])?;
        let create = format!(
            "CREATE TABLE {} ({}, {LINEAGE}) PARTITIONED BY (days(ingested_at)) TBLPROPERTIES ('write.distribution-mode' = 'none', 'write.parquet.compression-codec' = 'zstd')",
            table(format),
            columns.join(", ")
        );
        run(&["sql", "--quiet", "-e", &create], &[])?;
        let sampler = Sampler::start(cluster.as_ref().map(Cluster::engine).unwrap_or_default());
        let started = Instant::now();
        run(&["submit", "kafka_to_bronze", "--quiet"], &["--", "--topics", &topic(format), "--trigger", "available-now", "--format", format])?;
        let seconds = started.elapsed().as_secs_f64();
        let usage = sampler.stop();
        let sums = format!(
            "SELECT (SELECT count(*) FROM bronze_dead_letters) AS dead, count(*) AS n, count(event_id) AS a, sum(user_id) AS b, sum(quantity) AS c, \
             count(DISTINCT event_id) AS d FROM {}",
            table(format)
        );
        let text = run(&["sql", "--quiet", "--output", "json", "-e", &sums], &[])?;
        let row: Value = serde_json::from_str(&text).map_err(|e| format!("cannot read counts: {e}: {text}"))?;
        let of = |name: &str| row[name].as_i64().unwrap_or(-1);
        Ok(Once { seconds, wall_seconds: seconds, usage, rows: Some(((of("dead") + of("n")) as u64, ["a", "b", "c", "d"].map(of).into())) })
    }

    fn spark(&self, side: Side, format: &str, dir: &Path) -> Result<Once> {
        let spark = self.spark.as_ref().ok_or("Spark is not here")?;
        let cluster = if side == Side::SparkStandalone { Some(spark.standalone(WORKERS, 17_077 + self.options.port_offset, dir)?) } else { None };
        let master = cluster.as_ref().map_or_else(|| format!("local[{}]", machine::cores()), |c| c.url.clone());
        let fields: Vec<[&str; 2]> = FIELDS.iter().map(|(name, kind, _)| [*name, *kind]).collect();
        let input = json!({
            "brokers": self.bootstrap, "topic": topic(format), "format": format, "avro_schema": events::avro_schema(), "fields": fields, "master": master,
            "warehouse": dir.join("warehouse"), "catalog": dir.join("catalog.db"), "checkpoint": dir.join("checkpoint"),
        });
        let done = spark.run(SCRIPT, input, cluster.as_ref(), dir)?;
        let seconds = done.value["seconds"].as_f64().ok_or_else(|| format!("Spark gave no time: {}", done.value))?;
        let sums = done.value["sums"].as_array().into_iter().flatten().map(|v| v.as_i64().unwrap_or(-1)).collect();
        Ok(Once { seconds, wall_seconds: done.wall_seconds, usage: done.usage, rows: Some((done.value["rows"].as_u64().unwrap_or(0), sums)) })
    }
}

/// Registers the events' schema for the topic's values; its id.
fn register(url: &str, topic: &str) -> Result<u32> {
    let failed = |e: &dyn std::fmt::Display| format!("the schema registry at {url} does not take a schema: {e}");
    let rest = url.strip_prefix("http://").ok_or_else(|| failed(&"no http URL"))?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let body = json!({ "schema": events::avro_schema() }).to_string();
    let mut stream = TcpStream::connect(address).map_err(|e| failed(&e))?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|e| failed(&e))?;
    let request = format!(
        "POST /{path}/subjects/{topic}-value/versions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(|e| failed(&e))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| failed(&e))?;
    let json = answer.find("\r\n\r\n").and_then(|at| answer[at..].find('{').map(|from| &answer[at + from..])).ok_or_else(|| failed(&answer))?;
    let json = json.rfind('}').map_or(json, |to| &json[..=to]);
    let value: Value = serde_json::from_str(json).map_err(|e| failed(&format!("{e}: {answer}")))?;
    value["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| failed(&value))
}
