//! What the table format costs: Iceberg scans beside plain Parquet scans of the very same files, and a partitioned ZSTD write beside DataFusion's own
//! COPY. All in one process with as many threads as cores; sides in turn, the best time of each counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Binary, Timed};
use crate::results::ratio;
use crate::tpch::{data_folders, plain_tables, run as tpch_run, source_dir};
use crate::{Result, answers, machine, note, results};

/// What is read: name and query.
const SCANS: [(&str, &str); 6] = [
    ("numbers of all rows", "SELECT sum(l_quantity) AS a, sum(l_extendedprice) AS b, max(l_shipdate) AS c, min(l_orderkey) AS d FROM lineitem"),
    ("text of all rows", "SELECT sum(length(l_comment)) AS a, sum(length(l_shipinstruct)) AS b FROM lineitem"),
    ("a month", "SELECT count(*) AS n, sum(l_tax) AS a FROM lineitem WHERE l_shipdate >= date '1995-09-01' AND l_shipdate < date '1995-10-01'"),
    ("a range of keys", "SELECT count(*) AS n, sum(l_tax) AS a FROM lineitem WHERE l_orderkey BETWEEN 100000 AND 110000"),
    ("one order", "SELECT o_orderkey, o_totalprice, o_comment FROM orders WHERE o_orderkey = 7"),
    ("count", "SELECT count(*) AS n FROM orders"),
];

/// See the command's help.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Scale of the TPC-H data that is read and written
    #[arg(long, default_value_t = 1.0)]
    sf: f64,
    /// The binary; by default this checkout's release build
    #[arg(long)]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Keep the result out of benches/results and benches/README.md
    #[arg(long)]
    dry_run: bool,
}

/// Best seconds of both sides.
#[derive(Clone, Copy, Debug)]
struct Pair {
    ours: f64,
    theirs: f64,
}

/// # Errors
/// If data cannot be made, a statement fails, or an answer differs.
pub fn run(options: &Options) -> Result<()> {
    let machine = machine::describe();
    let prepared = tpch_run::Options { scale: options.sf, binary: options.binary.clone(), ..tpch_run::Options::default() };
    let binary = tpch_run::prepare(&prepared)?;
    let mut found: BTreeMap<usize, (String, Pair)> = BTreeMap::new();
    let mut add = |at: usize, name: &str, ours: f64, theirs: f64| {
        let (_, pair) = found.entry(at).or_insert((name.to_owned(), Pair { ours, theirs }));
        pair.ours = pair.ours.min(ours);
        pair.theirs = pair.theirs.min(theirs);
    };
    for round in 1..=options.rounds.max(1) {
        let (ours, theirs) = scans(&binary)?;
        for (at, (name, _)) in SCANS.iter().enumerate() {
            // The first pass reads the footers, the second finds them cached; both count, as the better of the two.
            let best = |side: &[Timed]| side[at].seconds.min(side[at + SCANS.len()].seconds);
            answers::compare(&ours[at].rows, &theirs[at].rows).map_err(|e| format!("scan '{name}' differs: {e}"))?;
            add(at, &format!("scan: {name}"), best(&ours), best(&theirs));
        }
        let (ours, theirs) = writes(&binary, &source_dir(options.sf)?)?;
        add(SCANS.len(), "partitioned ZSTD write", ours, theirs);
        note(&format!("round {round}: write {ours:.2} s against {theirs:.2} s"));
    }
    let mut table = format!(
        "`make bench-lakehouse SF={} ROUNDS={}`, {}: one process, best of {} rounds; {}.\n\n| what | Iceberg ms | plain Parquet ms | ratio |\n|---|---|---|---|\n",
        options.sf,
        options.rounds,
        results::now(),
        options.rounds,
        machine::line(&machine)
    );
    for (name, pair) in found.values() {
        let _ =
            writeln!(table, "| {name} | {:.0} | {:.0} | {} |", pair.ours * 1000.0, pair.theirs * 1000.0, ratio(Some(pair.ours), Some(pair.theirs)));
    }
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))?;
    if !options.dry_run {
        let rows: Vec<Value> =
            found.values().map(|(name, p)| json!({ "what": name, "ours_ms": p.ours * 1000.0, "plain_ms": p.theirs * 1000.0 })).collect();
        results::append("lakehouse", &json!({ "bench": "lakehouse", "at": results::now(), "sf": options.sf, "machine": machine, "rows": rows }))?;
        results::publish(&format!("lakehouse sf{}", options.sf), &table)?;
    }
    Ok(())
}

fn master() -> Vec<String> {
    vec!["--master".to_owned(), format!("local[{}]", machine::cores())]
}

/// All scans twice, on either side.
fn scans(binary: &Binary) -> Result<(Vec<Timed>, Vec<Timed>)> {
    let queries: Vec<String> = SCANS.iter().chain(&SCANS).map(|(_, sql)| (*sql).to_owned()).collect();
    let ours = binary.script(&queries, &master())?;
    let mut statements = plain_tables(&data_folders(binary)?);
    let setup = statements.len();
    statements.extend(queries);
    let theirs = binary.apart("plain")?.script(&statements, &master())?.split_off(setup);
    Ok((ours, theirs))
}

/// `lineitem` written by ship mode, from the generated files; seconds of either side.
fn writes(binary: &Binary, source: &Path) -> Result<(f64, f64)> {
    let copied = binary.data_dir().join("copied");
    let _removed = std::fs::remove_dir_all(&copied);
    let external = format!("CREATE EXTERNAL TABLE source STORED AS PARQUET LOCATION '{}/'", source.join("lineitem").display());
    let ours = [
        external.clone(),
        "CREATE OR REPLACE TABLE bench_written USING iceberg PARTITIONED BY (l_shipmode) TBLPROPERTIES ('write.distribution-mode' = 'none') \
         AS SELECT * FROM source"
            .to_owned(),
        "DROP TABLE bench_written PURGE".to_owned(),
    ];
    let theirs = [
        external,
        // The level that the lakehouse's writer has, too.
        format!(
            "COPY (SELECT * FROM source) TO '{}/' STORED AS PARQUET PARTITIONED BY (l_shipmode) OPTIONS ('format.compression' 'zstd(3)')",
            copied.display()
        ),
    ];
    let seconds = |timed: Vec<Timed>| timed.get(1).map(|t| t.seconds).ok_or_else(|| "a write gave no time".to_owned());
    let ours = seconds(binary.script(&ours, &master())?)?;
    let theirs = seconds(binary.script(&theirs, &master())?);
    let _removed = std::fs::remove_dir_all(&copied);
    Ok((ours, theirs?))
}
