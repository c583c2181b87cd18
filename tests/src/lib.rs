//! Harness of the end-to-end tests: clusters of real processes of the release binary, each in a directory and on ports of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod avro;
pub mod dice;
pub mod kafka;
pub mod numbered;
pub mod proxy;
pub mod registry;
pub mod slt;
pub mod third_party;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use chainalytics_benches::http::{http, http_get};
use serde_json::Value;
use tempfile::TempDir;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// The binary under test: the release build, or what `TEST_BINARY` names.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TEST_BINARY") {
        return PathBuf::from(path);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/release/chainalytics");
    assert!(path.is_file(), "{} is missing: run `cargo build --release --workspace` first (make test does)", path.display());
    path
}

/// What a command gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "the command failed\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// One JSON object per line of stdout.
    pub fn rows(&self) -> Vec<Value> {
        self.stdout.lines().filter(|l| !l.trim().is_empty()).map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    pub fn last_json(&self) -> Value {
        let line = self.stdout.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_else(|| panic!("no output; stderr: {}", self.stderr));
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

/// A data directory and a range of ports; the cluster in it, if one is started, is stopped at the end.
pub struct Place {
    dir: TempDir,
    pub offset: u16,
}

impl Place {
    pub fn new() -> Self {
        // Test binaries run one after the other, tests of one beside each other; the process id keeps apart leftovers of other runs. All stay below the ports that the system gives out by itself.
        let offset = 1_000 + (std::process::id() % 170) as u16 * 70 + NEXT.fetch_add(1, Ordering::Relaxed) * 7;
        Self { dir: tempfile::Builder::new().prefix("chainalytics-test-").tempdir().unwrap(), offset }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary());
        command.arg("--data-dir").arg(self.path()).args(args).current_dir(self.path()).stdin(Stdio::null());
        command.env_remove("RUST_LOG");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        let log = std::fs::File::create(self.path().join(format!("spawn-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)))).unwrap();
        self.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub fn start_cluster(&self, executors: u16, more: &[&str]) {
        let (executors, offset) = (executors.to_string(), self.offset.to_string());
        let mut args = vec!["cluster", "start", "--executors", &executors, "--port-offset", &offset];
        args.extend(more);
        self.run(&args).ok();
    }

    pub fn status(&self) -> Value {
        self.run(&["cluster", "status", "--output", "json"]).last_json()
    }

    /// Rows of a query, as JSON objects.
    pub fn sql(&self, query: &str, more: &[&str]) -> Vec<Value> {
        let mut args = vec!["sql", "-e", query, "--output", "json"];
        args.extend(more);
        self.run(&args).ok().rows()
    }

    /// The only value of a query.
    pub fn number(&self, query: &str, more: &[&str]) -> i64 {
        let rows = self.sql(query, more);
        let row = rows.first().unwrap_or_else(|| panic!("no row: {query}")).as_object().unwrap().clone();
        row.values().next().and_then(Value::as_i64).unwrap_or_else(|| panic!("no number: {row:?}"))
    }

    /// Each record of a topic is one row or one dead letter, by its position.
    pub fn assert_each_once(&self, topic: &str, table: &str, sent: i64) {
        let all = format!(
            "SELECT kafka_partition AS p, kafka_offset AS o FROM {table} UNION ALL \
             SELECT kafka_partition AS p, kafka_offset AS o FROM bronze_dead_letters WHERE kafka_topic = '{topic}'"
        );
        let counts = format!("SELECT count(*) AS n, count(DISTINCT concat_ws('/', p, o)) AS d FROM ({all}) AS r");
        let rows = self.sql(&counts, &["--master", "local[2]"]);
        assert_eq!((rows[0]["n"].as_i64(), rows[0]["d"].as_i64()), (Some(sent), Some(sent)), "{topic}: rows and their positions");
    }

    /// What the processes started by [`Self::spawn`] said, one after the other.
    pub fn spawned_logs(&self) -> String {
        let paths = std::fs::read_dir(self.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spawn-")));
        logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.path().join("cluster.json").exists() || self.path().join("cluster").exists() {
            let _stopped = self.run(&["cluster", "stop"]);
        }
    }
}

/// A process that does not outlive its test.
pub struct Guarded(pub Child);

impl std::ops::Deref for Guarded {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Guarded {
    /// Ends a stream as Ctrl-C does: in order, whether it calls itself done or interrupted.
    pub fn interrupt(mut self) {
        signal(self.0.id().into(), "INT");
        let code = self.0.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 130)), "the stream ended with {code:?}");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Waits until `probe` gives something; panics after `timeout`.
pub fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {timeout:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to one process.
pub fn signal(pid: i64, name: &str) -> bool {
    Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().is_ok_and(|s| s.success())
}

/// Python with PyIceberg, as `scripts/setup.sh --tests` made it; `None` if the tests run without.
pub fn python() -> Option<PathBuf> {
    std::env::var_os("TEST_PYTHON").map(PathBuf::from).filter(|p| p.exists())
}
