//! Streams against the embedded broker with real processes: kills, a second instance, lost records, topics that come, go and grow, and what
//! becomes of records that cannot be rows. Every wait is for a state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chainalytics_tests::kafka::Kafka;
use chainalytics_tests::{Place, Ran, avro, signal, wait_for};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);

fn user_event(n: usize) -> Option<Vec<u8>> {
    let event =
        json!({"event_id": format!("e{n}"), "user_id": format!("u{}", n % 7), "event_type": "view", "event_timestamp": "2026-01-01T00:00:00Z"});
    Some(event.to_string().into_bytes())
}

fn events(count: usize) -> Vec<Option<Vec<u8>>> {
    (0..count).map(user_event).collect()
}

const LOCAL: [&str; 2] = ["--master", "local[2]"];

fn count(place: &Place, table: &str) -> i64 {
    place.number(&format!("SELECT count(*) AS n FROM {table}"), &LOCAL)
}

/// Rows of a table, 0 while it is not there.
fn count_if_there(place: &Place, table: &str) -> i64 {
    let query = format!("SELECT count(*) AS n FROM {table}");
    let ran = place.run(&["sql", "-e", &query, "--output", "json", "--master", "local[2]"]);
    if ran.code == 0 { ran.rows()[0]["n"].as_i64().unwrap() } else { 0 }
}

fn stream(more: &[&'static str]) -> Vec<&'static str> {
    let mut args = vec!["submit", "kafka_to_bronze", "--output", "json", "--"];
    args.extend(more);
    args
}

fn report(ran: Ran) -> Value {
    let ran = ran.ok();
    let shown = ran.last_json();
    if shown["report"].is_object() { shown["report"].clone() } else { shown }
}

#[test]
fn one_run_feeds_five_tables_and_tells_dead_letters_by_reason() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    let topics = ["user-events", "products", "api-logs", "user-posts", "weather-data"];
    place.run(&["produce", "all", "--count", "3000", "--malformed", "0.05", "--duplicates", "0.03", "--late", "0.1"]).ok();
    let told = report(place.run(&stream(&["--trigger", "available-now"])));
    assert_eq!(told["input_rows"], 15_000, "{told}");
    for topic in topics {
        place.assert_each_once(topic, &format!("bronze_{}", topic.replace('-', "_")), 3_000);
    }
    let by_reason = place.sql("SELECT error_code, count(*) AS n FROM bronze_dead_letters GROUP BY 1 ORDER BY 1", &LOCAL);
    let by_reason: BTreeMap<&str, i64> = by_reason.iter().map(|row| (row["error_code"].as_str().unwrap(), row["n"].as_i64().unwrap())).collect();
    assert!(by_reason.len() >= 3 && by_reason.contains_key("malformed") && by_reason.contains_key("type_mismatch"), "{by_reason:?}");
    let counted: BTreeMap<String, i64> = serde_json::from_value(told["dead_letters"].clone()).unwrap();
    assert_eq!(counted.iter().map(|(code, n)| (code.as_str(), *n)).collect::<BTreeMap<_, _>>(), by_reason);
    // Nothing new: no batch.
    assert_eq!(report(place.run(&stream(&["--trigger", "available-now"])))["batches"], 0);
}

/// SIGKILL of the driver and of an executor while a second, wrong instance of the same job works beside the first.
#[test]
fn kills_and_a_second_instance_lose_and_double_nothing() {
    const SENT: i64 = 150_000;
    let place = Place::new();
    place.start_cluster(2, &[]);
    place.run(&["submit", "create_bronze_tables"]).ok();
    place.run(&["produce", "user-events", "--count", "150000", "--seed", "11"]).ok();
    let stored = "SELECT (SELECT count(*) FROM bronze_user_events) + (SELECT count(*) FROM bronze_dead_letters) AS n";
    let args = stream(&["--topics", "user-events", "--trigger", "100ms", "--max-rows-per-batch", "4000"]);
    let executors = || -> Vec<i64> {
        let status = place.status();
        let alive = |s: &Value| (s["role"] == "executor" && s["state"] == "ready").then(|| s["pid"].as_i64()).flatten();
        status["services"].as_array().unwrap().iter().filter_map(alive).collect()
    };
    let mut instances: Vec<Child> = vec![place.spawn(&args), place.spawn(&args)];
    let mut landed = 0;
    for round in 0..6 {
        let before = place.number(stored, &LOCAL);
        if before >= SENT {
            break;
        }
        wait_for("a batch", PATIENCE, || (place.number(stored, &LOCAL) > before).then_some(()));
        let in_progress = place.number(stored, &LOCAL) < SENT;
        if round == 2 {
            landed += i32::from(in_progress && signal(executors()[0], "KILL"));
        } else {
            let victim = &mut instances[round % 2];
            landed += i32::from(in_progress && victim.try_wait().unwrap().is_none() && signal(victim.id().into(), "KILL"));
            victim.wait().unwrap();
            instances[round % 2] = place.spawn(&args);
        }
    }
    wait_for("all records", PATIENCE, || (place.number(stored, &LOCAL) >= SENT).then_some(()));
    for instance in &mut instances {
        signal(instance.id().into(), "INT");
        instance.wait().unwrap();
    }
    println!("{landed} kills landed while work was in progress");
    assert!(landed >= 3, "only {landed} kills landed");
    place.assert_each_once("user-events", "bronze_user_events", SENT);
}

#[test]
fn lost_records_stop_the_stream_or_are_stepped_over() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    let kafka = Kafka::of(&place);
    kafka.create("user-events", 1);
    kafka.send("user-events", 0, events(100));
    let strict = stream(&["--topics", "user-events", "--trigger", "available-now"]);
    let lenient = stream(&["--topics", "user-events", "--trigger", "available-now", "--fail-on-data-loss", "false"]);
    place.run(&strict).ok();
    assert_eq!(count(&place, "bronze_user_events"), 100);

    // Retention runs past the stream.
    kafka.send("user-events", 0, events(50));
    kafka.forget_before("user-events", 0, 120);
    let ran = place.run(&strict);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("CA-DATA-LOSS") && ran.stderr.contains("100 to 120"), "{}", ran.stderr);
    assert_eq!(count(&place, "bronze_user_events"), 100);
    place.run(&lenient).ok();
    assert_eq!(count(&place, "bronze_user_events"), 130);

    // Deleted and made anew, with more records than were read before: only the topic's id tells.
    kafka.delete("user-events");
    kafka.create("user-events", 1);
    kafka.send("user-events", 0, events(500));
    let ran = place.run(&strict);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("CA-DATA-LOSS") && ran.stderr.contains("made anew"), "{}", ran.stderr);
    assert_eq!(count(&place, "bronze_user_events"), 130);
    place.run(&lenient).ok();
    assert_eq!(count(&place, "bronze_user_events"), 630);
    // From here on the table knows the new topic.
    kafka.send("user-events", 0, events(10));
    place.run(&strict).ok();
    assert_eq!(count(&place, "bronze_user_events"), 640);
}

#[test]
fn topics_and_partitions_join_while_the_stream_runs() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    let kafka = Kafka::of(&place);
    kafka.create("user-events", 1);
    kafka.send("user-events", 0, events(20));
    let mut running = place.spawn(&stream(&["--topic-pattern", "user-.*|shop", "--trigger", "200ms"]));
    wait_for("the first topic's rows", PATIENCE, || (count_if_there(&place, "bronze_user_events") == 20).then_some(()));

    kafka.grow("user-events", 3);
    wait_for("the partitions", PATIENCE, || (kafka.partitions("user-events") == 3).then_some(()));
    kafka.send("user-events", 2, events(7));
    wait_for("the new partition's rows", PATIENCE, || (count(&place, "bronze_user_events") == 27).then_some(()));

    place.run(&["produce", "user-posts", "--count", "200"]).ok();
    // A topic of the user's own: its table says what its records are.
    let lineage = "kafka_topic STRING, kafka_partition INT, kafka_offset BIGINT, kafka_timestamp TIMESTAMP, ingestion_batch_id BIGINT, ingestion_run_id STRING, ingested_at TIMESTAMP";
    place.sql(&format!("CREATE TABLE bronze_shop (name STRING, price DOUBLE, {lineage})"), &LOCAL);
    kafka.create("shop", 1);
    kafka.send("shop", 0, [Some(br#"{"name":"a","price":1.5}"#.to_vec()), Some(b"nonsense".to_vec())]);
    wait_for("the new topics' rows", PATIENCE, || {
        (count_if_there(&place, "bronze_user_posts") > 150 && count_if_there(&place, "bronze_shop") == 1).then_some(())
    });
    signal(running.id().into(), "INT");
    running.wait().unwrap();
    place.assert_each_once("shop", "bronze_shop", 2);
}

#[test]
fn records_that_cannot_be_rows_go_where_they_are_told() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    let kafka = Kafka::of(&place);
    kafka.create("user-events", 1);
    let mut records = events(10);
    records.push(None);
    records.push(Some(b"{".to_vec()));
    kafka.send("user-events", 0, records);

    let ran = place.run(&stream(&["--topics", "user-events", "--trigger", "available-now", "--on-error", "fail"]));
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("CA-RECORD-REJECTED") && ran.stderr.contains("offset 10"), "{}", ran.stderr);
    assert_eq!(count(&place, "bronze_user_events"), 0);

    let told = report(place.run(&stream(&["--topics", "user-events", "--trigger", "available-now", "--tombstones", "skip"])));
    assert_eq!((&told["rows"], &told["dead_letter_rows"], &told["skipped_rows"]), (&json!(10), &json!(1), &json!(1)), "{told}");
    kafka.send("user-events", 0, [Some(b"}".to_vec()), user_event(11)]);
    let told = report(place.run(&stream(&["--topics", "user-events", "--trigger", "available-now", "--on-error", "skip"])));
    assert_eq!((&told["rows"], &told["dead_letter_rows"], &told["skipped_rows"]), (&json!(1), &json!(0), &json!(1)), "{told}");
    assert_eq!(count(&place, "bronze_dead_letters"), 1);

    for (args, text) in [
        (vec!["--topics", "user-event"], "CA-TOPIC-NOT-FOUND"),
        (vec!["--topics", "weather-data"], "CA-TOPIC-NOT-FOUND"),
        (vec!["--starting-offsets", r#"{"products":5}"#], "CA-INVALID-ARGUMENT"),
        (vec!["--format", "avro"], "schema.registry.url"),
        (vec!["--topic-pattern", "("], "regular expression"),
    ] {
        let mut args = args;
        args.extend(["--trigger", "available-now"]);
        let ran = place.run(&stream(&args));
        assert!(ran.code != 0 && ran.stderr.contains(text), "{args:?}: {}", ran.stderr);
    }
}

/// A registry of a few answers: schemas by id and by subject, registration.
struct Registry {
    url: String,
    schemas: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://me:hush@{}", listener.local_addr().unwrap());
        let schemas = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&schemas);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let schemas = Arc::clone(&shared);
                std::thread::spawn(move || answer(socket, &schemas));
            }
        });
        Self { url, schemas }
    }

    /// Id of a new schema.
    fn register(&self, subject: &str, schema: &Value) -> i32 {
        let mut schemas = self.schemas.lock().unwrap();
        schemas.push((subject.to_owned(), json!({"schema": schema.to_string(), "schemaType": "AVRO"})));
        schemas.len() as i32
    }
}

fn answer(mut socket: TcpStream, schemas: &Mutex<Vec<(String, Value)>>) {
    let mut request = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let (head, body) = loop {
        let Ok(len @ 1..) = socket.read(&mut buffer) else { return };
        request.extend_from_slice(&buffer[..len]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse::<usize>().ok()));
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let mut schemas = schemas.lock().unwrap();
    let with_id = |id: usize, schema: &Value| json!({"id": id, "version": 1, "schema": schema["schema"], "schemaType": schema["schemaType"]});
    let (status, body) = if !head.to_lowercase().contains("authorization: basic bwu6ahvzaa==") {
        (401, json!({"error_code": 401, "message": "Unauthorized"}))
    } else {
        match (method, parts.as_slice()) {
            ("PUT", ["config", _]) => (200, json!({"compatibility": "BACKWARD"})),
            ("POST", ["subjects", subject, "versions"]) => {
                let mut schema: Value = serde_json::from_str(&body).unwrap();
                if schema["schemaType"].is_null() {
                    schema["schemaType"] = "AVRO".into();
                }
                let known = schemas.iter().position(|(name, there)| name == subject && there["schema"] == schema["schema"]);
                let id = known.unwrap_or_else(|| {
                    schemas.push(((*subject).to_owned(), schema));
                    schemas.len() - 1
                });
                (200, json!({"id": id + 1}))
            }
            ("GET", ["schemas", "ids", id]) => match schemas.get(id.parse::<usize>().unwrap() - 1) {
                Some((_, schema)) => (200, with_id(id.parse().unwrap(), schema)),
                None => (404, json!({"error_code": 40403, "message": "Schema not found"})),
            },
            ("GET", ["subjects", subject, "versions", "latest"]) => match schemas.iter().rposition(|(name, _)| name == subject) {
                Some(at) => (200, with_id(at + 1, &schemas[at].1)),
                None => (404, json!({"error_code": 40401, "message": "Subject not found"})),
            },
            _ => (404, json!({"error_code": 404, "message": "not here"})),
        }
    };
    let body = body.to_string();
    let _ =
        write!(socket, "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

#[test]
fn tables_follow_their_writers_and_never_stop_for_them() {
    let place = Place::new();
    let registry = Registry::start();
    place.start_cluster(1, &[]);
    let kafka = Kafka::of(&place);
    let url = format!("schema.registry.url={}", registry.url.replace("me:hush@", ""));
    let conf = ["--conf", url.as_str(), "--conf", "schema.registry.user=me", "--conf", "schema.registry.password=hush"];
    let run = |args: &[&str]| {
        let mut all = args[..2].to_vec();
        all.extend(conf);
        all.extend(&args[2..]);
        place.run(&all)
    };
    // The platform's own topic, written by its producer as Avro and as JSON Schema.
    run(&["produce", "products", "--count", "500", "--malformed", "0"]).ok();
    run(&["produce", "products", "--count", "500", "--malformed", "0", "--format", "json-schema", "--seed", "3"]).ok();
    let now = ["--trigger", "available-now", "--schema-evolution", "add-columns"];
    let stream = |topics: &str| {
        let mut args = vec!["submit", "kafka_to_bronze", "--output", "json", "--", "--topics", topics];
        args.extend(now);
        report(run(&args))
    };
    assert_eq!(stream("products")["rows"], 1000);

    // A topic that only the registry knows: its table is made of the schema, and grows with it.
    let field = |name: &str, kind: Value| json!({"name": name, "type": kind});
    let record = |fields: Vec<Value>| json!({"type": "record", "name": "Order", "fields": fields});
    let first = registry.register("orders-value", &record(vec![field("id", json!("string")), field("city", json!("string"))]));
    kafka.create("orders", 1);
    kafka.send("orders", 0, [avro::record(first, &[avro::text("o1"), avro::text("Ulm")])]);
    assert_eq!(stream("orders")["rows"], 1);
    let second = registry.register(
        "orders-value",
        &record(vec![field("id", json!("string")), field("city", json!("string")), field("note", json!(["null", "string"]))]),
    );
    let alien =
        registry.register("orders-value", &record(vec![field("id", json!("string")), field("city", json!({"type": "array", "items": "string"}))]));
    kafka.send(
        "orders",
        0,
        [
            avro::record(first, &[avro::text("o2"), avro::text("Bonn")]),
            avro::record(second, &[avro::text("o3"), avro::text("Kiel"), avro::branch(1, &avro::text("fragile"))]),
            avro::record(alien, &[avro::text("o4"), vec![0]]),
            avro::record(9999, &[avro::text("o5")]),
            avro::record(first, &[avro::text("o6"), avro::text("Hof")]),
        ],
    );
    let told = stream("orders");
    assert_eq!(told["dead_letters"], json!({"incompatible_schema": 1, "unknown_schema": 1}), "{told}");
    let rows = place.sql("SELECT id, city, note FROM bronze_orders ORDER BY id", &LOCAL);
    let rows: Vec<_> = rows.iter().map(|r| (r["id"].as_str().unwrap(), r["city"].as_str().unwrap(), r["note"].as_str())).collect();
    assert_eq!(rows, [("o1", "Ulm", None), ("o2", "Bonn", None), ("o3", "Kiel", Some("fragile")), ("o6", "Hof", None)]);
    place.assert_each_once("orders", "bronze_orders", 6);

    // Wrong password: a refusal, at once.
    let wrong = [
        "submit",
        "kafka_to_bronze",
        "--conf",
        &url,
        "--conf",
        "schema.registry.user=me",
        "--conf",
        "schema.registry.password=no",
        "--",
        "--topics",
        "new-topic",
    ];
    let ran = place.run(&wrong);
    assert!(ran.code != 0 && ran.stderr.contains("CA-SCHEMA-REGISTRY") && ran.stderr.contains("401"), "{}", ran.stderr);
}

/// A broker, and then the whole cluster, that goes away in mid-stream is waited for.
#[test]
fn a_broker_that_restarts_is_waited_for() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    place.run(&["produce", "products", "--count", "1000"]).ok();
    let mut running = place.spawn(&stream(&["--topics", "products", "--trigger", "200ms"]));
    wait_for("rows", PATIENCE, || (count_if_there(&place, "bronze_products") > 900).then_some(()));
    let broker = || -> i64 {
        let status = place.status();
        status["services"].as_array().unwrap().iter().find(|s| s["role"] == "broker").unwrap()["pid"].as_i64().unwrap()
    };
    let before = broker();
    signal(before, "KILL");
    wait_for("the stream to say that it waits", PATIENCE, || place.spawned_logs().contains("waiting").then_some(()));
    let offset = place.offset.to_string();
    place.run(&["cluster", "stop"]).ok();
    place.run(&["cluster", "start", "--executors", "1", "--port-offset", &offset]).ok();
    place.run(&["produce", "products", "--count", "500", "--seed", "5"]).ok();
    let sum = "SELECT (SELECT count(*) FROM bronze_products) + (SELECT count(*) FROM bronze_dead_letters) AS n";
    wait_for("the rest", PATIENCE, || (place.number(sum, &LOCAL) == 1500).then_some(()));
    signal(running.id().into(), "INT");
    running.wait().unwrap();
    place.assert_each_once("products", "bronze_products", 1500);
}
