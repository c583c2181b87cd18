//! What the machine does to the platform: a full disk, a locked catalog, no executor. Each gives a typed error and leaves the tables as they were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use chainalytics_tests::{Place, signal, wait_for};
use serde_json::Value;

const LOCAL: [&str; 2] = ["--master", "local[2]"];

/// A file system of a few MiB; `None` where this user may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|s| s.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_fails_the_write_and_nothing_else() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(&place.path().join("small")) else {
        println!("skipped: this user may not mount a small file system to fill");
        return;
    };
    let warehouse = format!("catalog.warehouse={}", disk.0.join("warehouse").display());
    let with = [LOCAL[0], LOCAL[1], "--conf", &warehouse];
    place.sql("CREATE TABLE t (a BIGINT, b DOUBLE); INSERT INTO t VALUES (1, 1.5)", &with);
    let mut args = vec!["sql", "-e", "INSERT INTO t SELECT value, random() FROM range(0, 2000000)"];
    args.extend(with);
    let ran = place.run(&args);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("CA-STORAGE-WRITE") || ran.stderr.contains("CA-RESOURCES-EXHAUSTED"), "{}", ran.stderr);
    assert!(ran.stderr.to_lowercase().contains("no space left"), "the message names the cause: {}", ran.stderr);
    assert_eq!(place.number("SELECT count(*) FROM t", &with), 1);
    assert_eq!(place.number("SELECT count(*) FROM t.snapshots", &with), 1);
    // The disk has room again for what fits: nothing of the failed write stayed behind.
    place.sql("INSERT INTO t VALUES (2, 2.5)", &with);
    assert_eq!(place.number("SELECT count(*) FROM t", &with), 2);
}

#[test]
fn a_locked_catalog_is_waited_for_and_then_told() {
    let place = Place::new();
    place.sql("CREATE TABLE t (a BIGINT); INSERT INTO t VALUES (1)", &LOCAL);
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.execute('BEGIN EXCLUSIVE')\nprint('locked', flush=True)\n\
                  sys.stdin.readline()\nc.rollback()\nprint('free', flush=True)";
    let lock = || {
        let mut holder = Command::new("python3")
            .args(["-c", script])
            .arg(place.path().join("catalog.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        holder
    };
    let mut holder = lock();
    let ran = place.run(&["sql", "-e", "INSERT INTO t VALUES (2)", "--conf", "catalog.busy-timeout=500ms", LOCAL[0], LOCAL[1]]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("CA-CATALOG-BUSY") && ran.stderr.contains("catalog.busy-timeout"), "{}", ran.stderr);
    // One that has the time to wait gets its turn.
    let waiting = place.spawn(&["sql", "-e", "INSERT INTO t VALUES (3)", LOCAL[0], LOCAL[1]]);
    holder.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(holder.wait().unwrap().success());
    let mut waiting = waiting;
    assert!(waiting.wait().unwrap().success());
    assert_eq!(place.number("SELECT sum(a) FROM t", &LOCAL), 4);
}

#[test]
fn a_cluster_without_executors_says_so() {
    let place = Place::new();
    place.start_cluster(1, &["--no-broker", "--conf", "scheduler.executor-wait-timeout=2s"]);
    place.sql("CREATE TABLE t AS SELECT 1 AS a", &LOCAL);
    let status = place.status();
    let executor = status["services"].as_array().unwrap().iter().find(|s| s["role"] == "executor").unwrap()["pid"].as_i64().unwrap();
    signal(executor, "KILL");
    wait_for("the executor's end", Duration::from_secs(10), || (!Path::new(&format!("/proc/{executor}/exe")).exists()).then_some(()));
    let ran = place.run(&["sql", "-e", "SELECT a FROM t"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("CA-CLUSTER-NOT-READY"), "{}", ran.stderr);
}

/// A leaf without rows and one that makes its own stand in a UNION beside tables: Ballista 55.0 alone loses rows of such a query, or never ends it.
#[test]
fn a_union_of_tables_literals_and_nothing_keeps_its_rows() {
    let place = Place::new();
    place.start_cluster(3, &["--no-broker"]);
    place.sql(
        "CREATE TABLE a (x BIGINT, s STRING); CREATE TABLE empty (x BIGINT, s STRING); INSERT INTO a SELECT value, 'a' FROM range(0, 1000)",
        &LOCAL,
    );
    let query = "SELECT s, count(*) AS n, sum(x) AS x FROM (SELECT * FROM a UNION ALL SELECT * FROM empty UNION ALL SELECT 5, 'literal' UNION ALL \
                 SELECT x, 'again' FROM a WHERE x > 990 UNION ALL SELECT * FROM empty UNION ALL SELECT 7, 'literal') AS u GROUP BY s ORDER BY s";
    let expected: Vec<Value> = place.sql(query, &LOCAL);
    assert_eq!(expected.len(), 3, "{expected:?}");
    for adaptive in ["query.adaptive=false", "query.adaptive=true"] {
        for _ in 0..3 {
            assert_eq!(place.sql(query, &["--conf", adaptive]), expected, "{adaptive}");
        }
    }
}
