//! Recognises a process across time: pids are reused, so a recorded pid counts only together with its start time and the machine's boot.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often a wait for a process's end looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A process as it was when it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks between the machine's boot and the process's start.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`: ticks of another boot mean nothing.
    pub boot_id: String,
}

impl ProcessId {
    /// The identity of a living process, `None` if there is none under this pid.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let stat = parse_stat(&stat)?;
        if stat.is_dead() {
            return None;
        }
        Some(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id() })
    }

    /// Whether exactly this process still lives. A zombie has ended: whether its parent reaps it is not our concern.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now == *self)
    }

    /// Sends a signal to this process only; `false` if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<bool, Errno> {
        if !self.is_alive() {
            return Ok(false);
        }
        let Ok(raw) = i32::try_from(self.pid) else { return Ok(false) };
        match kill(Pid::from_raw(raw), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the process has ended, at most `timeout`; whether it has.
    pub async fn wait_end(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        true
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    start_ticks: u64,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The command name stands in parentheses and may hold blanks and parentheses itself, so the fields are counted after the last `)`.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // State is field 3, the start time field 22.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn stat_with_a_hostile_command_name() {
        let line = "4242 (a) S (b) R 1 4242 4242 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 987654 1 2 3";
        assert_eq!(parse_stat(line), Some(Stat { state: 'R', start_ticks: 987_654 }));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let reused = ProcessId { start_ticks: me.start_ticks + 1, ..me.clone() };
        assert!(!reused.is_alive());
        assert_eq!(reused.signal(Signal::SIGKILL), Ok(false), "a reused pid is never signalled");
        let other_boot = ProcessId { boot_id: "other".into(), ..me };
        assert!(!other_boot.is_alive());
    }

    #[tokio::test]
    async fn an_ended_child_counts_as_ended_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(!id.wait_end(Duration::from_millis(10)).await);
        assert_eq!(id.signal(Signal::SIGKILL), Ok(true));
        assert!(id.wait_end(Duration::from_secs(10)).await, "a zombie has ended");
        child.wait().unwrap();
        assert_eq!(id.signal(Signal::SIGKILL), Ok(false));
    }
}
