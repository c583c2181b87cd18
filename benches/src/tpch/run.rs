//! Runs the queries: sides in turn, round after round, the best time of each query counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{QUERIES, data_folders, generate, load, plain_tables, query, report, source_dir};
use crate::process::{Binary, Cluster, Timed};
use crate::sampler::Sampler;
use crate::{Result, answers, machine, note, peers, results};

/// Written into the data directory after loading; holds the scale.
const LOADED: &str = "tpch-loaded";

/// Single-process DataFusion is measured with its own defaults, not with what a cluster needs.
const STOCK: [&str; 3] = [
    "datafusion.execution.parquet.schema_force_view_types=true",
    "datafusion.sql_parser.map_string_types_to_utf8view=true",
    "query.push-down-semi-joins=false",
];

/// An engine in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Side {
    /// Ours: Iceberg tables on a cluster of executor processes.
    Cluster,
    /// DataFusion in one process with as many threads as there are cores, on the Iceberg tables' own Parquet files.
    Local,
    /// DuckDB on the same files, as many threads.
    Duckdb,
    /// Spark on the same files; by default `local[cores]`.
    Spark,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "DataFusion",
            Self::Duckdb => "DuckDB",
            Self::Spark => "Spark",
        }
    }
}

/// See the command's help.
#[derive(Clone, Debug)]
pub struct Options {
    pub scale: f64,
    pub binary: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub rounds: usize,
    pub passes: usize,
    pub executors: usize,
    pub port_offset: u16,
    pub sides: Vec<Side>,
    /// Empty: all.
    pub queries: Vec<usize>,
    pub conf: Vec<String>,
    pub dry_run: bool,
    /// Load the tables even if they are there.
    pub reload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scale: 1.0,
            binary: None,
            data_dir: None,
            rounds: 3,
            passes: 2,
            executors: 3,
            port_offset: 3200,
            sides: vec![Side::Cluster, Side::Local],
            queries: vec![],
            conf: vec![],
            dry_run: false,
            reload: false,
        }
    }
}

/// What one side did.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Best time of each query, in seconds.
    pub(super) best: BTreeMap<usize, f64>,
    pub(super) peak_rss_bytes: u64,
    pub(super) peak_pss_bytes: u64,
    /// CPU time of each round.
    pub(super) cpu_seconds: Vec<f64>,
    answers: BTreeMap<usize, Vec<Value>>,
}

impl Measured {
    fn add(&mut self, number: usize, timed: Timed) {
        let best = self.best.entry(number).or_insert(timed.seconds);
        *best = best.min(timed.seconds);
        self.answers.entry(number).or_insert(timed.rows);
    }
}

/// Generates and loads what is not there yet.
///
/// # Errors
/// If data or tables cannot be made.
pub fn prepare(options: &Options) -> Result<Binary> {
    let source = source_dir(options.scale)?;
    if generate::generate(&source, options.scale)? {
        note(&format!("made {}", source.display()));
    }
    let data_dir = options.data_dir.clone().unwrap_or_else(|| source.join("lakehouse"));
    let binary = Binary::new(options.binary.clone(), &data_dir)?;
    let marker = data_dir.join(LOADED);
    let wanted = format!("{}", options.scale);
    if options.reload || std::fs::read_to_string(&marker).ok().as_deref() != Some(&wanted) {
        // Files of tables that are replaced would stay and be counted by those who read the folders.
        let _removed = std::fs::remove_file(&marker);
        for stale in ["warehouse", "catalog.db"] {
            let path = data_dir.join(stale);
            let _removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
        let master = ["--master".to_owned(), format!("local[{}]", machine::cores())];
        let seconds = load(&binary, &source, &master)?;
        std::fs::write(&marker, wanted).map_err(|e| format!("cannot write {}: {e}", marker.display()))?;
        note(&format!("loaded the tables in {seconds:.1} s"));
    }
    Ok(binary)
}

/// The whole comparison.
///
/// # Errors
/// If a side that is there fails, or two sides differ in an answer.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let binary = prepare(options)?;
    let numbers: Vec<usize> = if options.queries.is_empty() { (1..=QUERIES).collect() } else { options.queries.clone() };
    let texts: Vec<String> = numbers.iter().map(|n| query(*n, options.scale)).collect::<Result<_>>()?;
    let folders = data_folders(&binary)?;
    let mut sides = Vec::new();
    for side in &options.sides {
        match peers::missing(*side) {
            Some(why) => note(&format!("{} is not run: {why}", side.name())),
            None => sides.push(*side),
        }
    }
    let needs_cluster = sides.contains(&Side::Cluster);
    let cluster = needs_cluster
        .then(|| {
            let mut more = vec!["--no-broker".to_owned()];
            more.extend(conf(&options.conf));
            Cluster::start(&binary, options.executors, options.port_offset, &more)
        })
        .transpose()?;
    let mut measured: BTreeMap<Side, Measured> = BTreeMap::new();
    for round in 1..=options.rounds.max(1) {
        for side in &sides {
            let pids = match (side, &cluster) {
                (Side::Cluster, Some(cluster)) => cluster.engine(),
                _ => vec![],
            };
            let sampler = Sampler::start(pids);
            let timed = one(*side, &binary, options, &texts, &folders)?;
            let usage = sampler.stop();
            let entry = measured.entry(*side).or_default();
            entry.peak_rss_bytes = entry.peak_rss_bytes.max(usage.peak_rss_bytes);
            entry.peak_pss_bytes = entry.peak_pss_bytes.max(usage.peak_pss_bytes);
            entry.cpu_seconds.push(usage.cpu_seconds);
            let total: f64 = timed.iter().map(|t| t.seconds).sum::<f64>() / options.passes.max(1) as f64;
            note(&format!("round {round}, {}: {total:.2} s a pass, {:.1} s of CPU", side.name(), usage.cpu_seconds));
            for (at, timed) in timed.into_iter().enumerate() {
                entry.add(numbers[at % numbers.len()], timed);
            }
        }
    }
    drop(cluster);
    check(&measured)?;
    let table = report::table(options, &machine, &measured, &numbers);
    report::show(&table)?;
    if !options.dry_run {
        results::append("tpch", &line(options, &machine, &measured))?;
        results::publish(&format!("tpch sf{}", options.scale), &table)?;
    }
    Ok(())
}

/// All passes of one side in one process; the times of the queries only.
fn one(side: Side, binary: &Binary, options: &Options, texts: &[String], folders: &[(String, PathBuf)]) -> Result<Vec<Timed>> {
    let passes = options.passes.max(1);
    let repeated: Vec<String> = std::iter::repeat_n(texts, passes).flatten().cloned().collect();
    match side {
        Side::Cluster => binary.script(&repeated, &conf(&options.conf)),
        Side::Local => {
            let mut statements = plain_tables(folders);
            let setup = statements.len();
            statements.extend(repeated);
            let mut more = vec!["--master".to_owned(), format!("local[{}]", machine::cores())];
            more.extend(conf(&STOCK));
            Ok(binary.apart("plain")?.script(&statements, &more)?.split_off(setup))
        }
        Side::Duckdb | Side::Spark => peers::run(side, &repeated, folders),
    }
}

fn conf<S: AsRef<str>>(settings: &[S]) -> Vec<String> {
    settings.iter().flat_map(|s| ["--conf".to_owned(), s.as_ref().to_owned()]).collect()
}

/// A time counts only if the answer is right: every side's against the first one's.
fn check(measured: &BTreeMap<Side, Measured>) -> Result<()> {
    let Some((first, expected)) = measured.iter().next() else { return Err("no side could be run".to_owned()) };
    for (side, found) in measured.iter().skip(1) {
        for (number, rows) in &found.answers {
            answers::compare(&expected.answers[number], rows)
                .map_err(|e| format!("query {number}: {} and {} differ: {e}", first.name(), side.name()))?;
        }
    }
    Ok(())
}

fn line(options: &Options, machine: &Value, measured: &BTreeMap<Side, Measured>) -> Value {
    let sides: BTreeMap<&str, Value> = measured
        .iter()
        .map(|(side, m)| {
            let best: BTreeMap<String, f64> = m.best.iter().map(|(n, s)| (format!("q{n:02}"), (s * 1000.0).round())).collect();
            let value = json!({ "best_ms": best, "total_ms": (m.best.values().sum::<f64>() * 1000.0).round(),
                "peak_rss_mb": m.peak_rss_bytes >> 20, "peak_pss_mb": m.peak_pss_bytes >> 20, "cpu_seconds": m.cpu_seconds });
            (side.name(), value)
        })
        .collect();
    json!({ "bench": "tpch", "at": results::now(), "sf": options.scale, "executors": options.executors, "rounds": options.rounds,
        "passes": options.passes, "conf": options.conf, "machine": machine, "sides": sides })
}
