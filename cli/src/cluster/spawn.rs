//! Starts a process that outlives this one: in a session of its own, with its output in its own log file.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chainalytics_common::{Error, ErrorCode};

use super::proc::ProcessId;
use super::state::io_error;
use crate::error::{CliError, CliResult};

/// Bytes of a log's end that a message shows at most.
const TAIL_BYTES: u64 = 4096;
/// Lines of a log's end that a message shows at most.
const TAIL_LINES: usize = 15;

/// A process that this command has just started.
#[derive(Debug)]
pub struct Started {
    pub name: String,
    pub process: ProcessId,
    pub log: PathBuf,
    /// Size of the log before the start: what stood there is of an earlier process.
    log_start: u64,
    child: Child,
}

impl Started {
    /// `Some` with the exit status once the process has ended.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(format!("its exit status is unknown: {error}")),
        }
    }

    /// The last lines that this process has logged.
    pub fn tail(&self) -> String {
        tail(&self.log, self.log_start).unwrap_or_default()
    }
}

/// Starts this binary with `args`.
pub fn spawn(name: &str, args: &[String], log: &Path) -> CliResult<Started> {
    let program = std::env::current_exe().map_err(|e| CliError::internal(format!("cannot find the path of this program: {e}")))?;
    let out = OpenOptions::new().create(true).append(true).open(log).map_err(|e| io_error("open", log, &e))?;
    let log_start = out.metadata().map(|m| m.len()).unwrap_or(0);
    let err = out.try_clone().map_err(|e| io_error("open", log, &e))?;
    let mut command = Command::new(&program);
    command.args(args).stdin(Stdio::null()).stdout(out).stderr(err);
    // The configuration file that it is given holds what the environment said, with the ports as they were moved; the environment would win over it.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CHAINALYTICS_")) {
            command.env_remove(name);
        }
    }
    // SAFETY: setsid is async-signal-safe, and nothing else runs between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // A session of its own: neither Ctrl-C nor the end of this terminal reaches it.
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| Error::new(ErrorCode::Io, format!("cannot start {} for {name}: {e}", program.display())))?;
    let Some(process) = ProcessId::of(child.id()) else {
        let tail = tail(log, log_start).unwrap_or_default();
        return Err(Error::new(ErrorCode::Io, format!("{name} ended at once\n{tail}")).into());
    };
    Ok(Started { name: name.to_owned(), process, log: log.to_owned(), log_start, child })
}

fn tail(log: &Path, from: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let start = from.max(file.metadata()?.len().saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_tail_leaves_out_what_an_earlier_process_wrote() {
        let log = std::env::temp_dir().join(format!("ca-spawn-{}", uuid::Uuid::new_v4()));
        std::fs::write(&log, "old line\n").unwrap();
        let start = std::fs::metadata(&log).unwrap().len();
        let new: String = (0..100).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, format!("old line\n{new}")).unwrap();
        let tail = tail(&log, start).unwrap();
        assert!(tail.starts_with("line 85") && tail.ends_with("line 99"), "{tail}");
        std::fs::remove_file(&log).unwrap();
    }
}
