//! A stream that runs while something is measured: events at a steady rate into Kafka, `kafka_to_bronze` with a short trigger, a cluster around it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::http_get;
use crate::parts::Parts;
use crate::process::{Binary, Cluster};
use crate::{Result, note};

pub(crate) const TOPIC: &str = "user-events";
pub(crate) const TABLE: &str = "bronze_user_events";
/// Longest wait for a first batch, and for the last ones.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the stream is like.
#[derive(Debug, Clone, clap::Args)]
pub struct LiveOptions {
    /// Events a second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Trigger of the stream
    #[arg(long, default_value = "1s")]
    trigger: String,
    /// The binary; by default this checkout's release build
    #[arg(long)]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 3)]
    executors: usize,
    #[arg(long, default_value_t = 3400)]
    port_offset: u16,
    /// The embedded broker instead of Apache Kafka
    #[arg(long)]
    embedded: bool,
    /// Configuration, key=value; may be repeated
    #[arg(long)]
    conf: Vec<String>,
}

impl LiveOptions {
    pub(crate) fn describe(&self) -> String {
        let broker = if self.embedded { "embedded broker" } else { "Apache Kafka" };
        format!("{} events/s, trigger {}, {broker}, {} executors", self.rate, self.trigger, self.executors)
    }

    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }
}

/// The processes; they end with the value.
pub(crate) struct Live {
    producer: Child,
    driver: Child,
    pub(crate) cluster: Cluster,
    parts: Option<Parts>,
    pub(crate) binary: Binary,
    http_port: u16,
    dir: PathBuf,
}

impl Live {
    /// Starts everything in `dir`; events come for `duration`. Returns when the first batch is in the table.
    pub(crate) fn start(options: &LiveOptions, dir: &Path, duration: Duration) -> Result<Self> {
        let binary = Binary::new(options.binary.clone(), dir)?;
        let mut more: Vec<String> = options.conf.iter().flat_map(|setting| ["--conf".to_owned(), setting.clone()]).collect();
        let mut parts = None;
        if !options.embedded {
            let mut kafka = Parts::new(&dir.join("parts"), options.port_offset, &[])?;
            kafka.up("kafka")?;
            more.extend(["--conf".to_owned(), format!("kafka.bootstrap.servers={}", kafka.get("KAFKA_BOOTSTRAP_SERVERS")?)]);
            parts = Some(kafka);
        }
        let cluster = Cluster::start(&binary, options.executors, options.port_offset, &more)?;
        binary.run(&["submit", "create_bronze_tables", "--quiet"])?;
        // Makes the topic.
        binary.run(&["produce", TOPIC, "--count", "100", "--format", "json", "--quiet"])?;
        let driver = spawn(&binary, dir, "driver", &["submit", "kafka_to_bronze", "--", "--topics", TOPIC, "--trigger", &options.trigger])?;
        let (rate, length) = (options.rate.to_string(), format!("{}s", duration.as_secs()));
        let producer =
            spawn(&binary, dir, "producer", &["produce", TOPIC, "--rate", &rate, "--duration", &length, "--format", "json", "--seed", "1"])?;
        let mut live = Self { producer, driver, cluster, parts, binary, http_port: 9090 + options.port_offset, dir: dir.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while live.rows()? <= 100 {
            live.running()?;
            if Instant::now() > deadline {
                return Err(format!("no batch in {PATIENCE:?}: {}", live.last_words("driver")));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(live)
    }

    /// Fails if the stream has ended.
    pub(crate) fn running(&mut self) -> Result<()> {
        match self.driver.try_wait() {
            Ok(None) => Ok(()),
            other => Err(format!("the stream ended ({other:?}): {}", self.last_words("driver"))),
        }
    }

    pub(crate) fn producing(&mut self) -> bool {
        matches!(self.producer.try_wait(), Ok(None))
    }

    /// Waits for the end of the events, and until all are in the tables; their number as the producer says and as the tables have it.
    pub(crate) fn finish(&mut self) -> Result<(u64, u64)> {
        let _ended = self.producer.wait();
        let text = std::fs::read_to_string(self.dir.join("producer.out")).unwrap_or_default();
        let report: Value = serde_json::from_str(text.trim()).map_err(|e| format!("cannot read the producer's report: {e}: {text}"))?;
        let sent = report["topics"][0]["acknowledged"]
            .as_u64()
            .or_else(|| report["topics"][0]["acked"].as_u64())
            .ok_or_else(|| format!("no count in {report}"))?
            + 100;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stored = self.rows()?;
            if stored >= sent || Instant::now() > deadline {
                return Ok((sent, stored));
            }
            self.running()?;
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Rows of the table and of the dead letters.
    fn rows(&self) -> Result<u64> {
        self.number(&format!("SELECT (SELECT count(*) FROM {TABLE}) + (SELECT count(*) FROM bronze_dead_letters) AS n"))
    }

    /// The only value of a query, by a reader in a process of its own; 0 if it is null.
    pub(crate) fn number(&self, query: &str) -> Result<u64> {
        let row = self.query(query)?;
        let value = row.first().and_then(|row| row.as_object()?.values().next().cloned());
        value.map(|v| v.as_u64().unwrap_or(0)).ok_or_else(|| format!("no row: {query}"))
    }

    pub(crate) fn query(&self, query: &str) -> Result<Vec<Value>> {
        let text = self.binary.run(&["sql", "--master", "local[1]", "--quiet", "--output", "json", "-e", query])?;
        text.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("cannot read a row: {e}: {line}"))).collect()
    }

    /// The last batch's progress, as REST has it.
    pub(crate) fn progress(&self) -> Option<Value> {
        let runs = http_get(self.http_port, "/api/v1/runs?state=running")?;
        let run = runs["items"].as_array()?.iter().find(|run| run["job"] == "kafka_to_bronze")?.clone();
        Some(run["progress"]["metrics"].clone()).filter(Value::is_object)
    }

    /// Name and process of everything that runs.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let mut all = self.cluster.named();
        all.push(("driver".to_owned(), self.driver.id()));
        all.push(("producer".to_owned(), self.producer.id()));
        if let Some(pid) = self.parts.as_ref().and_then(|parts| parts.pid("kafka").ok()) {
            all.push(("kafka".to_owned(), pid));
        }
        all
    }

    pub(crate) fn last_words(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(format!("{name}.err"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Folder of the table's metadata and data.
    pub(crate) fn table_dir(&self) -> PathBuf {
        self.dir.join("warehouse/chainalytics").join(TABLE)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for child in [&mut self.producer, &mut self.driver] {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        note("stopping the cluster");
    }
}

fn spawn(binary: &Binary, dir: &Path, name: &str, args: &[&str]) -> Result<Child> {
    let file = |end: &str| std::fs::File::create(dir.join(format!("{name}.{end}"))).map_err(|e| format!("cannot create a log: {e}"));
    let mut command = binary.command(args);
    command.args(["--output", "json"]);
    // Arguments after -- are the job's.
    if let Some(at) = args.iter().position(|arg| *arg == "--") {
        let (before, after) = args.split_at(at);
        command = binary.command(before);
        command.args(["--output", "json"]).args(after);
    }
    command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("err")?).spawn().map_err(|e| format!("cannot start the {name}: {e}"))
}
