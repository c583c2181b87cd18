//! A stream for a long time, looked at every minute: memory of each process, time of commits, files and metadata of the table, lag, and how long a
//! reader takes. The verdict says what of it grows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::live::{Live, LiveOptions, TABLE};
use crate::{Result, machine, note, results, sampler};

/// How often the stream's progress is asked for.
const LOOK: Duration = Duration::from_millis(500);
/// Minutes at the start that the verdict leaves out, at most a third: caches and pools fill.
const SETTLING: usize = 5;
/// Growth from the first to the last minute of the fitted line, as a share of the mean, that is still called flat.
const FLAT: f64 = 0.10;

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    live: LiveOptions,
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Where the lines go, one a minute; by default benches/results/soak-TIME.jsonl
    #[arg(long)]
    lines: Option<PathBuf>,
    /// Keep the verdict out of benches/results and benches/README.md
    #[arg(long)]
    dry_run: bool,
}

/// # Errors
/// If the stream cannot be started or ends, or events are missing at the end.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let dir = std::env::temp_dir().join(format!("chainalytics-soak-{}", std::process::id()));
    let lines =
        options.lines.clone().unwrap_or_else(|| results::folder().join("results").join(format!("soak-{}.jsonl", results::now().replace(':', ""))));
    let outcome = measure(options, &dir, &lines);
    let _removed = std::fs::remove_dir_all(&dir);
    let (minutes, sent, stored) = outcome?;
    let verdicts = verdicts(&minutes);
    let mut table = format!(
        "`make soak MINUTES={}`, {}: {}; {}. {stored} of {sent} events are stored.\n\n| what | first | mean | last | growth over the run | verdict |\n|---|---|---|---|---|---|\n",
        options.minutes,
        results::now(),
        options.live.describe(),
        machine::line(&machine)
    );
    for v in &verdicts {
        let _ = writeln!(
            table,
            "| {} | {:.1} | {:.1} | {:.1} | {:+.0} % | {} |",
            v.what,
            v.first,
            v.mean,
            v.last,
            v.growth * 100.0,
            if v.growth <= FLAT { "flat" } else { "grows" }
        );
    }
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))?;
    note(&format!("one line a minute in {}", lines.display()));
    if !options.dry_run {
        let values: BTreeMap<&str, Value> =
            verdicts.iter().map(|v| (v.what.as_str(), json!({ "first": v.first, "mean": v.mean, "last": v.last, "growth": v.growth }))).collect();
        results::append(
            "soak",
            &json!({ "bench": "soak", "at": results::now(), "minutes": options.minutes, "stream": options.live.describe(), "machine": machine, "sent": sent, "stored": stored, "values": values }),
        )?;
        results::publish("soak", &table)?;
    }
    if stored == sent { Ok(()) } else { Err(format!("{stored} of {sent} events are stored")) }
}

/// One object a minute; events sent and stored.
fn measure(options: &Options, dir: &Path, lines: &Path) -> Result<(Vec<Value>, u64, u64)> {
    if let Some(folder) = lines.parent() {
        std::fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    }
    let mut file = std::fs::File::create(lines).map_err(|e| format!("cannot create {}: {e}", lines.display()))?;
    let mut live = Live::start(&options.live, dir, Duration::from_secs(60 * options.minutes + 5))?;
    let started = Instant::now();
    let mut minutes = Vec::new();
    for minute in 1..=options.minutes {
        let mut batches = Batches::default();
        while started.elapsed() < Duration::from_secs(60 * minute) {
            live.running()?;
            if let Some(progress) = live.progress() {
                batches.see(&progress);
            }
            std::thread::sleep(LOOK);
        }
        let mut line = json!({ "minute": minute, "at": results::now() });
        memory(&live, &mut line);
        batches.tell(&mut line);
        table(&live, &mut line)?;
        line["load"] = machine::describe()["load"].clone();
        writeln!(file, "{line}").map_err(|e| format!("cannot write {}: {e}", lines.display()))?;
        note(&format!(
            "minute {minute}: {} MB RSS, {} MB PSS, batch {} ms, commit {} ms, lag {}, {} files",
            line["rss_mb"], line["pss_mb"], line["batch_ms"], line["commit_ms"], line["lag"], line["data_files"]
        ));
        minutes.push(line);
    }
    let (sent, stored) = live.finish()?;
    Ok((minutes, sent, stored))
}

/// Of each process, and of the engine (all but broker and producer) together.
fn memory(live: &Live, line: &mut Value) {
    let (mut rss_sum, mut pss_sum) = (0, 0);
    for (name, pid) in live.processes() {
        let Some((rss, pss)) = sampler::memory(pid) else { continue };
        line["processes"][&name] = json!({ "rss_mb": rss >> 20, "pss_mb": pss >> 20 });
        if !["kafka", "broker", "producer"].contains(&name.as_str()) {
            rss_sum += rss;
            pss_sum += pss;
        }
    }
    line["rss_mb"] = json!(rss_sum >> 20);
    line["pss_mb"] = json!(pss_sum >> 20);
}

/// The batches of a minute, as their progress tells.
#[derive(Default)]
struct Batches {
    last: Option<i64>,
    count: u64,
    rows: u64,
    phases: BTreeMap<String, (u64, u64)>,
    lag_highest: u64,
    lag_last: u64,
}

impl Batches {
    fn see(&mut self, progress: &Value) {
        let batch = progress["batchId"].as_i64();
        if batch.is_none() || batch == self.last {
            return;
        }
        self.last = batch;
        self.count += 1;
        self.rows += progress["numInputRows"].as_u64().unwrap_or(0);
        self.lag_last = progress["sources"].as_array().into_iter().flatten().filter_map(|s| s["offsetsBehindLatest"].as_u64()).sum();
        self.lag_highest = self.lag_highest.max(self.lag_last);
        let durations: BTreeMap<String, u64> = serde_json::from_value(progress["durationMs"].clone()).unwrap_or_default();
        let all = durations.get("triggerExecution").copied().unwrap_or(0);
        let known: u64 = durations.iter().filter(|(name, _)| *name != "triggerExecution").map(|(_, ms)| ms).sum();
        for (name, ms) in durations.into_iter().chain([("rest".to_owned(), all.saturating_sub(known))]) {
            let (sum, highest) = self.phases.entry(name).or_default();
            *sum += ms;
            *highest = (*highest).max(ms);
        }
    }

    fn tell(&self, line: &mut Value) {
        let mean = |name: &str| self.phases.get(name).map(|(sum, _)| *sum as f64 / self.count.max(1) as f64);
        let round = |value: Option<f64>| value.map_or(Value::Null, |v| json!((v * 10.0).round() / 10.0));
        line["batches_seen"] = json!(self.count);
        line["rows_seen"] = json!(self.rows);
        line["batch_ms"] = round(mean("triggerExecution"));
        line["batch_ms_highest"] = json!(self.phases.get("triggerExecution").map(|(_, highest)| highest));
        // Metadata files and the catalog's swap; the rest is telling the consumer group.
        line["commit_ms"] = round(mean("commitOffsets"));
        line["rest_ms"] = round(mean("rest"));
        line["phases_ms"] = self.phases.keys().map(|name| (name.clone(), round(mean(name)))).collect::<serde_json::Map<_, _>>().into();
        line["lag"] = json!(self.lag_last);
        line["lag_highest"] = json!(self.lag_highest);
    }
}

/// Files and metadata, and how long a reader takes for a day.
fn table(live: &Live, line: &mut Value) -> Result<()> {
    line["data_files"] = json!(live.number(&format!("SELECT count(*) AS n FROM {TABLE}.files"))?);
    line["snapshots"] = json!(live.number(&format!("SELECT count(*) AS n FROM {TABLE}.snapshots"))?);
    line["manifests"] = json!(live.number(&format!("SELECT count(*) AS n FROM {TABLE}.manifests"))?);
    let started = Instant::now();
    line["rows"] = json!(live.number(&format!("SELECT count(event_id) AS n FROM {TABLE} WHERE event_timestamp >= now() - INTERVAL '5 minutes'"))?);
    line["read_ms"] = json!(started.elapsed().as_millis() as u64);
    let (mut files, mut bytes, mut current) = (0_u64, 0_u64, (None, 0_u64));
    for entry in std::fs::read_dir(live.table_dir().join("metadata")).map_err(|e| format!("cannot read the table's metadata: {e}"))?.flatten() {
        // One that expiry took away meanwhile does not count.
        let Ok(about) = entry.metadata() else { continue };
        files += 1;
        bytes += about.len();
        if entry.file_name().to_string_lossy().ends_with(".metadata.json") && about.modified().ok() > current.0 {
            current = (about.modified().ok(), about.len());
        }
    }
    line["metadata_files"] = json!(files);
    line["metadata_mb"] = json!((bytes as f64 / 1e5).round() / 10.0);
    line["metadata_json_kb"] = json!(current.1 >> 10);
    Ok(())
}

struct Verdict {
    what: String,
    first: f64,
    mean: f64,
    last: f64,
    /// Of the fitted line from its start to its end, as a share of the mean.
    growth: f64,
}

fn verdicts(minutes: &[Value]) -> Vec<Verdict> {
    let settled = minutes.get(SETTLING.min(minutes.len() / 3)..).unwrap_or_default();
    let mut names: Vec<(String, String)> = [
        ("engine RSS MB", "/rss_mb"),
        ("engine PSS MB", "/pss_mb"),
        ("batch ms", "/batch_ms"),
        ("commit ms", "/commit_ms"),
        ("rest of the batch ms", "/rest_ms"),
        ("data files", "/data_files"),
        ("snapshots", "/snapshots"),
        ("manifests", "/manifests"),
        ("metadata files", "/metadata_files"),
        ("metadata MB", "/metadata_mb"),
        ("current metadata.json KB", "/metadata_json_kb"),
        ("read of 5 minutes ms", "/read_ms"),
        ("highest lag", "/lag_highest"),
    ]
    .map(|(what, at)| (what.to_owned(), at.to_owned()))
    .into();
    if let Some(processes) = settled.last().and_then(|line| line["processes"].as_object()) {
        names.extend(processes.keys().map(|name| (format!("{name} RSS MB"), format!("/processes/{name}/rss_mb"))));
    }
    let verdict = |(what, at): (String, String)| {
        let points: Vec<(f64, f64)> = settled.iter().filter_map(|line| Some((line["minute"].as_f64()?, line.pointer(&at)?.as_f64()?))).collect();
        let (first, last) = (points.first()?, points.last()?);
        let n = points.len() as f64;
        let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        let slope = if spread > 0.0 { points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread } else { 0.0 };
        let growth = if y.abs() > f64::EPSILON { slope * (last.0 - first.0) / y } else { 0.0 };
        Some(Verdict { what, first: first.1, mean: y, last: last.1, growth })
    };
    names.into_iter().filter_map(verdict).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_grows_is_told_from_what_only_wavers() {
        let lines: Vec<Value> = (1..=30)
            .map(|minute| json!({ "minute": minute, "rss_mb": 500 + minute % 2 * 10, "data_files": 40 * minute, "processes": { "driver": { "rss_mb": 100 } } }))
            .collect();
        let found = verdicts(&lines);
        let of = |what: &str| found.iter().find(|v| v.what == what).unwrap().growth;
        assert!(of("engine RSS MB").abs() < FLAT && of("driver RSS MB") == 0.0, "{}", of("engine RSS MB"));
        assert!(of("data files") > 1.0);
        assert!(!found.iter().any(|v| v.what == "batch ms"), "what was never measured has no verdict");
    }
}
