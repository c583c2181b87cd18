//! Spark beside us: its Python, its jars, a standalone cluster of its own, and scripts that run in it.
//!
//! `scripts/parts/spark.sh env` gives what is looked for in the environment: `TEST_SPARK_PYTHON`, `TEST_SPARK_JARS`, `TEST_SPARK_KAFKA_JARS`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::sampler::{Sampler, Usage};

const PATIENCE: Duration = Duration::from_secs(120);

/// Where Spark is.
#[derive(Debug, Clone)]
pub(crate) struct Spark {
    python: PathBuf,
    jars: Vec<PathBuf>,
    home: PathBuf,
}

/// What a script did.
pub(crate) struct Done {
    /// What it printed, with the seconds of its own work.
    pub(crate) value: Value,
    /// Of the whole process, start of the JVM included.
    pub(crate) wall_seconds: f64,
    pub(crate) usage: Usage,
}

impl Spark {
    /// `None` if it is not here.
    pub(crate) fn find() -> Option<Self> {
        let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let python = var("TEST_SPARK_PYTHON").filter(|p| p.is_file())?;
        let jars: Vec<PathBuf> = ["TEST_SPARK_JARS", "TEST_SPARK_KAFKA_JARS"].into_iter().filter_map(var).filter(|dir| dir.is_dir()).collect();
        let lib = python.parent()?.parent()?.join("lib");
        let home = std::fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path().join("site-packages/pyspark")).find(|home| home.is_dir())?;
        Some(Self { python, jars, home })
    }

    /// Class path of driver and executors.
    fn class_path(&self) -> String {
        self.jars.iter().map(|dir| format!("{}/*", dir.display())).collect::<Vec<_>>().join(":")
    }

    /// Runs a script in a Python of its own. It finds `input` as JSON on stdin, with `class_path` added, and prints one JSON object.
    pub(crate) fn run(&self, script: &str, mut input: Value, cluster: Option<&Standalone>, dir: &Path) -> Result<Done> {
        input["class_path"] = self.class_path().into();
        let log = dir.join("spark.log");
        let errors = std::fs::File::create(&log).map_err(|e| format!("cannot create {}: {e}", log.display()))?;
        let sampler = Sampler::start(cluster.map(Standalone::pids).unwrap_or_default());
        let started = Instant::now();
        let mut child = Command::new(&self.python)
            .args(["-c", script])
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .env("SPARK_LOCAL_DIRS", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("cannot start Spark: {e}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.to_string().as_bytes()).map_err(|e| format!("Spark does not listen: {e}"))?;
        }
        let output = child.wait_with_output().map_err(|e| format!("Spark was lost: {e}"))?;
        let wall_seconds = started.elapsed().as_secs_f64();
        let usage = sampler.stop();
        let text = String::from_utf8_lossy(&output.stdout);
        let value = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object));
        match value {
            Some(value) if output.status.success() => Ok(Done { value, wall_seconds, usage }),
            _ => Err(format!("Spark failed ({}): {}", output.status, end_of(&log))),
        }
    }

    /// A master and workers of one core and 2 GiB each, as the cluster beside which it is measured.
    pub(crate) fn standalone(&self, workers: usize, port: u16, dir: &Path) -> Result<Standalone> {
        let spawn = |name: &str, args: &[String]| {
            let log = dir.join(format!("{name}.log"));
            let file = || std::fs::File::create(&log).map_err(|e| format!("cannot create {}: {e}", log.display()));
            let (out, errors) = (file()?, file()?);
            Command::new(self.home.join("bin/spark-class"))
                .args(args)
                .env("SPARK_LOCAL_IP", "127.0.0.1")
                .env("SPARK_DAEMON_MEMORY", "512m")
                .env("SPARK_LOCAL_DIRS", dir)
                .env("PYSPARK_PYTHON", &self.python)
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(errors)
                .spawn()
                .map_err(|e| format!("cannot start Spark's {name}: {e}"))
        };
        let args = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
        let url = format!("spark://127.0.0.1:{port}");
        let master =
            spawn("master", &args(format!("org.apache.spark.deploy.master.Master --host 127.0.0.1 --port {port} --webui-port {}", port + 1)))?;
        let mut cluster = Standalone { url: url.clone(), children: vec![master] };
        for n in 1..=workers {
            let work = dir.join(format!("work{n}"));
            let text = format!(
                "org.apache.spark.deploy.worker.Worker --host 127.0.0.1 --cores 1 --memory 3g --work-dir {} --webui-port {} {url}",
                work.display(),
                port as usize + 1 + n
            );
            cluster.children.push(spawn(&format!("worker{n}"), &args(text))?);
        }
        let deadline = Instant::now() + PATIENCE;
        let log = dir.join("master.log");
        while std::fs::read_to_string(&log).unwrap_or_default().matches("Registering worker").count() < workers {
            if Instant::now() > deadline || cluster.children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None))) {
                return Err(format!("Spark's cluster does not come up: {}", end_of(&log)));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(cluster)
    }
}

/// A standalone cluster; it ends with the value.
pub(crate) struct Standalone {
    pub(crate) url: String,
    children: Vec<Child>,
}

impl Standalone {
    fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
