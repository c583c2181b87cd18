//! Writers whose schemas change while a stream runs, by a real registry on a real broker: what goes together evolves the table in the commit that brings
//! the first such rows, what does not becomes dead letters and an alert, and the stream goes on. Runs only if TEST_PARTS is set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Duration;

use chainalytics_tests::avro::{self, branch, decimal, double, float, long, text};
use chainalytics_tests::kafka::Kafka;
use chainalytics_tests::registry::Registry;
use chainalytics_tests::third_party::Parts;
use chainalytics_tests::{Guarded, Place, wait_for};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const LOCAL: [&str; 2] = ["--master", "local[2]"];
/// 2026-01-01 00:00:00 UTC, milliseconds.
const AT_MS: i64 = 1_767_225_600_000;

/// Kafka, registry and a cluster that knows both.
struct Bed {
    place: Place,
    kafka: Kafka,
    registry: Registry,
    _parts: Parts,
}

impl Bed {
    fn start() -> Option<Self> {
        let place = Place::new();
        let parts = Parts::start(&["kafka", "registry"], place.offset)?;
        let conf = parts.conf_of(&[("kafka.bootstrap.servers", "KAFKA_BOOTSTRAP_SERVERS"), ("schema.registry.url", "SCHEMA_REGISTRY_URL")]);
        place.start_cluster(1, &conf.iter().map(String::as_str).collect::<Vec<_>>());
        Some(Self { kafka: Kafka::at(parts.get("KAFKA_BOOTSTRAP_SERVERS")), registry: Registry::of(&parts), place, _parts: parts })
    }

    fn stream(&self, topics: &str, more: &[&str]) -> Guarded {
        let mut args = vec!["submit", "kafka_to_bronze", "--", "--topics", topics, "--trigger", "200ms", "--schema-evolution", "add-columns"];
        args.extend(more);
        Guarded(self.place.spawn(&args))
    }

    /// Waits until the stream has dealt with this many records of a topic.
    fn await_records(&self, driver: &mut Guarded, topic: &str, table: &str, count: i64) {
        let stored = format!("SELECT (SELECT count(*) FROM {table}) + (SELECT count(*) FROM bronze_dead_letters WHERE kafka_topic = '{topic}') AS n");
        let mut args = vec!["sql", "-e", &stored, "--output", "json"];
        args.extend(LOCAL);
        wait_for(&format!("{count} records of {topic}"), PATIENCE, || {
            assert!(driver.try_wait().unwrap().is_none(), "the stream ended: {}", self.place.spawned_logs());
            // The stream makes its tables when it starts.
            let ran = self.place.run(&args);
            (ran.code == 0 && ran.rows()[0]["n"].as_i64().unwrap() >= count).then_some(())
        });
    }

    fn dead_letters(&self, topic: &str) -> Vec<(i64, String, String)> {
        let query = format!("SELECT kafka_offset AS o, error_code AS c, error AS e FROM bronze_dead_letters WHERE kafka_topic = '{topic}' ORDER BY 1");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.place.sql(&query, &LOCAL).iter().map(|row| (row["o"].as_i64().unwrap(), text(&row["c"]), text(&row["e"]))).collect()
    }

    /// Types of a table's own columns, in their order.
    fn columns(&self, table: &str) -> Vec<String> {
        let described = self.place.sql(&format!("DESCRIBE TABLE {table}"), &LOCAL);
        let own = described.iter().take_while(|row| !row["col_name"].as_str().unwrap().starts_with('#'));
        own.map(|row| format!("{} {}", row["col_name"].as_str().unwrap(), row["data_type"].as_str().unwrap()))
            .filter(|column| !column.starts_with("kafka_") && !column.starts_with("ingest"))
            .collect()
    }

    /// The versions of a table's metadata, oldest first.
    fn versions(&self, table: &str) -> Vec<Value> {
        let folder = self.place.path().join("warehouse/chainalytics").join(table).join("metadata");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(".metadata.json")).collect();
        let number = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().split('-').next().unwrap().parse::<u64>().unwrap();
        files.sort_by_key(number);
        files.iter().map(|path| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()).collect()
    }

    /// Every change of the schema was made by the commit of rows that need it; how many there were.
    fn evolved_with_rows(&self, table: &str) -> usize {
        let versions = self.versions(table);
        let evolved: Vec<&[Value]> = versions.windows(2).filter(|pair| pair[0]["current-schema-id"] != pair[1]["current-schema-id"]).collect();
        for pair in &evolved {
            let (before, after) = (&pair[0], &pair[1]);
            assert_ne!(before["current-snapshot-id"], after["current-snapshot-id"], "{table}: columns without rows");
            let snapshot = after["snapshots"].as_array().unwrap().iter().find(|one| one["snapshot-id"] == after["current-snapshot-id"]).unwrap();
            assert_eq!(snapshot["schema-id"], after["current-schema-id"], "{table}: {snapshot}");
            assert!(snapshot["summary"]["added-records"].as_str().unwrap().parse::<u64>().unwrap() > 0, "{table}: {snapshot}");
            assert!(snapshot["summary"].to_string().contains("offsets"), "{table}: no batch of the stream: {snapshot}");
        }
        evolved.len()
    }
}

fn field(name: &str, kind: Value) -> Value {
    json!({"name": name, "type": kind})
}

fn with_default(name: &str, kind: Value, default: Value) -> Value {
    json!({"name": name, "type": kind, "default": default})
}

fn record(fields: Vec<Value>) -> Value {
    json!({"type": "record", "name": "Order", "namespace": "shop", "fields": fields})
}

fn digits(precision: u8, scale: u8) -> Value {
    json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
}

fn moment() -> Value {
    json!({"type": "long", "logicalType": "timestamp-millis"})
}

#[test]
fn avro_writers_change_in_mid_stream() {
    let Some(bed) = Bed::start() else { return };
    let subject = "orders-value";
    bed.registry.require(subject, "BACKWARD");
    let old = record(vec![
        field("id", json!("string")),
        field("quantity", json!("int")),
        field("weight", json!("float")),
        field("price", digits(9, 2)),
        field("city", json!("string")),
        field("at", moment()),
    ]);
    let old = bed.registry.register(subject, "AVRO", &old).unwrap();
    let by_old = |id: &str| avro::record(old, &[text(id), long(3), float(0.5), decimal(1999), text("Ulm"), long(AT_MS)]);
    bed.kafka.create("orders", 1);
    bed.kafka.send("orders", 0, (0..50).map(|n| by_old(&format!("a{n}"))));
    let mut driver = bed.stream("orders", &[]);
    bed.await_records(&mut driver, "orders", "bronze_orders", 50);
    assert_eq!(
        bed.columns("bronze_orders"),
        ["id string", "quantity int", "weight float", "price decimal(9,2)", "city string", "at timestamp_ltz"]
    );

    // One version later: wider numbers, an optional city, a new field with a default, another without a value. Old writers go on.
    let wide_fields = vec![
        field("id", json!("string")),
        field("quantity", json!("long")),
        field("weight", json!("double")),
        field("price", digits(18, 2)),
        with_default("city", json!(["null", "string"]), Value::Null),
        field("at", moment()),
        with_default("country", json!("string"), json!("DE")),
        with_default("discount", json!(["null", "double"]), Value::Null),
    ];
    let wide = bed.registry.register(subject, "AVRO", &record(wide_fields.clone())).unwrap();
    let by_wide = |id: &str, city: Option<&str>| {
        let city = city.map_or_else(|| branch(0, &[]), |city| branch(1, &text(city)));
        let price = decimal(1_234_567_890_123_456);
        avro::record(wide, &[text(id), long(1 << 40), double(0.1), price, city, long(AT_MS), text("FR"), branch(1, &double(0.25))])
    };
    let mixed = (0..60).map(|n| match n % 3 {
        0 => by_old(&format!("b{n}")),
        1 => by_wide(&format!("c{n}"), Some("Lyon")),
        _ => by_wide(&format!("d{n}"), None),
    });
    bed.kafka.send("orders", 0, mixed);
    bed.await_records(&mut driver, "orders", "bronze_orders", 110);
    let mut columns = bed.columns("bronze_orders");
    columns.sort();
    assert_eq!(
        columns,
        [
            "at timestamp_ltz",
            "city string",
            "country string",
            "discount double",
            "id string",
            "price decimal(18,2)",
            "quantity bigint",
            "weight double"
        ]
    );
    let changes = bed.evolved_with_rows("bronze_orders");
    assert!((1..=2).contains(&changes), "{changes} changes of the schema");
    let by_kind = "SELECT substr(id, 1, 1) AS k, count(*) AS n, min(quantity) AS q, max(quantity) AS qm, min(weight) AS w, max(weight) AS wm, CAST(min(price) AS STRING) AS p, \
                   CAST(max(price) AS STRING) AS pm, max(city) AS city, max(country) AS country, max(discount) AS d, count(DISTINCT at) AS t FROM bronze_orders GROUP BY 1 ORDER BY 1";
    let small = |k: &str, n: i64| {
        json!({"k": k, "n": n, "q": 3, "qm": 3, "w": 0.5, "wm": 0.5, "p": "19.99", "pm": "19.99", "city": "Ulm", "country": null, "d": null, "t": 1})
    };
    let large = |k: &str, city: Value| {
        let price = "12345678901234.56";
        json!({"k": k, "n": 20, "q": 1_i64 << 40, "qm": 1_i64 << 40, "w": 0.1, "wm": 0.1, "p": price, "pm": price, "city": city, "country": "FR", "d": 0.25, "t": 1})
    };
    let expected = [small("a", 50), small("b", 20), large("c", json!("Lyon")), large("d", Value::Null)];
    assert_eq!(bed.place.sql(by_kind, &LOCAL), expected);
    assert_eq!(bed.dead_letters("orders"), []);

    // What the registry itself refuses, until it is told to take all.
    let with = |at: usize, kind: Value| {
        let mut fields = wide_fields.clone();
        fields[at] = field(fields[at]["name"].as_str().unwrap(), kind);
        record(fields)
    };
    let alien = with(4, json!("int"));
    let refused = bed.registry.register(subject, "AVRO", &alien).unwrap_err();
    assert_eq!(refused["error_code"], 409, "{refused}");
    bed.registry.require(subject, "NONE");
    let alien = bed.registry.register(subject, "AVRO", &alien).unwrap();
    // Fewer digits fit the column; digits behind the point that it does not have do not.
    let narrow = bed.registry.register(subject, "AVRO", &with(3, digits(9, 2))).unwrap();
    let finer = bed.registry.register(subject, "AVRO", &with(3, digits(18, 4))).unwrap();
    let other = |schema: i32, id: &str, price: i64, city: Vec<u8>| {
        avro::record(schema, &[text(id), long(1), double(1.5), decimal(price), city, long(AT_MS), text("FR"), branch(0, &[])])
    };
    let ulm = || branch(1, &text("Ulm"));
    let later = [
        by_wide("e0", None),
        other(alien, "x0", 100, long(7)),
        other(narrow, "e1", 12_345, ulm()),
        other(finer, "x1", 12_345, ulm()),
        other(finer, "e2", 12_300, ulm()),
        other(alien, "x2", 100, long(8)),
        by_old("e3"),
    ];
    bed.kafka.send("orders", 0, later);
    bed.await_records(&mut driver, "orders", "bronze_orders", 117);
    let dead = bed.dead_letters("orders");
    let codes: Vec<(i64, &str)> = dead.iter().map(|(offset, code, _)| (*offset, code.as_str())).collect();
    assert_eq!(codes, [(111, "incompatible_schema"), (113, "type_mismatch"), (115, "incompatible_schema")], "{dead:?}");
    assert!(dead[0].2.contains(&format!("schema {alien}")) && dead[0].2.contains("'city'") && dead[1].2.contains("'price'"), "{dead:?}");
    let prices = bed.place.sql("SELECT id, CAST(price AS STRING) AS p FROM bronze_orders WHERE id LIKE 'e%' ORDER BY id", &LOCAL);
    let expected = [("e0", "12345678901234.56"), ("e1", "123.45"), ("e2", "1.23"), ("e3", "19.99")];
    assert_eq!(prices, expected.map(|(id, price)| json!({"id": id, "p": price})));
    // It went on, in the same process; nothing is left for the next.
    driver.interrupt();
    bed.place.assert_each_once("orders", "bronze_orders", 117);
    assert_eq!(bed.evolved_with_rows("bronze_orders"), changes, "incompatible schemas change no table");

    // Told to fail it stops at the first such record, with a typed error, and has stored what came before.
    let mut strict = bed.stream("orders", &["--on-error", "fail"]);
    bed.kafka.send("orders", 0, [by_wide("f0", None)]);
    bed.await_records(&mut strict, "orders", "bronze_orders", 118);
    bed.kafka.send("orders", 0, [other(alien, "x3", 100, long(9)), by_wide("f1", None)]);
    let ended = wait_for("the stream's end", PATIENCE, || strict.try_wait().unwrap());
    let said = bed.place.spawned_logs();
    assert!(!ended.success() && said.contains("CA-RECORD-REJECTED") && said.contains("offset 118") && said.contains("'city'"), "{said}");
    bed.place.assert_each_once("orders", "bronze_orders", 118);
}

#[test]
fn json_schema_writers_change_in_mid_stream() {
    let Some(bed) = Bed::start() else { return };
    let subject = "parcels-value";
    let schema = |required: &[&str], properties: Value| json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties});
    let first = json!({"id": {"type": "string"}, "size": {"type": "integer"}, "open": {"type": "boolean"}, "at": {"type": "string", "format": "date-time"}});
    let mut second = first.clone();
    second["colour"] = json!({"type": "string"});
    second["depth"] = json!({"type": "number"});
    let mut alien = second.clone();
    alien["size"] = json!({"type": "string"});
    let old = bed.registry.register(subject, "JSON", &schema(&["id", "size", "at"], first)).unwrap();
    let framed = |schema: i32, body: Value| Some([&[0][..], &schema.to_be_bytes(), body.to_string().as_bytes()].concat());
    let at = "2026-01-01T00:00:00Z";
    let by_old = |id: &str| framed(old, json!({"id": id, "size": 4, "open": true, "at": at}));
    bed.kafka.create("parcels", 1);
    bed.kafka.send("parcels", 0, (0..30).map(|n| by_old(&format!("a{n}"))));
    let mut driver = bed.stream("parcels", &[]);
    bed.await_records(&mut driver, "parcels", "bronze_parcels", 30);
    assert_eq!(bed.columns("bronze_parcels").len(), 4);

    let new = bed.registry.register(subject, "JSON", &schema(&["id", "at"], second.clone())).unwrap();
    let mixed = [
        by_old("b0"),
        framed(new, json!({"id": "c0", "size": 5, "colour": "red", "at": at})),
        framed(new, json!({"id": "c1", "depth": 0.5, "at": at})),
        by_old("b1"),
    ];
    bed.kafka.send("parcels", 0, mixed);
    bed.await_records(&mut driver, "parcels", "bronze_parcels", 34);
    let mut columns = bed.columns("bronze_parcels");
    columns.sort();
    assert_eq!(columns, ["at timestamp_ltz", "colour string", "depth double", "id string", "open boolean", "size bigint"]);
    assert_eq!(bed.evolved_with_rows("bronze_parcels"), 1);
    let rows = bed.place.sql("SELECT id, size, open, colour, depth FROM bronze_parcels WHERE id IN ('a0', 'b0', 'b1', 'c0', 'c1') ORDER BY id", &LOCAL);
    let plain = |id: &str| json!({"id": id, "size": 4, "open": true, "colour": null, "depth": null});
    let expected = [
        plain("a0"),
        plain("b0"),
        plain("b1"),
        json!({"id": "c0", "size": 5, "open": null, "colour": "red", "depth": null}),
        json!({"id": "c1", "size": null, "open": null, "colour": null, "depth": 0.5}),
    ];
    assert_eq!(rows, expected);

    bed.registry.require(subject, "NONE");
    let alien = bed.registry.register(subject, "JSON", &schema(&["id", "at"], alien)).unwrap();
    bed.kafka.send(
        "parcels",
        0,
        [
            framed(alien, json!({"id": "x0", "size": "large", "at": at})),
            framed(new, json!({"id": "d0", "size": 6, "colour": "blue", "at": at})),
            // What fits although its writer could do otherwise is kept.
            framed(alien, json!({"id": "d1", "colour": "grey", "at": at})),
        ],
    );
    bed.await_records(&mut driver, "parcels", "bronze_parcels", 37);
    let dead = bed.dead_letters("parcels");
    assert!(matches!(dead.as_slice(), [(34, code, why)] if code == "incompatible_schema" && why.contains("'size'") && why.contains(&format!("schema {alien}"))), "{dead:?}");
    assert_eq!(bed.place.number("SELECT count(*) FROM bronze_parcels WHERE id IN ('d0', 'd1')", &LOCAL), 2);
    driver.interrupt();
    bed.place.assert_each_once("parcels", "bronze_parcels", 37);
}

/// A topic of the platform: producers' own schemas, then a column more, then writers that do not go with the table, of which an alert tells.
#[test]
fn incompatible_writers_raise_an_alert() {
    let Some(bed) = Bed::start() else { return };
    let subject = "user-events-value";
    bed.place.run(&["submit", "create_bronze_tables"]).ok();
    bed.place.run(&["produce", "user-events", "--count", "2000", "--malformed", "0", "--seed", "5", "--format", "avro"]).ok();
    let mut driver = bed.stream("user-events", &[]);
    bed.await_records(&mut driver, "user-events", "bronze_user_events", 2_000);
    bed.registry.require(subject, "NONE");
    let event = |name: &str, more: Vec<Value>| {
        let mut fields = vec![field("event_id", json!("string")), field("user_id", json!("string")), field("event_type", json!("string"))];
        fields.extend(more);
        json!({"type": "record", "name": name, "fields": fields})
    };
    let newer = bed.registry.register(subject, "AVRO", &event("Newer", vec![field("event_timestamp", moment()), field("device", json!("string"))])).unwrap();
    let alien = bed.registry.register(subject, "AVRO", &event("Alien", vec![field("event_timestamp", json!("boolean"))])).unwrap();
    let by_newer = |id: &str| avro::record(newer, &[text(id), text("u1"), text("view"), long(AT_MS), text("phone")]);
    let by_alien = |id: &str| avro::record(alien, &[text(id), text("u1"), text("view"), vec![1]]);
    bed.kafka.send("user-events", 0, [by_newer("n0"), by_alien("x0"), by_alien("x1"), by_newer("n1")]);
    bed.await_records(&mut driver, "user-events", "bronze_user_events", 2_004);
    let devices = bed.place.sql("SELECT event_id AS e, device AS d FROM bronze_user_events WHERE device IS NOT NULL ORDER BY 1", &LOCAL);
    assert_eq!(devices, ["n0", "n1"].map(|id| json!({"e": id, "d": "phone"})));
    assert_eq!(bed.evolved_with_rows("bronze_user_events"), 1);
    let codes: Vec<String> = bed.dead_letters("user-events").into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, ["incompatible_schema", "incompatible_schema"]);
    // While the stream goes on.
    bed.place.run(&["submit", "late_data_handler", "--", "--topics", "user-events"]).ok();
    let alerts = bed.place.sql("SELECT severity AS s, value AS v FROM late_data_alerts WHERE alert_type = 'INCOMPATIBLE_SCHEMA'", &LOCAL);
    assert_eq!(alerts, [json!({"s": "critical", "v": 2.0})]);
    driver.interrupt();
    bed.place.assert_each_once("user-events", "bronze_user_events", 2_004);
}
