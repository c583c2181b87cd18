//! What the faults come over: Kafka and the catalog (PostgreSQL, or a REST server) behind proxies, a cluster, one stream that is started again whenever it ends, numbered events.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use chainalytics_tests::kafka::Kafka;
use chainalytics_tests::numbered::{self, COLUMNS, Numbered, PARTITIONS, TOPIC};
use chainalytics_tests::proxy::{Proxy, Speaks};
use chainalytics_tests::third_party::Parts;
use chainalytics_tests::{Place, http_get, python, wait_for};
use serde_json::Value;

/// Longest that a round's events may take to be in the table once the fault is over.
const CATCH_UP: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);
const STORED: &str = "SELECT (SELECT count(*) FROM bronze_numbered) + (SELECT count(*) FROM bronze_dead_letters) AS n";

/// Which catalog has the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catalog {
    /// Tables of PostgreSQL in the JDBC layout; files on this machine.
    Postgres,
    /// Iceberg's own REST servlet; files in an S3 store.
    Rest,
}

impl Catalog {
    /// By the environment: `sql`, which is also the default, or `rest`.
    pub fn chosen() -> Self {
        match std::env::var("EXACTLY_ONCE_CATALOG").as_deref() {
            Err(_) | Ok("" | "sql") => Self::Postgres,
            Ok("rest") => Self::Rest,
            Ok(other) => panic!("EXACTLY_ONCE_CATALOG is '{other}': expected sql or rest"),
        }
    }

    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["kafka", "postgres"],
            Self::Rest => &["kafka", "postgres", "seaweedfs", "rest-catalog"],
        }
    }

    /// The part that answers.
    pub fn server(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rest => "rest-catalog",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Rest => 8282,
        }
    }

    fn uri(self) -> &'static str {
        match self {
            Self::Postgres => "POSTGRES_URI",
            Self::Rest => "REST_URI",
        }
    }

    fn speaks(self) -> Speaks {
        match self {
            Self::Postgres => Speaks::Postgres,
            Self::Rest => Speaks::Rest,
        }
    }
}

pub struct Bed {
    /// Dropped before the parts that it needs.
    pub driver: Child,
    replacements: Vec<Child>,
    pub place: Place,
    pub events: Numbered,
    pub kafka: Proxy,
    pub catalog: Proxy,
    pub parts: Parts,
    pub kept_by: Catalog,
    executors: usize,
    rows_per_batch: String,
    /// How often the stream's process ended, killed or by itself, and was started again.
    pub driver_ends: u64,
}

impl Bed {
    /// `None`, with the reason printed, if the tests run without parts.
    pub fn start(kept_by: Catalog, executors: u16, rows_per_batch: u64) -> Option<Self> {
        let place = Place::new();
        let (kafka, catalog) = (Proxy::start(Speaks::Postgres), Proxy::start(kept_by.speaks()));
        let parts = Parts::start_with(kept_by.parts(), place.offset, &[("KAFKA_PROXY_PORT", kafka.port.to_string())])?;
        kafka.lead_to(9294 + place.offset);
        let port = kept_by.port() + place.offset;
        catalog.lead_to(port);
        let bootstrap = parts.get("KAFKA_BOOTSTRAP_SERVERS").to_owned();
        let through = parts.get(kept_by.uri()).replacen(&format!(":{port}"), &format!(":{}", catalog.port), 1);
        let mut conf: Vec<String> = [
            format!("kafka.bootstrap.servers=127.0.0.1:{}", kafka.port),
            format!("catalog.uri={through}"),
            // A connection that is silently dead is given up after this long.
            "streaming.kafka.stall-timeout=10s".to_owned(),
        ]
        .into_iter()
        .flat_map(|pair| ["--conf".to_owned(), pair])
        .collect();
        if kept_by == Catalog::Rest {
            conf.extend(parts.s3_conf());
            conf.extend(parts.conf_of(&[("catalog.rest.credential", "REST_CREDENTIAL")]));
        }
        place.start_cluster(executors, &conf.iter().map(String::as_str).collect::<Vec<_>>());
        Kafka::at(&bootstrap).create(TOPIC, PARTITIONS as i32);
        place.run(&["submit", "create_bronze_tables"]).ok();
        place.sql(&format!("CREATE TABLE bronze_numbered ({COLUMNS})"), &["--master", "local"]);
        let rows_per_batch = rows_per_batch.max(500).to_string();
        let driver = stream(&place, &rows_per_batch);
        let events = Numbered::new(&bootstrap);
        Some(Self {
            driver,
            replacements: Vec::new(),
            place,
            events,
            kafka,
            catalog,
            parts,
            kept_by,
            executors: executors.into(),
            rows_per_batch,
            driver_ends: 0,
        })
    }

    /// One more instance of the same job.
    pub fn another_instance(&self) -> Child {
        stream(&self.place, &self.rows_per_batch)
    }

    /// Puts a new instance in the place of the stream's; the old one is the caller's.
    pub fn replace_driver(&mut self) -> Child {
        self.driver_ends += 1;
        let new = self.another_instance();
        std::mem::replace(&mut self.driver, new)
    }

    /// As a supervisor does.
    fn supervise(&mut self) {
        if self.driver.try_wait().unwrap().is_some() {
            let _ended = self.replace_driver();
        }
    }

    pub fn send(&mut self, count: u64) {
        self.events.send(count);
    }

    pub fn acknowledged(&self) -> u64 {
        self.events.acknowledged(PATIENCE).iter().sum()
    }

    /// Readers go around the proxies.
    fn direct(&self) -> Vec<String> {
        let uri = format!("catalog.uri={}", self.parts.get(self.kept_by.uri()));
        ["--master".to_owned(), "local[2]".to_owned(), "--conf".to_owned(), uri].into()
    }

    pub fn sql(&self, query: &str) -> Vec<Value> {
        let direct = self.direct();
        self.place.sql(query, &direct.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Rows in the table and among the dead letters; `None` while the catalog is away.
    pub fn stored(&self) -> Option<u64> {
        let direct = self.direct();
        let mut args = vec!["sql", "-e", STORED, "--output", "json"];
        args.extend(direct.iter().map(String::as_str));
        let ran = self.place.run(&args);
        (ran.code == 0).then(|| ran.rows()[0]["n"].as_u64().unwrap())
    }

    /// A command of the `table` group, around the proxies.
    pub fn table_command(&self, args: &[&str]) -> Command {
        let direct = self.direct();
        let mut all = vec!["table"];
        all.extend(args);
        all.extend(["--output", "json"]);
        all.extend(direct.iter().map(String::as_str));
        self.place.command(all)
    }

    /// Whether there is still something to read, as the table shows it.
    pub fn at_work(&self) -> bool {
        self.stored().is_some_and(|stored| stored < self.events.sent())
    }

    /// Waits until the stream has committed something more, or everything.
    pub fn await_some(&mut self) {
        let before = self.stored();
        let deadline = Instant::now() + CATCH_UP;
        loop {
            self.supervise();
            if let Some(now) = self.stored()
                && before.is_none_or(|before| now > before || now >= self.events.sent())
            {
                return;
            }
            assert!(Instant::now() < deadline, "no batch of the stream in {CATCH_UP:?}, {before:?} rows; {}", self.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every event that was sent is acknowledged and stored.
    pub fn await_all(&mut self) {
        let all: u64 = self.events.acknowledged(CATCH_UP).iter().sum();
        let deadline = Instant::now() + CATCH_UP;
        loop {
            self.supervise();
            let stored = self.stored();
            if stored.is_some_and(|stored| stored >= all) {
                return;
            }
            assert!(Instant::now() < deadline, "{stored:?} of {all} events are stored after {CATCH_UP:?}; {}", self.last_words());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The end of what the streams and the catalog's server said.
    fn last_words(&self) -> String {
        let logs = std::fs::read_dir(self.place.path()).unwrap().flatten().map(|entry| entry.path());
        let mut logs: Vec<_> = logs.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spawn-"))).collect();
        logs.sort_by_key(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok());
        let server = self.parts.log(self.kept_by.server());
        let tails = logs.iter().rev().take(3).chain([&server]).map(|path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}:\n{}", path.display(), lines[lines.len().saturating_sub(12)..].join("\n"))
        });
        tails.collect::<Vec<_>>().join("\n")
    }

    /// Every event that the broker acknowledged is there once, the cut ones among the dead letters.
    pub fn check(&self, context: &str) {
        let sent = self.events.acknowledged(PATIENCE);
        let positions = "SELECT count(*) AS n, count(DISTINCT kafka_partition * 1000000000000 + kafka_offset) AS d FROM (SELECT kafka_partition, kafka_offset \
                         FROM bronze_numbered UNION ALL SELECT kafka_partition, kafka_offset FROM bronze_dead_letters) AS r";
        let rows = self.sql(positions);
        let all: u64 = sent.iter().sum();
        assert_eq!((rows[0]["n"].as_u64().unwrap(), rows[0]["d"].as_u64().unwrap()), (all, all), "{context}: rows and their positions in Kafka");
        let numbers = "SELECT p, count(*) AS n, count(DISTINCT seq) AS d, min(seq) AS low, max(seq) AS high, sum(dead) AS dead FROM (\
                       SELECT CAST(part AS BIGINT) AS p, seq, 0 AS dead FROM bronze_numbered UNION ALL \
                       SELECT CAST(split_part(k, ':', 1) AS BIGINT) AS p, CAST(split_part(k, ':', 2) AS BIGINT) AS seq, 1 AS dead \
                       FROM (SELECT CAST(kafka_key AS STRING) AS k FROM bronze_dead_letters) AS keys) AS r GROUP BY p ORDER BY p";
        let rows = self.sql(numbers);
        assert_eq!(rows.len(), sent.len(), "{context}: {rows:?}");
        for (row, count) in rows.iter().zip(&sent) {
            let of = |name: &str| row[name].as_u64().unwrap();
            let expected = (*count, *count, 0, count - 1, numbered::malformed(*count));
            assert_eq!((of("n"), of("d"), of("low"), of("high"), of("dead")), expected, "{context}: partition {}", row["p"]);
        }
    }

    /// The same as PyIceberg sees it, and no data file twice.
    pub fn check_with_others(&self) {
        let doubled = self.sql("SELECT count(*) - count(DISTINCT file_path) AS n FROM bronze_numbered.files");
        assert_eq!(doubled[0]["n"], 0, "a data file is in the table twice");
        let Some(python) = python() else { return };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/numbered_events.py");
        let mut command = Command::new(python);
        command.args([script, self.parts.get(self.kept_by.uri())]);
        match self.kept_by {
            Catalog::Postgres => command.arg(format!("warehouse=file://{}", self.place.path().join("warehouse").display())),
            Catalog::Rest => command.args(self.parts.python_properties()).arg(format!("credential={}", self.parts.get("REST_CREDENTIAL"))),
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (partition, count) in self.events.acknowledged(PATIENCE).iter().enumerate() {
            let of = &seen[partition.to_string()];
            assert_eq!(
                (&of["rows"], &of["positions"]),
                (&Value::from(*count), &Value::from(*count)),
                "PyIceberg's count of partition {partition}: {seen}"
            );
        }
        println!("PyIceberg counts the same: {seen}");
    }

    pub fn live_executors(&self) -> Vec<i64> {
        let Some(executors) = http_get(9090 + self.place.offset, "/api/v1/executors") else { return Vec::new() };
        let alive = executors["items"].as_array().into_iter().flatten().filter(|e| e["state"] == "alive");
        alive.filter_map(|e| e["pid"].as_i64()).collect()
    }

    pub fn scheduler(&self) -> i64 {
        let status = self.place.status();
        let recorded = status["services"].as_array().unwrap().iter().find(|s| s["role"] == "scheduler").unwrap()["pid"].as_i64().unwrap();
        // One that was started again is none that the cluster recorded.
        let again = self.replacements.iter().rev().map(|child| i64::from(child.id()));
        again.chain([recorded]).find(|pid| command_of(*pid).contains("scheduler\0")).unwrap_or(recorded)
    }

    pub fn start_scheduler(&mut self) {
        self.start_service(&["scheduler"]);
        wait_for("the scheduler", PATIENCE, || http_get(9090 + self.place.offset, "/api/v1/executors"));
    }

    fn start_service(&mut self, args: &[&str]) {
        let config = self.place.path().join("cluster/effective.toml").display().to_string();
        let mut all = args.to_vec();
        all.extend(["--config", &config]);
        self.replacements.push(self.place.spawn(&all));
    }

    /// As many executors as at first, a stream that runs, every way open.
    pub fn make_whole(&mut self) {
        self.kafka.mend();
        self.catalog.mend();
        self.catalog.release();
        let live = self.live_executors();
        for n in live.len()..self.executors {
            let name = format!("executor.name=again-{}-{n}", self.replacements.len());
            self.start_service(&[
                "executor",
                "--conf",
                &name,
                "--conf",
                "executor.port=0",
                "--conf",
                "executor.grpc-port=0",
                "--conf",
                "executor.health-port=0",
            ]);
        }
        wait_for("all executors", PATIENCE, || (self.live_executors().len() >= self.executors).then_some(()));
        self.supervise();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Frozen ones do not die of a request.
        for child in self.replacements.iter_mut().chain([&mut self.driver]) {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Command line of a process, its parts ended by zeros; empty if there is none.
fn command_of(pid: i64) -> String {
    std::fs::read(format!("/proc/{pid}/cmdline")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn stream(place: &Place, rows_per_batch: &str) -> Child {
    place.spawn(&["submit", "kafka_to_bronze", "--", "--topics", TOPIC, "--trigger", "200ms", "--max-rows-per-batch", rows_per_batch])
}
