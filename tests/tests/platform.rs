//! The platform end to end: the demo's sums, other engines' view of the tables, restarts without loss or duplicate, bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::process::Command;
use std::time::Duration;

use chainalytics_tests::{Place, python, signal, wait_for};
use serde_json::Value;

fn sum(value: &Value) -> i64 {
    value.as_object().unwrap().values().map(|n| n.as_i64().unwrap()).sum()
}

/// The whole main job on a cluster of three executors; then again in the same place; then as PyIceberg sees it.
#[test]
fn demo_adds_up_and_others_read_the_same() {
    let place = Place::new();
    let offset = place.offset.to_string();
    let mut args = vec!["demo", "--events", "60000", "--port-offset", &offset, "--output", "json"];
    let files = std::env::var("TEST_FILES").ok().filter(|dir| std::path::Path::new(dir).join("flights.csv").exists());
    if let Some(dir) = &files {
        args.extend(["--files", dir]);
    }
    for round in 1..=2 {
        let report = place.run(&args).ok().last_json();
        let (produced, bronze, dead) = (sum(&report["produced"]), sum(&report["bronze"]), sum(&report["dead_letters"]));
        let (silver, quarantined, duplicates) = (sum(&report["silver"]), sum(&report["quarantined"]), sum(&report["duplicates"]));
        assert_eq!(produced, 60_000 * round, "round {round}: {report}");
        assert_eq!(produced, bronze + dead, "round {round}: {report}");
        assert_eq!(bronze, silver + quarantined + duplicates, "round {round}: {report}");
        // The generators' shares are known: 1 % malformed, 0.5 % against a rule, 2 % repeated.
        assert!((produced / 200..produced / 50).contains(&dead), "{report}");
        assert!(quarantined > 0 && duplicates > produced / 200, "{report}");
        assert!(report["gold"].as_object().unwrap().values().any(|n| n.as_i64().unwrap() > 0), "{report}");
        if files.is_some() {
            assert_eq!(report["files"]["bronze_flights"], 336_776, "{report}");
            assert_eq!(report["files"]["bronze_weather_observations"], 26_115, "{report}");
        }
        // Every offset of every partition is in bronze or among the dead letters, once.
        let offsets = "SELECT count(*) - count(DISTINCT concat_ws('/', kafka_topic, kafka_partition, kafka_offset)) FROM (\
             SELECT kafka_topic, kafka_partition, kafka_offset FROM bronze_user_events UNION ALL \
             SELECT kafka_topic, kafka_partition, kafka_offset FROM bronze_products UNION ALL \
             SELECT kafka_topic, kafka_partition, kafka_offset FROM bronze_weather_data UNION ALL \
             SELECT kafka_topic, kafka_partition, kafka_offset FROM bronze_dead_letters) AS r";
        assert_eq!(place.number(offsets, &[]), 0);

        // The same query gives the same result on the cluster and in one process.
        let by_day = "SELECT CAST(event_timestamp AS DATE) AS d, count(*) AS n FROM silver_user_events GROUP BY 1 ORDER BY 1";
        assert_eq!(place.sql(by_day, &[]), place.sql(by_day, &["--master", "local[2]"]));

        if let Some(python) = python() {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/read_tables.py");
            let text = |key: &str| report[key].as_str().unwrap().to_owned();
            let output = Command::new(python).args([script, "default", &text("catalog_uri"), &text("warehouse"), "chainalytics"]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
            for layer in ["bronze", "silver", "dead_letters", "quarantined", "gold", "files"] {
                for (table, n) in report[layer].as_object().unwrap() {
                    assert_eq!(&seen["counts"][table], n, "PyIceberg's count of {table}");
                }
            }
            let ours = place.sql("SELECT sum(value) AS revenue FROM silver_user_events WHERE event_type = 'purchase'", &[]);
            let (ours, theirs) = (ours[0]["revenue"].as_f64().unwrap(), seen["revenue"].as_f64().unwrap());
            assert!((ours - theirs).abs() <= 1e-6 * theirs.abs(), "{ours} against {theirs}");
            let ids: Vec<i64> = seen["field_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
            assert_eq!(ids, (1..=ids.len() as i64).collect::<Vec<_>>());
        }
    }
    let status = place.status();
    let roles: Vec<&str> = status["services"].as_array().unwrap().iter().map(|s| s["role"].as_str().unwrap()).collect();
    assert!(roles.contains(&"broker") && roles.iter().filter(|r| **r == "executor").count() == 3, "{status}");
}

/// The streaming driver is killed with SIGKILL in the middle of its batches, again and again: no row lost, none twice.
#[test]
fn killed_streams_lose_and_double_nothing() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    for job in ["create_bronze_tables"] {
        place.run(&["submit", job]).ok();
    }
    place.run(&["produce", "user-events", "--count", "120000", "--seed", "7"]).ok();
    let stored = "SELECT (SELECT count(*) FROM bronze_user_events) + (SELECT count(*) FROM bronze_dead_letters) AS n";
    let stream =
        ["submit", "kafka_to_bronze", "--conf", "streaming.max-rows-per-batch=600", "--", "--topics", "user-events", "--trigger", "available-now"];
    let mut landed = 0;
    for _ in 0..10 {
        let before = place.number(stored, &["--master", "local"]);
        if before >= 120_000 {
            break;
        }
        let mut driver = place.spawn(&stream);
        // Killed once it has committed something and is not through.
        wait_for("a batch of the stream", Duration::from_secs(60), || {
            let ended = driver.try_wait().unwrap().is_some();
            (ended || place.number(stored, &["--master", "local"]) > before).then_some(())
        });
        if driver.try_wait().unwrap().is_none() && signal(driver.id().into(), "KILL") {
            landed += 1;
        }
        driver.wait().unwrap();
    }
    println!("{landed} kills landed while work was in progress");
    assert!(landed >= 3, "only {landed} kills landed");
    place.run(&stream).ok();
    assert_eq!(place.number(stored, &[]), 120_000);
    let distinct = "SELECT count(DISTINCT concat_ws('/', kafka_partition, kafka_offset)) AS n FROM (\
         SELECT kafka_partition, kafka_offset FROM bronze_user_events UNION ALL SELECT kafka_partition, kafka_offset FROM bronze_dead_letters) AS r";
    assert_eq!(place.number(distinct, &[]), 120_000);
}

/// What is wrong is said with a stable code, on stderr, with the exit code of its kind; stdout stays empty.
#[test]
fn bad_input_is_told() {
    let place = Place::new();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["submit", "gold_agregation", "--master", "local"], 2, "CA-UNKNOWN-JOB"),
        (&["sql", "-e", "SELECT 1", "--conf", "query.adaptve=true"], 2, "query.adaptive"),
        (&["sql", "-e", "SELECT 1", "--conf", "scheduler.port=seventy"], 2, "CA-CONFIG"),
        (&["sql", "-e", "SELECT 1", "--master", "chainalytics://127.0.0.1:1"], 1, "CA-SCHEDULER-UNREACHABLE"),
        (&["sql", "-e", "SELECT * FROM no_such_table", "--master", "local"], 1, "CA-TABLE-NOT-FOUND"),
        (&["sql", "-e", "SELEC 1", "--master", "local"], 1, "CA-SQL-SYNTAX"),
        (&["sql", "-e", "SELECT no_such_column FROM (SELECT 1 AS a) t", "--master", "local"], 1, "CA-SQL"),
        (&["submit", "kafka_to_bronze", "--master", "local", "--", "--no-such-option"], 2, "CA-INVALID-ARGUMENT"),
        (&["submit", "kafka_to_bronze", "--master", "local", "--", "--topics", "no-such-topic"], 1, "CA-TOPIC-NOT-FOUND"),
        (&["submit", "bronze_ingestion", "--master", "local", "--", "--path", "/no/such/file.csv", "--table", "t"], 1, "CA-IO"),
        (&["sql", "--no-such-flag"], 2, "--no-such-flag"),
    ];
    for (args, code, text) in cases {
        let ran = place.run(args);
        assert_eq!(ran.code, *code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{args:?}: {text} not in {}", ran.stderr);
        assert!(args[0] == "submit" || ran.stdout.is_empty(), "{args:?}: {}", ran.stdout);
    }
    assert_eq!(place.number("SELECT 41 + 1 AS n", &["--master", "local[2]"]), 42);
}

/// A port that is taken is named, and nothing is left running.
#[test]
fn port_in_use_is_told_and_nothing_is_left() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 9090 + place.offset)).unwrap();
    let offset = place.offset.to_string();
    let ran = place.run(&["cluster", "start", "--executors", "1", "--port-offset", &offset]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("CA-PORT-IN-USE") && ran.stderr.contains(&(9090 + place.offset).to_string()), "{}", ran.stderr);
    drop(taken);
}

/// The configuration says where each value came from and shows no secret.
#[test]
fn configuration_is_shown_without_secrets() {
    let place = Place::new();
    let ran = place.run(&["config", "show", "--output", "json", "--conf", "s3.secret-access-key=hush", "--conf", "history.port=1"]).ok();
    assert!(!ran.stdout.contains("hush"));
    let shown = ran.last_json();
    assert_eq!(shown["history.port"]["value"].as_str().map(str::to_owned).unwrap_or_else(|| shown["history.port"]["value"].to_string()), "1");
    assert_eq!(shown["scheduler.port"]["source"], "default");
    let uri = shown["catalog.uri"]["value"].as_str().unwrap();
    assert!(uri.starts_with("sqlite:////"), "{uri}");
}
