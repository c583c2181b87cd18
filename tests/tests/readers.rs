//! Other engines read a bronze table while a stream commits to it every second, compacts it and expires its snapshots: no read fails, each sees the first
//! so many events of each partition and nothing else, none sees less than the one before, and the last one sees all.
//!
//! PyIceberg over PostgreSQL with a real Kafka where TEST_PARTS is set, over SQLite and the embedded broker elsewhere; Spark, where
//! `scripts/parts/spark.sh env` is in the environment (`make interop-spark`), over SQLite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use chainalytics_tests::kafka::Kafka;
use chainalytics_tests::numbered::{COLUMNS, MALFORMED_EVERY, Numbered, PARTITIONS, TOPIC, malformed};
use chainalytics_tests::third_party::Parts;
use chainalytics_tests::{Guarded, Place, python, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const LOCAL: [&str; 2] = ["--master", "local[2]"];
/// Spark on two busy cores.
const STARTS_WITHIN: Duration = Duration::from_secs(240);
/// For how long the table is read while it grows.
const MEANWHILE: Duration = Duration::from_secs(45);
/// Events a second and how many are sent at once.
const RATE: u64 = 2_000;
const BURST: u64 = 100;
const READS_MIN: usize = 8;

/// A process that reads the table once for each line that it is given.
struct Reader {
    child: Guarded,
    asks: ChildStdin,
    answers: Receiver<String>,
}

impl Reader {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = Guarded(command.spawn().unwrap());
        let (asks, lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let (sender, answers) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, asks, answers }
    }

    fn ask(&mut self) {
        self.asks.write_all(b"now\n").unwrap_or_else(|e| panic!("the reader ended: {e}; its errors are above"));
    }

    /// What it has read, if it is through.
    fn answer(&mut self) -> Option<Seen> {
        let line = self.answers.try_recv();
        if line.is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the reader ended ({ended:?}); its errors are above");
        }
        line.ok().map(|line| Seen(serde_json::from_str(&line).unwrap()))
    }
}

/// One read: figures by partition.
struct Seen(BTreeMap<String, Value>);

impl Seen {
    /// Rows of each partition; each must be the first events of it, without those that are dead letters.
    fn rows(&self) -> Vec<u64> {
        let rows = |partition: u64| {
            let Some(found) = self.0.get(&partition.to_string()) else { return 0 };
            let of = |name: &str| found[name].as_u64().unwrap();
            // Events up to the greatest, and what they add up to.
            let count = of("greatest") + 1;
            let whole = count * (count - 1) / 2;
            let dead: u64 = (1..=malformed(count)).map(|n| n * MALFORMED_EVERY - 1).sum();
            let expected = count - malformed(count);
            let seen = (of("rows"), of("distinct"), of("least"), of("sum"), of("positions"), of("strange"));
            assert_eq!(seen, (expected, expected, 0, whole - dead, expected, 0), "partition {partition} is not the first {count} events: {found}");
            expected
        };
        (0..PARTITIONS).map(rows).collect()
    }
}

/// Lets `reader` read while a stream works.
fn read_meanwhile(name: &str, place: &Place, bootstrap: &str, reader: Command) {
    Kafka::at(bootstrap).create(TOPIC, PARTITIONS as i32);
    place.run(&["submit", "create_bronze_tables"]).ok();
    // Looked after every few commits; a snapshot lives for some 15 s.
    let care = "'chainalytics.maintenance.enabled' = 'true', 'chainalytics.maintenance.every-commits' = '4', 'chainalytics.maintenance.min-input-files' = '2', \
                'chainalytics.maintenance.max-snapshots' = '15', 'history.expire.min-snapshots-to-keep' = '1'";
    place.sql(&format!("CREATE TABLE bronze_numbered ({COLUMNS}) TBLPROPERTIES ({care})"), &LOCAL);
    let mut driver = Guarded(place.spawn(&["submit", "kafka_to_bronze", "--", "--topics", TOPIC, "--trigger", "1s"]));
    let mut events = Numbered::new(bootstrap);
    let mut reader = Reader::start(reader);
    // The reader takes its time to start; nothing is measured before.
    events.send(BURST);
    reader.ask();
    let first = wait_for("the first read", STARTS_WITHIN, || reader.answer());
    let (mut reads, mut last) = (0, first.rows());
    let (mut sent, began) = (BURST, Instant::now());
    reader.ask();
    while began.elapsed() < MEANWHILE || reads < READS_MIN {
        assert!(driver.try_wait().unwrap().is_none(), "the stream ended: {}", place.spawned_logs());
        assert!(began.elapsed() < MEANWHILE + PATIENCE, "{reads} reads by {name} in {:?}", MEANWHILE + PATIENCE);
        events.send(BURST);
        sent += BURST;
        if let Some(seen) = reader.answer() {
            let rows = seen.rows();
            let behind = rows.iter().zip(&last).any(|(now, before)| now < before);
            assert!(!behind, "{name} sees less than before: {rows:?} after {last:?}");
            assert!(rows.iter().sum::<u64>() <= events.sent(), "{name} sees {rows:?}, more than was sent");
            (reads, last) = (reads + 1, rows);
            reader.ask();
        }
        // The rate of the events, no wait for anything.
        std::thread::sleep(Duration::from_secs(1) * BURST as u32 / RATE as u32);
    }
    let all = events.acknowledged(PATIENCE);
    assert_eq!(all.iter().sum::<u64>(), sent);
    let stored = "SELECT (SELECT count(*) FROM bronze_numbered) + (SELECT count(*) FROM bronze_dead_letters) AS n";
    wait_for("the rest of the events", PATIENCE, || (place.number(stored, &LOCAL) as u64 == sent).then_some(()));
    // The answer that is still to come began before that.
    let _before = wait_for("a read", PATIENCE, || reader.answer());
    reader.ask();
    let rows = wait_for("the last read", PATIENCE, || reader.answer()).rows();
    assert_eq!(rows, all.iter().map(|count| count - malformed(*count)).collect::<Vec<_>>(), "{name}'s last read");
    driver.interrupt();

    // It was what it was meant to be.
    let commits = place.number("SELECT count(*) FROM bronze_numbered.metadata_log_entries", &LOCAL);
    let operations = "SELECT count(*) AS n, count(*) FILTER (WHERE operation = 'replace') AS r FROM bronze_numbered.snapshots";
    let left = &place.sql(operations, &LOCAL)[0];
    let files = place.number("SELECT count(*) FROM bronze_numbered.files", &LOCAL);
    println!("{name}: {reads} reads of up to {sent} events; {commits} versions, {left} snapshots left (r: compactions), {files} files");
    assert!(left["r"].as_i64().unwrap() > 0, "nothing was compacted: {left}");
    assert!(left["n"].as_i64().unwrap() + 10 < commits, "nothing expired: {left} of {commits} versions");
}

fn script(interpreter: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/read_meanwhile.py")).args(args);
    command
}

#[test]
fn pyiceberg_reads_while_a_stream_commits() {
    let Some(python) = python() else {
        println!("skipped: TEST_PYTHON is not set");
        return;
    };
    let place = Place::new();
    let warehouse = format!("warehouse=file://{}", place.path().join("warehouse").display());
    let parts = Parts::start(&["kafka", "postgres"], place.offset);
    let (bootstrap, uri, conf) = match &parts {
        Some(parts) => {
            let conf = parts.conf_of(&[("kafka.bootstrap.servers", "KAFKA_BOOTSTRAP_SERVERS"), ("catalog.uri", "POSTGRES_URI")]);
            (parts.get("KAFKA_BOOTSTRAP_SERVERS").to_owned(), parts.get("POSTGRES_URI").to_owned(), conf)
        }
        None => (format!("127.0.0.1:{}", 9092 + place.offset), format!("sqlite:///{}", place.path().join("catalog.db").display()), Vec::new()),
    };
    place.start_cluster(1, &conf.iter().map(String::as_str).collect::<Vec<_>>());
    read_meanwhile("PyIceberg", &place, &bootstrap, script(python, &["pyiceberg", &uri, "chainalytics.bronze_numbered", &warehouse]));
}

#[test]
fn spark_reads_while_a_stream_commits() {
    let (Some(python), Ok(jars)) = (std::env::var_os("TEST_SPARK_PYTHON"), std::env::var("TEST_SPARK_JARS")) else {
        println!("skipped: TEST_SPARK_PYTHON and TEST_SPARK_JARS are not set (make interop-spark sets them)");
        return;
    };
    let place = Place::new();
    let parts = Parts::start(&["kafka"], place.offset);
    let (bootstrap, mut conf) = match &parts {
        Some(parts) => (parts.get("KAFKA_BOOTSTRAP_SERVERS").to_owned(), parts.conf_of(&[("kafka.bootstrap.servers", "KAFKA_BOOTSTRAP_SERVERS")])),
        None => (format!("127.0.0.1:{}", 9092 + place.offset), Vec::new()),
    };
    // Rows of the catalog bear its name, and Spark takes `default` for a namespace.
    conf.extend(["--conf", "catalog.name=lake"].map(str::to_owned));
    place.start_cluster(1, &conf.iter().map(String::as_str).collect::<Vec<_>>());
    let (catalog, warehouse) = (format!("jdbc:sqlite:{}", place.path().join("catalog.db").display()), place.path().join("warehouse"));
    let reader = script(python, &["spark", &jars, &catalog, &warehouse.display().to_string(), "chainalytics.bronze_numbered"]);
    read_meanwhile("Spark", &place, &bootstrap, reader);
}
