//! Data-driven SQL tests: every file under `tests/sql` in a data directory of its own, each statement through the binary's `sql` command, as users run it.
//!
//! `TEST_SQL` narrows the files by a part of their name; `TEST_MASTER` (default `local[2]`) says where the statements run; `TEST_KEEP` keeps the data
//! under that directory, one folder a file. `$DIR` in a statement is the data directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chainalytics_tests::{binary, python, slt};

/// Rows of a statement, each value as text.
fn run(dir: &Path, master: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let output = Command::new(binary())
        .arg("--data-dir")
        .arg(dir)
        .args(["sql", "--master", master, "--output", "json", "-e", sql])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        Ok(row.as_object().map(|row| row.values().map(cell).collect()).unwrap_or_default())
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
}

fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::String(text) if text.is_empty() => "(empty)".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn files() -> Vec<PathBuf> {
    if let Ok(named) = std::env::var("TEST_SQL_FILES") {
        return named.split_whitespace().map(PathBuf::from).collect();
    }
    let filter = std::env::var("TEST_SQL").unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "slt") && path.to_string_lossy().contains(&filter))
        .collect();
    found.sort();
    found
}

/// Runs one file in `dir` to its end or its first difference.
fn test(file: &Path, dir: &Path) -> Result<usize, String> {
    std::fs::create_dir_all(dir).unwrap();
    let master = std::env::var("TEST_MASTER").unwrap_or_else(|_| "local[2]".to_owned());
    let records = slt::parse(&std::fs::read_to_string(file).map_err(|e| e.to_string())?.replace("$DIR", &dir.to_string_lossy()))?;
    for record in &records {
        record.check(run(dir, &master, &record.sql)).map_err(|e| format!("{}:{}: {}\n{e}", file.display(), record.line, record.sql))?;
    }
    Ok(records.len())
}

#[test]
fn sql_files_pass() {
    let files = files();
    assert!(!files.is_empty(), "no SQL test files found");
    let temporary = tempfile::Builder::new().prefix("chainalytics-sql-").tempdir().unwrap();
    let root = std::env::var_os("TEST_KEEP").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let place = |file: &Path| root.join(file.file_stem().unwrap());
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match test(file, &place(file)) {
                        Ok(records) => println!("ok   {} ({records} entries)", file.display()),
                        Err(error) => {
                            println!("FAIL {error}");
                            failures.lock().unwrap().push(error);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} of {} files failed:\n{}", failures.len(), files.len(), failures.join("\n\n"));
    others_read_the_same(files.iter().map(|file| place(file)));
}

/// Every table that the files left behind, as PyIceberg and DuckDB read it, and Spark where `scripts/parts/spark.sh env` is in the environment.
fn others_read_the_same(places: impl Iterator<Item = PathBuf> + Clone) {
    if let (Some(python), Some(jars)) = (std::env::var_os("TEST_SPARK_PYTHON"), std::env::var_os("TEST_SPARK_JARS")) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/compare_with_spark.py");
        let output = Command::new(python).arg(script).arg(binary()).arg(jars).args(places.clone()).output().unwrap();
        let (report, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{report}\n{errors}");
        println!("Spark: {report}");
    }
    let Some(python) = python() else {
        println!("other engines are not asked: TEST_PYTHON is not set");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/compare_tables.py");
    let output = Command::new(python).arg(script).arg(binary()).args(places).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("other engines: {report}");
    assert!(report["pyiceberg"].as_u64().unwrap() > 30 && report["duckdb"].as_u64().unwrap() > 30, "{report}");
}
