//! The release binary as a process: clusters, scripts of SQL with the time of each statement, and other commands.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Result;

/// The binary and the data directory that all its commands share.
#[derive(Clone, Debug)]
pub struct Binary {
    path: PathBuf,
    data_dir: PathBuf,
}

/// A statement of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// From submission to the last row printed, in seconds.
    pub seconds: f64,
    /// The rows; none for statements that are no query.
    pub rows: Vec<Value>,
}

impl Binary {
    /// `path` defaults to the release build of this checkout.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn new(path: Option<PathBuf>, data_dir: &Path) -> Result<Self> {
        let path = path.unwrap_or_else(|| crate::results::folder().join("../target/release/chainalytics"));
        if !path.is_file() {
            return Err(format!("{} is missing: `make build` makes it", path.display()));
        }
        std::fs::create_dir_all(data_dir).map_err(|e| format!("cannot create {}: {e}", data_dir.display()))?;
        Ok(Self { path, data_dir: data_dir.to_owned() })
    }

    /// The same binary with a data directory of its own below this one: an empty catalog.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn apart(&self, name: &str) -> Result<Self> {
        Self::new(Some(self.path.clone()), &self.data_dir.join(name))
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A command on the data directory.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--data-dir").arg(&self.data_dir).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end; its stdout.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().map_err(|e| format!("cannot start {}: {e}", self.path.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("`chainalytics {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Runs statements one after the other in one process and session.
    ///
    /// # Errors
    /// If one fails.
    pub fn script(&self, statements: &[String], more: &[String]) -> Result<Vec<Timed>> {
        let file = self.data_dir.join(format!("bench-{}.sql", std::process::id()));
        std::fs::write(&file, statements.join(";\n")).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        let mut command = self.command(&["sql", "--output", "json", "-f"]);
        command.arg(&file).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = command.spawn().map_err(|e| format!("cannot start {}: {e}", self.path.display())).and_then(read_both);
        let _removed = std::fs::remove_file(&file);
        let (success, stdout, stderr) = ended?;
        let timed = timings(&stdout, &stderr)?;
        match timed.len() {
            n if success && n == statements.len() => Ok(timed),
            n => Err(format!("statement {} of {} failed: {}", n + 1, statements.len(), tail(&stderr))),
        }
    }
}

/// A running cluster, stopped when dropped.
pub struct Cluster {
    binary: Binary,
    /// Role and pid of each process.
    services: Vec<(String, u32)>,
    /// Address of its Kafka.
    pub kafka: String,
}

impl Cluster {
    /// Starts executors and what belongs to them.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start(binary: &Binary, executors: usize, port_offset: u16, more: &[String]) -> Result<Self> {
        let (executors, offset) = (executors.to_string(), port_offset.to_string());
        let mut args = vec!["cluster", "start", "--executors", &executors, "--port-offset", &offset, "--output", "json"];
        args.extend(more.iter().map(String::as_str));
        let text = binary.run(&args)?;
        let status: Value = serde_json::from_str(&text).map_err(|e| format!("cannot read the cluster's state: {e}"))?;
        let service = |s: &Value| Some((s["role"].as_str()?.to_owned(), u32::try_from(s["pid"].as_u64()?).ok()?));
        let services = status["services"].as_array().into_iter().flatten().filter_map(service).collect();
        Ok(Self { binary: binary.clone(), services, kafka: status["urls"]["kafka"].as_str().unwrap_or_default().to_owned() })
    }

    /// All processes but the broker.
    #[must_use]
    pub fn engine(&self) -> Vec<u32> {
        self.services.iter().filter(|(role, _)| role != "broker").map(|(_, pid)| *pid).collect()
    }

    /// Name and pid of each process, executors numbered.
    #[must_use]
    pub fn named(&self) -> Vec<(String, u32)> {
        let mut executors = 0;
        let name = |(role, pid): &(String, u32)| {
            executors += u32::from(role == "executor");
            (if role == "executor" { format!("{role}-{executors}") } else { role.clone() }, *pid)
        };
        self.services.iter().map(name).collect()
    }

    /// The embedded broker, if there is one.
    #[must_use]
    pub fn broker(&self) -> Vec<u32> {
        self.services.iter().filter(|(role, _)| role == "broker").map(|(_, pid)| *pid).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.binary.run(&["cluster", "stop"]) {
            crate::note(&format!("the cluster was not stopped: {error}"));
        }
    }
}

/// Both outputs of a child, read side by side so that neither blocks it.
fn read_both(mut child: Child) -> Result<(bool, String, String)> {
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stderr) = stderr {
            let _read = stderr.read_to_end(&mut bytes);
        }
        bytes
    });
    let mut stdout = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut stdout).map_err(|e| format!("cannot read the output of a command: {e}"))?;
    }
    let status = child.wait().map_err(|e| format!("a command was lost: {e}"))?;
    let stderr = reader.join().unwrap_or_default();
    Ok((status.success(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned()))
}

/// Rows by statement: the command says on stderr how many each gave, and how long it took (`12 rows in 0.345 s`, `OK in 0.004 s`).
fn timings(stdout: &str, stderr: &str) -> Result<Vec<Timed>> {
    let mut lines = stdout.lines().filter(|l| !l.is_empty());
    let mut timed = Vec::new();
    for line in stderr.lines() {
        let Some((what, seconds)) = line.rsplit_once(" in ").and_then(|(what, rest)| Some((what, rest.strip_suffix(" s")?.parse::<f64>().ok()?)))
        else {
            continue;
        };
        let count = what.strip_suffix(" rows").or_else(|| what.strip_suffix(" row")).and_then(|n| n.replace(',', "").parse::<usize>().ok());
        let rows = lines
            .by_ref()
            .take(count.unwrap_or(0))
            .map(|row| serde_json::from_str(row).map_err(|e| format!("cannot read a row: {e}: {row}")))
            .collect::<Result<Vec<Value>>>()?;
        timed.push(Timed { seconds, rows });
    }
    Ok(timed)
}

fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(1500);
    text.get(text.ceil_char_boundary(from)..).unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn rows_go_to_their_statements() {
        let stdout = "{\"a\":1}\n{\"a\":2}\n{\"b\":3}\n";
        let stderr = "OK in 0.004 s\n2 rows in 1.500 s\na warning in passing\n0 rows in 0.1 s\n1 row in 0.250 s\n";
        let timed = timings(stdout, stderr).unwrap();
        assert_eq!(timed.iter().map(|t| t.rows.len()).collect::<Vec<_>>(), [0, 2, 0, 1]);
        assert_eq!(timed[1].seconds, 1.5);
        assert_eq!(timed[3].rows[0]["b"], 3);
    }
}
