//! Data-driven SQL tests: every file under `tests/sql` in a data directory of its own, each statement through the binary's `sql` command, as users run it.
//!
//! `TEST_SQL` narrows the files by a part of their name; `TEST_MASTER` (default `local[2]`) says where the statements run; `TEST_KEEP` keeps the data
//! under that directory, one folder a file. `$DIR` in a statement is the data directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chainalytics_tests::binary;
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner};

/// What the command printed on failure.
#[derive(Debug)]
struct SqlError(String);

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SqlError {}

struct Cli {
    dir: PathBuf,
    master: String,
}

impl DB for Cli {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<Self::ColumnType>, Self::Error> {
        let sql = sql.replace("$DIR", &self.dir.to_string_lossy());
        let output = Command::new(binary())
            .arg("--data-dir")
            .arg(&self.dir)
            .args(["sql", "--master", &self.master, "--output", "json", "-e", &sql])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| SqlError(e.to_string()))?;
        if !output.status.success() {
            return Err(SqlError(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let rows: Vec<Vec<String>> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                let row: serde_json::Value = serde_json::from_str(line).map_err(|e| SqlError(format!("{e}: {line}")))?;
                Ok(row.as_object().map(|row| row.values().map(cell).collect()).unwrap_or_default())
            })
            .collect::<Result<_, SqlError>>()?;
        let Some(first) = rows.first() else {
            return Ok(DBOutput::StatementComplete(0));
        };
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; first.len()], rows })
    }

    fn engine_name(&self) -> &str {
        "chainalytics"
    }
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
    let filter = std::env::var("TEST_SQL").unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "slt") && path.to_string_lossy().contains(&filter))
        .collect();
    // Files named on the command line of the test binary, as `sql --nocapture` does not take them: by variable.
    if let Ok(named) = std::env::var("TEST_SQL_FILES") {
        found = named.split_whitespace().map(PathBuf::from).collect();
    }
    found.sort();
    found
}

fn run(file: &Path) -> Result<(), String> {
    let kept = std::env::var_os("TEST_KEEP").map(|dir| PathBuf::from(dir).join(file.file_stem().unwrap()));
    let temporary = tempfile::Builder::new().prefix("chainalytics-sql-").tempdir().unwrap();
    let dir = kept.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).unwrap();
    let master = std::env::var("TEST_MASTER").unwrap_or_else(|_| "local[2]".to_owned());
    let mut runner = Runner::new(|| {
        let cli = Cli { dir: dir.clone(), master: master.clone() };
        async move { Ok(cli) }
    });
    runner.run_file(file).map_err(|e| format!("{}: {e}", file.display()))
}

#[test]
fn sql_files_pass() {
    let files = files();
    assert!(!files.is_empty(), "no SQL test files found");
    let next = Arc::new(AtomicUsize::new(0));
    let failures = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match run(file) {
                        Ok(()) => eprintln!("ok   {}", file.display()),
                        Err(error) => {
                            eprintln!("FAIL {error}");
                            failures.lock().unwrap().push(error);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} of {} files failed:\n{}", failures.len(), files.len(), failures.join("\n\n"));
}
