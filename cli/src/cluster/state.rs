//! `<data-dir>/cluster/cluster.json`: what `cluster start` started, so that `status` and `stop` of another process find exactly that.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::proc::ProcessId;
use crate::error::{CliError, CliResult};
use chainalytics_common::{Error, ErrorCode};

/// The layout of the file; a file of another version is refused, not guessed at.
const VERSION: u32 = 1;

/// What a process is there for. The order is the order of starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Broker,
    Scheduler,
    HistoryServer,
    Executor,
}

impl Role {
    /// The subcommand that runs it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Scheduler => "scheduler",
            Self::HistoryServer => "history-server",
            Self::Executor => "executor",
        }
    }

    /// Executors go first, so that the scheduler sees them leave in order; the broker last, so that nobody waits for it.
    pub fn stop_order(self) -> u8 {
        match self {
            Self::Executor => 0,
            Self::Scheduler => 1,
            Self::HistoryServer => 2,
            Self::Broker => 3,
        }
    }
}

/// One recorded process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub role: Role,
    /// Unique within the cluster: `scheduler`, `executor-1`.
    pub name: String,
    #[serde(flatten)]
    pub process: ProcessId,
    pub started_at_ms: i64,
    /// Ports by what they serve; 0 stands for one that the process chose itself.
    pub ports: BTreeMap<String, u16>,
    /// Where people or clients reach it.
    pub url: Option<String>,
    pub log: PathBuf,
}

/// A cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    pub version: u32,
    pub data_dir: PathBuf,
    pub started_at_ms: i64,
    pub port_offset: u16,
    /// What `--master` takes.
    pub master: String,
    /// By name: `scheduler`, `ui`, `history`, `kafka`, `catalog`, `warehouse`.
    pub urls: BTreeMap<String, String>,
    /// Configuration that every process of the cluster was started with.
    pub config_file: PathBuf,
    pub services: Vec<Service>,
}

impl ClusterState {
    pub fn new(data_dir: &Path, started_at_ms: i64, port_offset: u16) -> Self {
        Self {
            version: VERSION,
            data_dir: data_dir.to_owned(),
            started_at_ms,
            port_offset,
            master: String::new(),
            urls: BTreeMap::new(),
            config_file: Paths::new(data_dir).config_file(),
            services: Vec::new(),
        }
    }

    /// The recorded processes that still live.
    pub fn alive(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|s| s.process.is_alive())
    }

    /// Whether all that was started still lives.
    pub fn is_complete(&self) -> bool {
        !self.services.is_empty() && self.services.iter().all(|s| s.process.is_alive())
    }

    pub fn executors(&self) -> usize {
        self.services.iter().filter(|s| s.role == Role::Executor).count()
    }
}

/// Where a cluster keeps its files.
#[derive(Debug, Clone)]
pub struct Paths {
    data_dir: PathBuf,
}

impl Paths {
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    pub fn dir(&self) -> PathBuf {
        self.data_dir.join("cluster")
    }

    pub fn state_file(&self) -> PathBuf {
        self.dir().join("cluster.json")
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir().join("effective.toml")
    }

    pub fn log_file(&self, name: &str) -> PathBuf {
        self.data_dir.join("logs").join(format!("{name}.log"))
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.pid"))
    }

    /// The recorded cluster, `None` if none was started here.
    pub fn load(&self) -> CliResult<Option<ClusterState>> {
        let path = self.state_file();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path, &error)),
        };
        let state: ClusterState = serde_json::from_str(&text).map_err(|e| unreadable(&path, &e.to_string()))?;
        if state.version != VERSION {
            return Err(unreadable(&path, &format!("version {} of the file is unknown", state.version)));
        }
        Ok(Some(state))
    }

    /// Replaces the record as a whole, so that a reader never sees half of it; writes the pid files beside it.
    pub fn save(&self, state: &ClusterState) -> CliResult<()> {
        let text = serde_json::to_string_pretty(state).map_err(|e| CliError::internal(e.to_string()))?;
        for service in &state.services {
            let path = self.pid_file(&service.name);
            std::fs::write(&path, format!("{}\n", service.process.pid)).map_err(|e| io_error("write", &path, &e))?;
        }
        write_private(&self.state_file(), text.as_bytes())
    }

    /// Forgets the cluster.
    pub fn remove(&self, state: &ClusterState) -> CliResult<()> {
        for service in &state.services {
            let _ = std::fs::remove_file(self.pid_file(&service.name));
        }
        let path = self.state_file();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Only one command at a time starts or stops a cluster in this directory. The lock goes with the process.
    pub fn lock(&self) -> CliResult<File> {
        for dir in [self.dir(), self.data_dir.join("logs")] {
            std::fs::create_dir_all(&dir).map_err(|e| io_error("create", &dir, &e))?;
        }
        let path = self.dir().join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| io_error("open", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(CliError::from(Error::new(
                ErrorCode::InvalidArgument,
                format!("another command is just starting or stopping the cluster in {}", self.data_dir.display()),
            ))),
            Err(std::fs::TryLockError::Error(error)) => Err(io_error("lock", &path, &error)),
        }
    }
}

/// Writes a file that only its owner may read (it may hold secrets), replacing an older one in one step.
pub fn write_private(path: &Path, bytes: &[u8]) -> CliResult<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| io_error("write", path, &e))
}

pub fn io_error(what: &str, path: &Path, error: &std::io::Error) -> CliError {
    Error::new(ErrorCode::Io, format!("cannot {what} {}: {error}", path.display())).into()
}

fn unreadable(path: &Path, why: &str) -> CliError {
    Error::new(
        ErrorCode::Config,
        format!("{} cannot be read: {why}; check that no process of the cluster runs any more and remove the file", path.display()),
    )
    .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn service(name: &str, process: ProcessId) -> Service {
        Service { role: Role::Executor, name: name.into(), process, started_at_ms: 1, ports: BTreeMap::new(), url: None, log: PathBuf::from("/x") }
    }

    #[test]
    fn the_record_survives_and_knows_who_lives() {
        let dir = std::env::temp_dir().join(format!("ca-cluster-{}", uuid::Uuid::new_v4()));
        let paths = Paths::new(&dir);
        let lock = paths.lock().unwrap();
        assert!(paths.load().unwrap().is_none());
        let me = ProcessId::of(std::process::id()).unwrap();
        let gone = ProcessId { start_ticks: me.start_ticks + 7, ..me.clone() };
        let mut state = ClusterState::new(&dir, 5, 100);
        state.services = vec![service("executor-1", me), service("executor-2", gone)];
        paths.save(&state).unwrap();
        let read = paths.load().unwrap().unwrap();
        assert_eq!(read, state);
        assert_eq!(read.alive().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["executor-1"]);
        assert!(paths.lock().is_err(), "one command at a time");
        drop(lock);
        assert!(paths.lock().is_ok());
        paths.remove(&state).unwrap();
        assert!(paths.load().unwrap().is_none() && !paths.pid_file("executor-1").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let dir = std::env::temp_dir().join(format!("ca-cluster-{}", uuid::Uuid::new_v4()));
        let paths = Paths::new(&dir);
        let _lock = paths.lock().unwrap();
        let mut state = ClusterState::new(&dir, 5, 0);
        state.version = 99;
        paths.save(&state).unwrap();
        assert!(paths.load().is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
