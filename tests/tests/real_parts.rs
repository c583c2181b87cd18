//! The platform on real parts instead of the embedded ones: Apache Kafka, PostgreSQL as catalog, an S3 store, a schema registry, an Iceberg
//! REST catalog. `scripts/parts` installs, starts and stops them. Runs only if TEST_PARTS is set (`make test` sets it): they need Java.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chainalytics_tests::third_party::Parts;
use chainalytics_tests::{Place, python, wait_for};
use serde_json::Value;

/// The platform's settings for Kafka, PostgreSQL and the S3 store.
fn conf_of(parts: &Parts) -> Vec<String> {
    let mut conf = parts.s3_conf();
    conf.extend(parts.conf_of(&[("catalog.uri", "POSTGRES_URI"), ("kafka.bootstrap.servers", "KAFKA_BOOTSTRAP_SERVERS")]));
    conf.extend(["--conf".to_owned(), format!("catalog.warehouse=s3://{}/warehouse", parts.get("S3_BUCKET"))]);
    conf
}

fn strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

fn sum(value: &Value) -> i64 {
    value.as_object().unwrap().values().map(|n| n.as_i64().unwrap()).sum()
}

/// The demo's sums, and PyIceberg's view of the same tables. `more` are settings of the demo, `properties` PyIceberg's.
fn demo_adds_up(place: &Place, more: &[String], properties: &[String]) {
    let offset = place.offset.to_string();
    let mut args = vec!["demo", "--events", "60000", "--port-offset", &offset, "--output", "json"];
    args.extend(strs(more));
    let report = place.run(&args).ok().last_json();
    let (produced, bronze, dead) = (sum(&report["produced"]), sum(&report["bronze"]), sum(&report["dead_letters"]));
    let (silver, quarantined, duplicates) = (sum(&report["silver"]), sum(&report["quarantined"]), sum(&report["duplicates"]));
    assert_eq!(produced, 60_000, "{report}");
    assert_eq!(produced, bronze + dead, "{report}");
    assert_eq!(bronze, silver + quarantined + duplicates, "{report}");
    assert!((produced / 200..produced / 50).contains(&dead), "{report}");
    assert!(quarantined > 0 && duplicates > produced / 200, "{report}");
    assert!(report["gold"].as_object().unwrap().values().any(|n| n.as_i64().unwrap() > 0), "{report}");
    let roles = place.status()["services"].as_array().unwrap().iter().map(|s| s["role"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert!(!roles.iter().any(|role| role == "broker"), "a broker of our own beside the real one: {roles:?}");

    let Some(python) = python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/read_tables.py");
    let text = |key: &str| report[key].as_str().unwrap().to_owned();
    let mut command = Command::new(python);
    command.args([script, "default", &text("catalog_uri"), &text("warehouse"), "chainalytics"]).args(properties);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    for layer in ["bronze", "silver", "dead_letters", "quarantined", "gold"] {
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

#[test]
fn demo_adds_up_on_kafka_postgresql_and_s3() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["kafka", "postgres", "seaweedfs"], place.offset) else { return };
    let (kafka, catalog) = (parts.get("KAFKA_BOOTSTRAP_SERVERS").to_owned(), parts.get("POSTGRES_URI").to_owned());
    let warehouse = format!("s3://{}/warehouse", parts.get("S3_BUCKET"));
    let mut more = parts.s3_conf();
    for (flag, value) in [("--kafka", kafka), ("--catalog", catalog), ("--warehouse", warehouse)] {
        more.extend([flag.to_owned(), value]);
    }
    demo_adds_up(&place, &more, &parts.python_properties());
    what_is_wrong_is_told(&place, &parts);
}

/// Wrong credentials, a missing bucket, parts that are away: each with its own code, soon, and nothing written.
fn what_is_wrong_is_told(place: &Place, parts: &Parts) {
    let postgres = parts.get("POSTGRES_URI");
    let wrong_password = postgres.replace(parts.get("POSTGRES_PASSWORD"), "wrong");
    let wrong_database = postgres.replace("/iceberg", "/no_such_database");
    let nobody = "postgresql://u:p@127.0.0.1:1/iceberg";
    let cases: &[(&str, &str, &str)] = &[
        ("catalog.uri", &wrong_password, "CA-CATALOG-DENIED"),
        ("catalog.uri", &wrong_database, "CA-CATALOG-DENIED"),
        ("catalog.uri", nobody, "CA-CATALOG-UNREACHABLE"),
        ("catalog.uri", "mysql://u:p@127.0.0.1/iceberg", "CA-CONFIG"),
        ("catalog.warehouse", "s3://no-such-bucket/warehouse", "CA-BUCKET-NOT-FOUND"),
        ("s3.secret-access-key", "wrong", "CA-STORAGE-DENIED"),
        ("s3.access-key-id", "wrong", "CA-STORAGE-DENIED"),
        ("s3.endpoint", "http://127.0.0.1:1", "CA-STORAGE-UNREACHABLE"),
    ];
    for (key, value, code) in cases {
        let wrong = format!("{key}={value}");
        let ran = place.run(&["sql", "-e", "CREATE TABLE never AS SELECT 1 AS a", "--master", "local[2]", "--conf", &wrong]);
        assert!(ran.code != 0 && ran.stderr.contains(code), "{wrong}: {code} not in {}", ran.stderr);
        assert!(!ran.stderr.contains('@'), "{wrong}: a password is shown: {}", ran.stderr);
    }
    assert!(place.sql("SHOW TABLES", &["--master", "local[2]"]).iter().all(|row| !row.to_string().contains("never")));
}

/// A stream that is in the middle of its batches.
fn stream_in_the_middle(place: &Place, conf: &[String], stored: &str, before: i64, all: i64) -> Child {
    let mut args = vec!["submit", "kafka_to_bronze", "--conf", "streaming.max-rows-per-batch=1500"];
    args.extend(strs(conf));
    args.extend(["--", "--topics", "user-events", "--trigger", "available-now"]);
    let mut driver = place.spawn(&args);
    wait_for("a batch of the stream", Duration::from_secs(90), || {
        assert!(driver.try_wait().unwrap().is_none(), "the stream ended before anything was taken from it");
        let now = place.number(stored, &["--master", "local"]);
        assert!(now < all, "the stream was through before anything was taken from it");
        (now > before).then_some(())
    });
    driver
}

/// Broker, catalog and store are taken away from running streams and come back: the streams wait and go on.
#[test]
fn streams_wait_for_parts_that_are_away() {
    const ALL: i64 = 60_000;
    let place = Place::new();
    let Some(mut parts) = Parts::start(&["kafka", "postgres", "seaweedfs"], place.offset) else { return };
    let conf = conf_of(&parts);
    place.start_cluster(2, &strs(&conf));
    place.run(&["submit", "create_bronze_tables"]).ok();
    place.run(&["produce", "user-events", "--count", "60000", "--seed", "7"]).ok();
    let stored = "SELECT (SELECT count(*) FROM bronze_user_events) + (SELECT count(*) FROM bronze_dead_letters) AS n";
    let mut driver = stream_in_the_middle(&place, &[], stored, 0, ALL);
    for name in ["kafka", "postgres", "seaweedfs"] {
        parts.down(name);
        assert!(driver.try_wait().unwrap().is_none(), "the stream ended when {name} went away");
        parts.up(name);
        let before = place.number(stored, &["--master", "local"]);
        wait_for("the stream to go on", Duration::from_secs(120), || {
            let ended = driver.try_wait().unwrap();
            assert!(ended.is_none_or(|status| status.success()), "the stream did not survive {name}");
            (ended.is_some() || place.number(stored, &["--master", "local"]) > before).then_some(())
        });
    }
    assert!(driver.wait().unwrap().success());
    assert_eq!(place.number(stored, &[]), ALL);
    let distinct = "SELECT count(DISTINCT concat_ws('/', kafka_partition, kafka_offset)) AS n FROM (\
         SELECT kafka_partition, kafka_offset FROM bronze_user_events UNION ALL SELECT kafka_partition, kafka_offset FROM bronze_dead_letters) AS r";
    assert_eq!(place.number(distinct, &[]), ALL);
}

/// Kafka's own client with a log that has holes; see `tests/java/Holes.java`.
fn holes(parts: &Parts, args: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(["-cp", &format!("{}/*", parts.get("KAFKA_LIBS"))]).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/java/Holes.java"));
    command.args([args[0], parts.get("KAFKA_BOOTSTRAP_SERVERS")]).args(&args[1..]).stderr(Stdio::null());
    command
}

/// The positions that a reader of committed records sees, and those that are rows or dead letters here.
fn positions(place: &Place, parts: &Parts, topic: &str, table: &str) -> (Vec<String>, Vec<String>) {
    let output = holes(parts, &["read", topic]).output().unwrap();
    assert!(output.status.success(), "Kafka's own consumer failed");
    let mut theirs: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let query = format!(
        "SELECT kafka_partition AS p, kafka_offset AS o FROM {table} UNION ALL SELECT kafka_partition, kafka_offset FROM bronze_dead_letters WHERE kafka_topic = '{topic}'"
    );
    let mut ours: Vec<String> = place.sql(&query, &["--master", "local[2]"]).iter().map(|row| format!("{} {}", row["p"], row["o"])).collect();
    theirs.sort();
    ours.sort();
    (theirs, ours)
}

/// Control records, aborted and compacted records, an open transaction: every committed record once, nothing waits for what is not there,
/// and completeness does not miss it.
#[test]
fn holes_in_the_log_are_neither_waited_for_nor_missed() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["kafka"], place.offset) else { return };
    let kafka = format!("kafka.bootstrap.servers={}", parts.get("KAFKA_BOOTSTRAP_SERVERS"));
    let job = |name: &str, args: &[&str]| {
        let mut all = vec!["submit", name, "--output", "json", "--master", "local[2]", "--conf", &kafka, "--conf", "streaming.kafka.stall-timeout=20s", "--"];
        all.extend(args);
        place.run(&all).ok().last_json()["report"].clone()
    };
    let mut producer = holes(&parts, &["transactions", "user-events", "120"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(producer.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "open");
    assert!(holes(&parts, &["compact", "products", "3000"]).status().unwrap().success());

    job("create_bronze_tables", &[]);
    // Ranges that end anywhere, in holes too.
    let stream = ["--topics", "user-events,products", "--trigger", "available-now", "--max-rows-per-batch", "230"];
    let first = job("kafka_to_bronze", &stream);
    assert!(first["batches"].as_i64().unwrap() > 5, "{first}");
    let (theirs, ours) = positions(&place, &parts, "user-events", "bronze_user_events");
    assert!(theirs.len() > 1_000, "{}", theirs.len());
    assert_eq!(theirs, ours, "an open transaction is not read, everything before it is");
    let late = job("late_data_handler", &["--topics", "user-events,products"]);
    let missing = |report: &Value, topic: &str| report["topics"][topic]["missing"].as_i64().unwrap();
    assert_eq!((missing(&late, "user-events"), missing(&late, "products")), (0, 0), "{late}");
    // The cleaner goes on meanwhile: what it leaves last was there before too.
    let (left, ours) = positions(&place, &parts, "products", "bronze_products");
    assert!(ours.len() < 2_000 && left.iter().all(|position| ours.contains(position)), "{} of {}", left.len(), ours.len());

    producer.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "done");
    assert!(producer.wait().unwrap().success());
    assert!(job("kafka_to_bronze", &stream)["rows"].as_i64().unwrap() >= 40);
    let (theirs, ours) = positions(&place, &parts, "user-events", "bronze_user_events");
    assert_eq!(theirs, ours);
    let late = job("late_data_handler", &["--topics", "user-events,products"]);
    assert_eq!(missing(&late, "user-events"), 0, "{late}");
    let hours = "SELECT sum(expected) - sum(arrived) - sum(dead_letters) AS n FROM monitoring_completeness";
    assert_eq!(place.number(hours, &["--master", "local[2]"]), 0);
    assert_eq!(job("kafka_to_bronze", &stream)["batches"], 0, "the end of the log was reached, holes and all");
}

/// Avro in Confluent's wire format with a real registry: producers register their schemas, the stream finds them.
#[test]
fn avro_goes_through_a_real_registry() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["kafka", "registry"], place.offset) else { return };
    let conf = parts.conf_of(&[("kafka.bootstrap.servers", "KAFKA_BOOTSTRAP_SERVERS"), ("schema.registry.url", "SCHEMA_REGISTRY_URL")]);
    place.start_cluster(2, &strs(&conf));
    place.run(&["submit", "create_bronze_tables"]).ok();
    for (topic, count) in [("user-events", "20000"), ("products", "5000")] {
        place.run(&["produce", topic, "--count", count, "--seed", "7", "--format", "avro"]).ok();
    }
    place.run(&["submit", "kafka_to_bronze", "--", "--topics", "user-events,products", "--trigger", "available-now"]).ok();
    let of = |table: &str| place.number(&format!("SELECT count(*) FROM {table}"), &[]);
    let (events, products, dead) = (of("bronze_user_events"), of("bronze_products"), of("bronze_dead_letters"));
    assert_eq!(events + products + dead, 25_000, "{events} + {products} + {dead}");
    assert!(events > 19_000 && products > 4_750, "Avro was not decoded: {events}, {products}, {dead}");
    // The values came through, not only the rows.
    assert_eq!(place.number("SELECT count(*) FROM bronze_user_events WHERE user_id IS NULL OR event_timestamp IS NULL", &[]), 0);
}

/// The whole platform on a REST catalog: Iceberg's own servlet, whose tables PyIceberg reads through it. Then what only a server can do
/// to us: answers that never come, refusals, many writers at once.
#[test]
fn demo_adds_up_on_a_rest_catalog() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["kafka", "postgres", "seaweedfs", "rest-catalog"], place.offset) else { return };
    let mut more = parts.s3_conf();
    let (kafka, catalog) = (parts.get("KAFKA_BOOTSTRAP_SERVERS").to_owned(), parts.get("REST_URI").to_owned());
    let credential = format!("catalog.rest.credential={}", parts.get("REST_CREDENTIAL"));
    for (flag, value) in [("--kafka", kafka), ("--catalog", catalog), ("--conf", credential)] {
        more.extend([flag.to_owned(), value]);
    }
    let mut properties = parts.python_properties();
    properties.push(format!("credential={}", parts.get("REST_CREDENTIAL")));
    demo_adds_up(&place, &more, &properties);
    answers_are_lost(&place, &parts);
    many_write_at_once(&place);
    tables_and_namespaces_change(&place, &[]);
    views_and_staged_changes(&place);
    // The S3 store speaks the protocol too: another server's reading of it, with a prefix and a warehouse of its own.
    let other = [
        format!("catalog.uri={}", parts.get("S3_ICEBERG_REST")),
        format!("catalog.warehouse=s3://{}", parts.get("S3_TABLE_BUCKET")),
        format!("catalog.rest.credential={}:{}", parts.get("S3_ACCESS_KEY_ID"), parts.get("S3_SECRET_ACCESS_KEY")),
    ];
    tables_and_namespaces_change(&place, &other);
    // The server sends the store's keys with every table, so whoever works in one process needs none of his own.
    let ran = place.run(&["sql", "-e", "INSERT INTO once VALUES (4)", "--master", "local[2]", "--conf", "s3.secret-access-key=wrong"]).ok();
    assert!(!ran.stderr.contains("wrong"), "{}", ran.stderr);
    assert_eq!(place.number("SELECT count(*) FROM once", &["--master", "local[2]", "--conf", "s3.secret-access-key=wrong"]), 7);

    for (wrong, code) in [
        ("catalog.rest.credential=nobody:secret", "CA-CATALOG-DENIED"),
        ("catalog.rest.token=stale", "CA-CATALOG-DENIED"),
        ("catalog.uri=http://127.0.0.1:1", "CA-CATALOG-UNREACHABLE"),
    ] {
        let ran = place.run(&["sql", "-e", "SELECT 1", "--master", "local[2]", "--conf", wrong]);
        assert!(ran.code != 0 && ran.stderr.contains(code), "{wrong}: {code} not in {}", ran.stderr);
    }
}

/// A cluster without any key or address of the store: its scheduler plans, and its executors read and write, with what the catalog lends
/// with each table. None of it is shown.
#[test]
fn executors_use_what_the_catalog_lends() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["postgres", "seaweedfs", "rest-catalog"], place.offset) else { return };
    let pairs = [("catalog.uri", "REST_URI"), ("catalog.rest.credential", "REST_CREDENTIAL")];
    let conf: Vec<String> = pairs.iter().flat_map(|(key, part)| ["--conf".to_owned(), format!("{key}={}", parts.get(part))]).collect();
    place.start_cluster(2, &strs(&conf));
    let sql = |query: &str| place.sql(query, &[]);
    for (version, mode) in [(2, "copy-on-write"), (2, "merge-on-read"), (3, "merge-on-read")] {
        let properties = ["delete", "update", "merge"].map(|kind| format!("'write.{kind}.mode' = '{mode}'")).join(", ");
        sql(&format!(
            "CREATE OR REPLACE TABLE lent (id BIGINT, g STRING, v DOUBLE) USING iceberg PARTITIONED BY (g) TBLPROPERTIES ('format-version' = '{version}', {properties})"
        ));
        for part in 0..3 {
            sql(&format!(
                "INSERT INTO lent SELECT value + {part} * 1000, CASE value % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' ELSE 'c' END, 1.0 FROM generate_series(0, 999)"
            ));
        }
        assert_eq!(place.number("SELECT sum(id) FROM lent WHERE v = 1.0", &[]), 2999 * 3000 / 2, "v{version} {mode}");
        sql("DELETE FROM lent WHERE id % 10 = 0");
        sql("UPDATE lent SET v = 2.0 WHERE id % 10 = 1");
        sql("MERGE INTO lent AS t USING (SELECT value AS id FROM generate_series(2990, 3009)) AS s ON t.id = s.id \
             WHEN MATCHED THEN UPDATE SET v = 3.0 WHEN NOT MATCHED THEN INSERT (id, g, v) VALUES (s.id, 'd', 4.0)");
        let seen = sql("SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(v) AS v FROM lent");
        // 2700 left; 300 of 2.0, of which one is of the last ten; of those nine are left; eleven came.
        let value = 2400.0 - 8.0 + (300.0 - 1.0) * 2.0 + 9.0 * 3.0 + 11.0 * 4.0;
        assert_eq!((seen[0]["n"].as_i64(), seen[0]["ids"].as_i64(), seen[0]["v"].as_f64()), (Some(2711), Some(2711), Some(value)), "v{version} {mode}");
        sql("CALL system.rewrite_position_delete_files(table => 'lent', options => map('rewrite-all', 'true'))");
        sql("CALL system.rewrite_data_files(table => 'lent', strategy => 'sort', sort_order => 'id', options => map('rewrite-all', 'true'))");
        sql("CALL system.rewrite_data_files(table => 'lent', options => map('rewrite-all', 'true'))");
        let again = sql("SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(v) AS v FROM lent");
        assert_eq!(seen, again, "v{version} {mode}");
    }
    // Executors did it: what is left of the plans says so, and not with what.
    let mut shown = sql("EXPLAIN SELECT g, sum(v) FROM lent WHERE id < 5 GROUP BY g").iter().map(Value::to_string).collect::<Vec<_>>();
    let port = 9090 + place.offset;
    let queries = chainalytics_tests::http_get(port, "/api/v1/queries").expect("the scheduler's list of queries");
    let ids: Vec<String> = queries["items"].as_array().unwrap().iter().map(|query| query["job_id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() > 20, "{} queries ran on the cluster", ids.len());
    shown.extend(ids.iter().map(|id| chainalytics_tests::http_get(port, &format!("/api/v1/queries/{id}")).unwrap().to_string()));
    assert!(shown.iter().any(|text| text.contains("LentCredentialsExec")), "no plan of an executor shows that credentials went with it");
    shown.extend(files_below(place.path()).iter().filter_map(|path| std::fs::read(path).ok()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    for text in &shown {
        assert!(!text.contains(parts.get("S3_SECRET_ACCESS_KEY")), "a lent key is shown: {}", text.chars().take(2_000).collect::<String>());
    }
    // Someone whose catalog lends nothing is refused.
    let wrong = ["--master", "local[2]", "--conf", "s3.access-key-id=nobody", "--conf", "s3.secret-access-key=wrong", "--conf"];
    let endpoint = format!("s3.endpoint={}", parts.get("S3_ENDPOINT"));
    let listing = format!("CREATE EXTERNAL TABLE raw STORED AS PARQUET LOCATION 's3://{}/rest/'", parts.get("S3_BUCKET"));
    let mut args = vec!["sql", "-e", &listing];
    args.extend(wrong.iter().copied().chain([endpoint.as_str()]));
    assert!(place.run(&args).code != 0, "the store takes any key, so that this test shows nothing");
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Commits whose answer is lost or that a gateway refuses happen exactly once, of one table and of several.
fn answers_are_lost(place: &Place, parts: &Parts) {
    let fault = |name: &str| std::fs::write(Path::new(parts.get("REST_FAULTS")).join(name), "").unwrap();
    let landed = |name: &str| assert!(!Path::new(parts.get("REST_FAULTS")).join(name).exists(), "the fault {name} met no commit");
    let local = ["--master", "local[2]"];
    place.sql("CREATE TABLE once (a BIGINT)", &local);
    for (n, name) in ["lose-answer", "refuse"].into_iter().enumerate() {
        fault(name);
        place.sql("INSERT INTO once VALUES (1), (2), (3)", &local);
        landed(name);
        assert_eq!(place.number("SELECT count(*) FROM once", &local), 3 * (n as i64 + 1), "{name}");
    }
    // A batch of the stream moves the topic's table and the dead letters together.
    let stored = "SELECT (SELECT count(*) FROM bronze_user_events) + (SELECT count(*) FROM bronze_dead_letters) AS n";
    for name in ["lose-answer", "refuse"] {
        let before = place.number(stored, &local);
        place.run(&["produce", "user-events", "--count", "1000", "--seed", "11"]).ok();
        fault(name);
        place.run(&["submit", "kafka_to_bronze", "--", "--topics", "user-events", "--trigger", "available-now"]).ok();
        landed(name);
        assert_eq!(place.number(stored, &local), before + 1000, "{name}");
    }
}

/// Every acknowledged insert is there once, whoever else commits meanwhile.
fn many_write_at_once(place: &Place) {
    let local = ["--master", "local[2]"];
    place.sql("CREATE TABLE shared (writer INT, n INT)", &local);
    let mut writers: Vec<Child> = (0..4)
        .map(|writer| {
            let inserts: Vec<String> = (0..5).map(|n| format!("INSERT INTO shared VALUES ({writer}, {n})")).collect();
            place.spawn(&["sql", "-e", &inserts.join("; "), "--master", "local[2]"])
        })
        .collect();
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
    assert_eq!(place.number("SELECT count(*) FROM shared", &local), 20);
    assert_eq!(place.number("SELECT count(DISTINCT concat_ws('/', writer, n)) FROM shared", &local), 20);
}

/// Views, properties of namespaces and changes that are published later, all of them the server's.
fn views_and_staged_changes(place: &Place) {
    let local = ["--master", "local[2]"];
    let sql = |text: &str| place.sql(text, &local).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    sql("CREATE NAMESPACE audited COMMENT 'watched' WITH PROPERTIES ('team' = 'a', 'tier' = '1')");
    sql("ALTER NAMESPACE audited SET PROPERTIES ('team' = 'b')");
    sql("ALTER NAMESPACE audited UNSET PROPERTIES ('tier')");
    let described = sql("DESCRIBE NAMESPACE EXTENDED audited");
    assert!(described.contains("watched") && described.contains("(team,b)") && !described.contains("tier"), "{described}");
    sql("CREATE TABLE audited.t (id BIGINT) TBLPROPERTIES ('write.wap.enabled' = 'true')");
    sql("INSERT INTO audited.t VALUES (1)");
    sql("SET spark.wap.id = 'w1'; INSERT INTO audited.t VALUES (2)");
    assert_eq!(place.number("SELECT count(*) FROM audited.t", &local), 1);
    sql("CALL system.publish_changes('audited.t', 'w1')");
    assert_eq!(place.number("SELECT count(*) FROM audited.t", &local), 2);
    sql("SET spark.wap.branch = 'b'; INSERT INTO audited.t VALUES (3)");
    assert_eq!(place.number("SELECT sum(id) FROM audited.t", &local), 3);
    assert_eq!(place.number("SELECT sum(id) FROM audited.t.branch_b", &local), 6);

    sql("CREATE VIEW audited.v AS SELECT id * 10 AS ten FROM audited.t");
    assert_eq!(place.number("SELECT sum(ten) FROM audited.v", &local), 30);
    sql("CREATE OR REPLACE VIEW audited.v AS SELECT id * 100 AS hundred FROM audited.t");
    assert_eq!(place.number("SELECT sum(hundred) FROM audited.v", &local), 300);
    assert!(sql("SHOW VIEWS IN audited").contains("\"v\""));
    sql("DROP VIEW audited.v");
    assert!(!sql("SHOW VIEWS IN audited").contains("\"v\""));
    sql("DROP NAMESPACE audited CASCADE");
}

/// The life of a table and its namespace. `conf` are settings beside those of the place.
fn tables_and_namespaces_change(place: &Place, conf: &[String]) {
    let mut local = vec!["--master", "local[2]"];
    local.extend(conf.iter().flat_map(|pair| ["--conf", pair.as_str()]));
    let fails = |query: &str| {
        let mut args = vec!["sql", "-e", query];
        args.extend(&local);
        let ran = place.run(&args);
        assert!(ran.code != 0, "{query} passed: {}", ran.stdout);
        ran.stderr
    };
    place.sql("CREATE SCHEMA side", &local);
    place.sql("CREATE TABLE side.t (id BIGINT, ts TIMESTAMP) PARTITIONED BY (days(ts))", &local);
    place.sql("INSERT INTO side.t VALUES (1, TIMESTAMP '2026-01-01 00:00:00'), (2, TIMESTAMP '2026-01-02 00:00:00')", &local);
    place.sql("DELETE FROM side.t WHERE id = 1", &local);
    assert_eq!(place.number("SELECT sum(id) FROM side.t", &local), 2);
    assert_eq!(place.number("SELECT count(*) FROM side.t.snapshots", &local), 2);
    place.sql("ALTER TABLE side.t ADD COLUMN note STRING", &local);
    place.sql("INSERT INTO side.t VALUES (3, TIMESTAMP '2026-01-03 00:00:00', 'x')", &local);
    assert_eq!(place.number("SELECT count(note) FROM side.t", &local), 1);
    assert!(place.sql("SHOW SCHEMAS", &local).iter().any(|row| row.to_string().contains("side")));
    assert!(fails("CREATE TABLE side.t (a INT)").contains("CA-TABLE-EXISTS"));
    fails("DROP SCHEMA side");
    place.sql("DROP TABLE side.t", &local);
    place.sql("DROP SCHEMA side", &local);
    assert!(fails("SELECT * FROM side.t").contains("CA-TABLE-NOT-FOUND"));
}
