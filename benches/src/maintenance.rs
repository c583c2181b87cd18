//! What is done to tables, beside Spark: MERGE of one row in a hundred, compaction of many small files, expiry. Each side changes a copy of its own of the
//! same table, in a process of its own with as many threads as cores; afterwards both must hold the same rows.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::Binary;
use crate::results::ratio;
use crate::sampler::{Sampler, Usage};
use crate::spark::Spark;
use crate::{Result, answers, machine, note, results};

const SCRIPT: &str = include_str!("../python/spark_statements.py");
const ROWS: u64 = 10_000_000;
/// Commits that make the small files, and the files of each: one a partition.
const COMMITS: u64 = 100;
const PARTITIONS: u64 = 20;
const SMALL_ROWS: u64 = 2_000_000;
/// Spark opens the very catalog file that we made, by the name that stands in it.
const CATALOG: &str = "catalog.name=lake";

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Times 10 million rows for MERGE, and 2 million rows in 2,000 files for compaction and expiry
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The binary; by default this checkout's release build
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Keep the result out of benches/results and benches/README.md
    #[arg(long)]
    dry_run: bool,
}

/// What is measured: name, statement of ours, statement of Spark's, query that both must answer alike afterwards.
struct Task {
    name: &'static str,
    ours: String,
    spark: String,
    check: String,
}

fn tasks() -> Vec<Task> {
    let merge = |table: &str| {
        format!(
            "MERGE INTO {table} t USING changes s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v, price = s.price WHEN NOT MATCHED THEN INSERT *"
        )
    };
    let whole = "SELECT count(*) AS n, sum(id) AS a, sum(v) AS b, count(DISTINCT name) AS c FROM";
    let call = |ours: &str, spark: &str| (format!("CALL system.{ours}"), format!("CALL lake.system.{spark}"));
    let compact = call("rewrite_data_files(table => 'small')", "rewrite_data_files(table => 'chainalytics.small')");
    let when = "older_than => TIMESTAMP '2099-01-01 00:00:00', retain_last => 1";
    let expire = call(&format!("expire_snapshots(table => 'small', {when})"), &format!("expire_snapshots(table => 'chainalytics.small', {when})"));
    let small = "SELECT count(*) AS n, sum(id) AS a, sum(v) AS b, count(DISTINCT s) AS c FROM small".to_owned();
    vec![
        Task {
            name: "MERGE of 1 %, copy-on-write",
            ours: merge("copy_on_write"),
            spark: merge("copy_on_write"),
            check: format!("{whole} copy_on_write"),
        },
        Task {
            name: "MERGE of 1 %, merge-on-read",
            ours: merge("merge_on_read"),
            spark: merge("merge_on_read"),
            check: format!("{whole} merge_on_read"),
        },
        Task { name: "compaction of 2,000 small files", ours: compact.0, spark: compact.1, check: small.clone() },
        Task { name: "expiry of 101 snapshots", ours: expire.0, spark: expire.1, check: small },
    ]
}

#[derive(Debug, Clone, Default)]
struct Best {
    seconds: f64,
    usage: Usage,
}

impl Best {
    fn add(&mut self, seconds: f64, usage: &Usage) {
        if self.seconds == 0.0 || seconds < self.seconds {
            self.seconds = seconds;
            self.usage.cpu_seconds = usage.cpu_seconds;
        }
        self.usage.peak_rss_bytes = self.usage.peak_rss_bytes.max(usage.peak_rss_bytes);
        self.usage.peak_pss_bytes = self.usage.peak_pss_bytes.max(usage.peak_pss_bytes);
    }
}

/// # Errors
/// If Spark is not here, a statement fails, or the sides end with different rows.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let spark = Spark::find().ok_or("Spark is not here: `scripts/parts/spark.sh install`, and its `env` in the environment")?;
    let dir = std::env::temp_dir().join(format!("chainalytics-maintenance-{}", std::process::id()));
    let outcome = measure(options, &spark, &dir);
    let _removed = std::fs::remove_dir_all(&dir);
    let found = outcome?;
    let mut table = format!(
        "`make bench-lakehouse-spark SCALE={} ROUNDS={}`, {}: {:.0} rows, Spark 4.1.1 with Iceberg 1.12, both local[{}], best of {} rounds, in turn; {}. Seconds are of the \
         statement; memory and CPU of the whole process, start included.\n\n\
         | what | ours s | Spark s | ours / Spark | ours peak RSS MB | Spark peak RSS MB | ours / Spark | ours CPU s | Spark CPU s |\n|---|---|---|---|---|---|---|---|---|\n",
        options.scale,
        options.rounds,
        results::now(),
        ROWS as f64 * options.scale,
        machine::cores(),
        options.rounds,
        machine::line(&machine)
    );
    for (name, [ours, theirs]) in &found {
        let mb = |best: &Best| best.usage.peak_rss_bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(
            table,
            "| {name} | {:.2} | {:.2} | {} | {:.0} | {:.0} | {} | {:.1} | {:.1} |",
            ours.seconds,
            theirs.seconds,
            ratio(Some(ours.seconds), Some(theirs.seconds)),
            mb(ours),
            mb(theirs),
            ratio(Some(mb(ours)), Some(mb(theirs))),
            ours.usage.cpu_seconds,
            theirs.usage.cpu_seconds
        );
    }
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))?;
    if !options.dry_run {
        let value = |best: &Best| json!({ "seconds": best.seconds, "peak_rss_mb": best.usage.peak_rss_bytes >> 20, "peak_pss_mb": best.usage.peak_pss_bytes >> 20, "cpu_seconds": best.usage.cpu_seconds });
        let rows: Vec<Value> =
            found.iter().map(|(name, [ours, theirs])| json!({ "what": name, "ours": value(ours), "spark": value(theirs) })).collect();
        results::append(
            "lakehouse-spark",
            &json!({ "bench": "lakehouse-spark", "at": results::now(), "scale": options.scale, "machine": machine, "rows": rows }),
        )?;
        results::publish("lakehouse beside spark", &table)?;
    }
    Ok(())
}

type Found = Vec<(&'static str, [Best; 2])>;

fn measure(options: &Options, spark: &Spark, dir: &Path) -> Result<Found> {
    let tasks = tasks();
    let mut found: Found = tasks.iter().map(|task| (task.name, [Best::default(), Best::default()])).collect();
    for round in 1..=options.rounds.max(1) {
        let sides = ["ours", "spark"].map(|name| dir.join(name));
        for side in &sides {
            let _removed = std::fs::remove_dir_all(side);
            tables(&Binary::new(options.binary.clone(), side)?, options.scale)?;
        }
        let [mine, theirs] = sides.each_ref().map(|side| Binary::new(options.binary.clone(), side));
        let (mine, theirs) = (mine?, theirs?);
        for (task, (_, best)) in tasks.iter().zip(&mut found) {
            let sampler = Sampler::start(vec![]);
            let done = mine.script(std::slice::from_ref(&task.ours), &with(machine::cores()))?;
            let usage = sampler.stop();
            let seconds = done.first().map_or(0.0, |timed| timed.seconds);
            best[0].add(seconds, &usage);
            let input = json!({ "data_dir": sides[1], "threads": machine::cores(), "statements": [task.spark] });
            let spark_done = spark.run(SCRIPT, input, None, dir)?;
            let spark_seconds = spark_done.value["seconds"][0].as_f64().ok_or_else(|| format!("Spark gave no time: {}", spark_done.value))?;
            best[1].add(spark_seconds, &spark_done.usage);
            note(&format!("round {round}: {}: {seconds:.2} s against {spark_seconds:.2} s", task.name));
            // One reader for both, so that only what was written can differ.
            let rows = |binary: &Binary| {
                binary
                    .script(std::slice::from_ref(&task.check), &with(machine::cores()))
                    .map(|timed| timed.into_iter().flat_map(|t| t.rows).collect::<Vec<_>>())
            };
            answers::compare(&rows(&mine)?, &rows(&theirs)?).map_err(|e| format!("after {}: {e}", task.name))?;
        }
    }
    Ok(found)
}

fn with(threads: usize) -> Vec<String> {
    ["--master".to_owned(), format!("local[{threads}]"), "--conf".to_owned(), CATALOG.to_owned()].into()
}

/// The input tables of one side.
fn tables(binary: &Binary, scale: f64) -> Result<()> {
    let (rows, small) = ((ROWS as f64 * scale) as u64, (SMALL_ROWS as f64 * scale) as u64);
    let columns = "id BIGINT, v BIGINT, name STRING, price DOUBLE, day DATE";
    let values = |from: &str| {
        format!(
            "SELECT value AS id, value * 7919 % 100003 AS v, concat('customer ', value % 50000) AS name, CAST(value % 10007 AS DOUBLE) / 7 AS price, \
             DATE '2026-01-01' + CAST(value % 365 AS INT) AS day FROM {from}"
        )
    };
    let mut statements = Vec::new();
    for (table, mode) in [("copy_on_write", "copy-on-write"), ("merge_on_read", "merge-on-read")] {
        statements.push(format!("CREATE TABLE {table} ({columns}) TBLPROPERTIES ('format-version' = '2', 'write.merge.mode' = '{mode}', 'write.target-file-size-bytes' = '33554432')"));
        statements.push(format!("INSERT INTO {table} {}", values(&format!("range(0, {rows})"))));
    }
    // One row in a hundred, all over the table; one in ten of them is new.
    statements.push(format!("CREATE TABLE changes ({columns})"));
    statements.push(format!(
        "INSERT INTO changes SELECT CASE WHEN id % 1000 = 7 THEN id + {rows} ELSE id END AS id, v + 1 AS v, name, price * 2 AS price, day FROM ({}) AS r WHERE id % 100 = 7",
        values(&format!("range(0, {rows})"))
    ));
    binary.script(&statements, &with(machine::cores()))?;
    // One thread writes one file to each partition.
    let each = (small / COMMITS).max(PARTITIONS);
    let mut statements = vec!["CREATE TABLE small (id BIGINT, v BIGINT, s STRING, p INT) PARTITIONED BY (p)".to_owned()];
    for n in 0..COMMITS {
        let range = format!("range({}, {})", n * each, (n + 1) * each);
        statements
            .push(format!("INSERT INTO small SELECT value, value % 1009, concat('row ', value), CAST(value % {PARTITIONS} AS INT) FROM {range}"));
    }
    statements.push("SELECT count(*) AS n FROM small.files".to_owned());
    let done = binary.script(&statements, &with(1))?;
    let files = done.last().and_then(|timed| timed.rows.first()?["n"].as_u64());
    note(&format!("{} has {rows} rows to merge into, and {} small files", binary.data_dir().display(), files.unwrap_or(0)));
    Ok(())
}
