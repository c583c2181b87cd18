//! Other engines in Python, on the same Parquet files: DuckDB in the tests' environment, Spark in one that the user names.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::process::Timed;
use crate::tpch::run::Side;
use crate::{Result, machine};

const DUCKDB: &str = include_str!("../python/duckdb_queries.py");
const SPARK: &str = include_str!("../python/spark_queries.py");

/// Python with DuckDB: `BENCH_PYTHON`, `TEST_PYTHON`, or what `scripts/setup.sh --tests` made.
pub fn duckdb_python() -> Option<PathBuf> {
    let named = ["BENCH_PYTHON", "TEST_PYTHON"].into_iter().find_map(std::env::var_os).map(PathBuf::from);
    named.or_else(|| Some(crate::tpch::cache().ok()?.parent()?.join("venv/bin/python"))).filter(|p| p.is_file())
}

/// Python with pyspark, and whatever Java it needs in the environment: `BENCH_SPARK_PYTHON`.
pub fn spark_python() -> Option<PathBuf> {
    std::env::var_os("BENCH_SPARK_PYTHON").map(PathBuf::from).filter(|p| p.is_file())
}

/// Why a side cannot run here.
#[must_use]
pub fn missing(side: Side) -> Option<&'static str> {
    match side {
        Side::Cluster | Side::Local => None,
        Side::Duckdb if duckdb_python().is_some() => None,
        Side::Duckdb => Some("no Python with DuckDB (scripts/setup.sh --tests makes one, or name it in BENCH_PYTHON)"),
        Side::Spark if spark_python().is_some() => None,
        Side::Spark => Some("BENCH_SPARK_PYTHON names no Python with pyspark"),
    }
}

/// Runs queries in one process of a peer, one after the other.
///
/// # Errors
/// If the peer is not here or fails.
pub fn run(side: Side, queries: &[String], folders: &[(String, PathBuf)]) -> Result<Vec<Timed>> {
    let (python, script) = match side {
        Side::Duckdb => (duckdb_python(), DUCKDB),
        Side::Spark => (spark_python(), SPARK),
        Side::Cluster | Side::Local => (None, ""),
    };
    let python = python.ok_or_else(|| format!("{side:?} is not here"))?;
    let tables: Vec<Value> = folders.iter().map(|(table, dir)| json!({ "name": table, "dir": dir })).collect();
    let input = json!({ "threads": machine::cores(), "tables": tables, "queries": queries }).to_string();
    let failed = |what: &str| format!("{side:?} {what}");
    let mut child = Command::new(&python)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(&format!("does not start: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|e| failed(&format!("does not listen: {e}")))?;
    }
    let output = child.wait_with_output().map_err(|e| failed(&format!("was lost: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let timed = text
        .lines()
        .filter(|l| l.starts_with('{'))
        .map(|line| {
            let value: Value = serde_json::from_str(line).map_err(|e| failed(&format!("said {line:?}: {e}")))?;
            if let Some(error) = value["error"].as_str() {
                return Err(failed(&format!("failed: {error}")));
            }
            let rows = value["rows"].as_array().cloned().unwrap_or_default();
            Ok(Timed { seconds: value["seconds"].as_f64().ok_or_else(|| failed("gave no time"))?, rows })
        })
        .collect::<Result<Vec<_>>>()?;
    match timed.len() {
        n if n == queries.len() => Ok(timed),
        n => Err(failed(&format!("ended after {n} of {} queries ({})", queries.len(), output.status))),
    }
}
