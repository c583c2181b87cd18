//! Scale of metadata: a table of many small commits and many files, without any Parquet content. Commit times as the table grows, then planning and
//! appending by a process that has not seen the table before, with the memory that each takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chainalytics_lakehouse::catalog::CatalogOptions;
use chainalytics_lakehouse::scan::{IcebergTableProvider, SnapshotSelector};
use chainalytics_lakehouse::{CommitOptions, CreateTable, DataFileInfo, Lakehouse, StoreRegistry, TableChange, TableIdent, Transaction};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{col, lit};
use datafusion::prelude::SessionContext;
use serde_json::json;

use crate::{Result, machine, note};

const DAY_MICROS: i64 = 86_400_000_000;
/// 1 January 2026.
const FIRST_DAY: i64 = 20_454;
const ROWS_PER_FILE: u64 = 10_000;

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Micro-batch commits, a day's worth being 2,880 of 30 seconds
    #[arg(long, default_value_t = 2_880)]
    commits: usize,
    /// Files of each
    #[arg(long, default_value_t = 4)]
    files_per_commit: usize,
    /// Snapshots at the end; the missing ones are larger appends
    #[arg(long, default_value_t = 3_000)]
    snapshots: usize,
    /// Data files at the end
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Where the table is made
    #[arg(long)]
    dir: std::path::PathBuf,
}

/// # Errors
/// If the table cannot be made, changed or planned.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    note(&machine::line(&machine::describe()));
    runtime.block_on(measure(options))
}

async fn open(options: &Options) -> Result<Lakehouse> {
    let dir = options.dir.display();
    let catalog = CatalogOptions {
        name: "bench".to_owned(),
        uri: format!("sqlite:///{dir}/catalog.db"),
        busy_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        connections_max: 4,
        warehouse: format!("{dir}/warehouse"),
    };
    Lakehouse::open_with(catalog, "bench".to_owned(), StoreRegistry::local()).await.map_err(|e| e.to_string())
}

async fn measure(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.dir).map_err(|e| e.to_string())?;
    let lake = open(options).await?;
    let ident = lake.ident("events").map_err(|e| e.to_string())?;
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("name", DataType::Utf8, true),
    ]);
    let create = CreateTable::new(ident.clone(), Arc::new(schema)).partitioned_by("ts", "days");
    lake.catalog().create_table(create, false).await.map_err(|e| e.to_string())?;

    let mut files = 0;
    let mut times = Vec::with_capacity(options.commits);
    for _ in 0..options.commits {
        let started = Instant::now();
        append(&lake, &ident, &mut files, options.files_per_commit, options).await?;
        times.push(started.elapsed());
    }
    let part = (times.len() / 10).max(1);
    for (name, from) in [("first", 0), ("middle", times.len() / 2), ("last", times.len().saturating_sub(part))] {
        tell(&format!("commits, {name} tenth"), &times[from..(from + part).min(times.len())]);
    }
    let large = options.snapshots.saturating_sub(options.commits);
    let mut left = options.files.saturating_sub(files);
    let started = Instant::now();
    for at in 0..large {
        let share = left / (large - at);
        left -= share;
        append(&lake, &ident, &mut files, share, options).await?;
    }
    note(&format!("{large} larger appends: {:.1} s; {files} files, {} snapshots", started.elapsed().as_secs_f64(), options.snapshots));
    let table = lake.catalog().load_table(&ident).await.map_err(|e| e.to_string())?;
    note(&format!("metadata file: {} KiB", std::fs::metadata(table.metadata_location().trim_start_matches("file://")).map_or(0, |m| m.len() / 1024)));
    drop((table, lake));

    // A process that knows nothing yet.
    let before = reset_peak_rss();
    let lake = open(options).await?;
    let ctx = SessionContext::new();
    for name in ["cold", "warm", "warm again"] {
        let started = Instant::now();
        let table = lake.catalog().load_table(&ident).await.map_err(|e| e.to_string())?;
        let loaded = started.elapsed();
        let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current).map_err(|e| e.to_string())?;
        let from = (FIRST_DAY + 3) * DAY_MICROS;
        let time = |micros| lit(ScalarValue::TimestampMicrosecond(Some(micros), None));
        let filters = [col("ts").gt_eq(time(from)).and(col("ts").lt(time(from + DAY_MICROS)))];
        let plan = provider.scan(&ctx.state(), None, &filters, None).await.map_err(|e| e.to_string())?;
        let partitions = plan.properties().partitioning.partition_count();
        note(&format!("plan of one day, {name}: {:.0} ms (table loaded after {:.0} ms), {partitions} partitions", ms(started.elapsed()), ms(loaded)));
    }
    note(&format!("memory: {} MiB before, {} MiB at most while planning", before / 1024, peak_rss_kib() / 1024));
    let before = reset_peak_rss();
    let lake = open(options).await?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        append(&lake, &ident, &mut files, options.files_per_commit, options).await?;
        times.push(started.elapsed());
    }
    note(&format!("append, cold: {:.0} ms; memory: {} MiB before, {} MiB at most", ms(times[0]), before / 1024, peak_rss_kib() / 1024));
    tell("append, warm", &times[1..]);
    Ok(())
}

async fn append(lake: &Lakehouse, ident: &TableIdent, next: &mut usize, count: usize, options: &Options) -> Result<()> {
    let per_day = (options.files / 30).max(1);
    let added = (*next..*next + count).map(|n| data_file(n, per_day)).collect::<Result<Vec<_>>>()?;
    *next += count;
    let change = TableChange::append(ident.clone(), added);
    Transaction::new(lake).add(change).commit(CommitOptions::default()).await.map_err(|e| e.to_string())?;
    Ok(())
}

/// The entry of a file that does not exist.
fn data_file(n: usize, per_day: usize) -> Result<DataFileInfo> {
    let (number, day) = (n as i64, FIRST_DAY + (n / per_day) as i64);
    let date = chrono::DateTime::from_timestamp(day * 86_400, 0).ok_or("a day beyond the calendar")?.format("%Y-%m-%d").to_string();
    let hex = |value: i64| value.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let first = day * DAY_MICROS + number % 1000;
    let info = json!({
        "path": format!("file:///nowhere/events/data/ts_day={date}/00000-{n:08}-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0-00001.parquet"),
        "format": "PARQUET",
        "partition_spec_id": 0,
        "partition": [date],
        "record_count": ROWS_PER_FILE,
        "file_size_bytes": 1_000_000 + n,
        "column_sizes": {"1": 40_000, "2": 50_000, "3": 900_000},
        "value_counts": {"1": ROWS_PER_FILE, "2": ROWS_PER_FILE, "3": ROWS_PER_FILE},
        "null_value_counts": {"1": 0, "2": 0, "3": 17},
        "lower_bounds": {"1": hex(number * 10_000), "2": hex(first), "3": "61616161"},
        "upper_bounds": {"1": hex(number * 10_000 + 9_999), "2": hex(first + 30_000_000), "3": "7a7a7a7a"},
        "split_offsets": [4],
    });
    serde_json::from_value(info).map_err(|e| e.to_string())
}

fn tell(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get(((sorted.len().saturating_sub(1)) as f64 * share) as usize).map_or(0.0, |t| ms(*t));
    note(&format!("{what}: median {:.1} ms, 99 % {:.1} ms, worst {:.1} ms", at(0.5), at(0.99), at(1.0)));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Starts counting the peak anew; gives what is resident now, KiB.
fn reset_peak_rss() -> u64 {
    if std::fs::write("/proc/self/clear_refs", "5").is_err() {
        note("the kernel does not let the peak of memory be reset");
    }
    status_kib("VmRSS:")
}

fn peak_rss_kib() -> u64 {
    status_kib("VmHWM:")
}

fn status_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}
