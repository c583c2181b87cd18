//! From the moment an event is made to the moment a reader sees its row in the Iceberg table, of every event.
//!
//! A reader of its own asks again and again which batch is the last that it sees; afterwards each row's batch says when the row was seen first. The
//! clock of both is this machine's. The time that the reader takes counts, so that the figures are, if anything, too high.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::live::{Live, LiveOptions, TABLE};
use crate::sampler::Sampler;
use crate::{Result, machine, note, results};

/// How often the reader looks.
const LOOK: Duration = Duration::from_millis(50);
/// What is left out at the start, until all processes are warm.
const WARM_UP: Duration = Duration::from_secs(15);
/// Events come for so much longer: the stream's start, and those that are still unseen at the end.
const MARGIN: Duration = Duration::from_secs(20);

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    live: LiveOptions,
    /// Seconds that are measured
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// Keep the result out of benches/results and benches/README.md
    #[arg(long)]
    dry_run: bool,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// # Errors
/// If the stream cannot be started or ends.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let dir = std::env::temp_dir().join(format!("chainalytics-freshness-{}", std::process::id()));
    let outcome = measure(options, &dir);
    let _removed = std::fs::remove_dir_all(&dir);
    let (latencies, sent, stored, peak_rss_mb, peak_pss_mb) = outcome?;
    let total: u64 = latencies.values().sum();
    let at = |share: f64| {
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        latencies
            .iter()
            .find(|(_, n)| {
                seen += **n;
                seen >= wanted
            })
            .map_or(0, |(ms, _)| *ms)
    };
    let mean = latencies.iter().map(|(ms, n)| *ms as f64 * *n as f64).sum::<f64>() / total.max(1) as f64;
    let highest = latencies.keys().last().copied().unwrap_or(0);
    let (p50, p90, p99) = (at(0.5), at(0.9), at(0.99));
    let table = format!(
        "`make bench-freshness`, {}: {}, {} s; {}.\n\n| events measured | p50 ms | p90 ms | p99 ms | highest ms | mean ms | peak RSS MB | peak PSS MB |\n|---|---|---|---|---|---|---|---|\n\
         | {total} | {p50} | {p90} | {p99} | {highest} | {mean:.0} | {peak_rss_mb} | {peak_pss_mb} |\n",
        results::now(),
        options.live.describe(),
        options.seconds,
        machine::line(&machine)
    );
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))?;
    if stored != sent {
        return Err(format!("{stored} of {sent} events are stored"));
    }
    if !options.dry_run {
        results::append(
            "freshness",
            &json!({ "bench": "freshness", "at": results::now(), "rate": options.live.rate(), "seconds": options.seconds, "stream": options.live.describe(), "machine": machine,
                "events": total, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "highest_ms": highest, "mean_ms": mean, "peak_rss_mb": peak_rss_mb, "peak_pss_mb": peak_pss_mb }),
        )?;
        results::publish("freshness", &table)?;
    }
    Ok(())
}

/// Events by the milliseconds until they were seen, events sent and stored, peak memory of the engine in MB.
fn measure(options: &Options, dir: &std::path::Path) -> Result<(BTreeMap<u64, u64>, u64, u64, u64, u64)> {
    let length = Duration::from_secs(options.seconds);
    let mut live = Live::start(&options.live, dir, WARM_UP + length + MARGIN)?;
    let mut engine = live.cluster.engine();
    engine.extend(live.processes().into_iter().filter(|(name, _)| name == "driver").map(|(_, pid)| pid));
    let sampler = Sampler::watch(engine);
    let from = now_ms() + WARM_UP.as_millis() as u64;
    let to = from + length.as_millis() as u64;
    let last = format!("SELECT max(ingestion_batch_id) AS b FROM {TABLE}");
    // When each batch was seen first; a batch between two looks was seen with the later one.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut looks = 0_u64;
    while live.producing() {
        live.running()?;
        let batch = live.number(&last)?;
        looks += 1;
        seen.entry(batch).or_insert_with(now_ms);
        std::thread::sleep(LOOK);
    }
    let usage = sampler.stop();
    let (sent, stored) = live.finish()?;
    note(&format!("{looks} looks, {} of them saw a new batch; {stored} of {sent} events stored", seen.len()));
    let rows = live.query(&format!(
        "SELECT ingestion_batch_id AS b, CAST(floor(date_part('epoch', kafka_timestamp) * 200) AS BIGINT) * 5 AS ms, count(*) AS n FROM {TABLE} GROUP BY 1, 2"
    ))?;
    let mut latencies = BTreeMap::new();
    for row in &rows {
        let (Some(batch), Some(made), Some(n)) = (row["b"].as_u64(), row["ms"].as_u64(), row["n"].as_u64()) else {
            return Err(format!("odd row {row}"));
        };
        // The last batches came when nobody looked any more.
        if let Some((_, at)) = seen.range(batch..).next()
            && (from..to).contains(&made)
        {
            *latencies.entry(at.saturating_sub(made)).or_insert(0) += n;
        }
    }
    Ok((latencies, sent, stored, usage.peak_rss_bytes >> 20, usage.peak_pss_bytes >> 20))
}
