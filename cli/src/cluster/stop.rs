//! Ends recorded processes: SIGTERM, a bounded wait, SIGKILL. Never anything but what was recorded, never by name.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;

use super::state::Service;

/// Between SIGKILL and the kernel's last word on the process.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// How one process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It had ended before.
    NotRunning,
    /// On SIGTERM, in time.
    Stopped,
    /// It took SIGKILL.
    Killed,
    /// It may not be signalled, or did not even heed SIGKILL.
    StillRunning,
}

/// One process and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct Stopped {
    pub name: String,
    pub pid: u32,
    pub outcome: Outcome,
}

/// Stops group after group in the order of [`super::state::Role::stop_order`], the members of one group side by side.
pub async fn stop_all(services: &[Service], grace: Duration) -> Vec<Stopped> {
    let mut order: Vec<u8> = services.iter().map(|s| s.role.stop_order()).collect();
    order.sort_unstable();
    order.dedup();
    let mut stopped = Vec::new();
    for group in order {
        let members = services.iter().filter(|s| s.role.stop_order() == group);
        stopped.extend(futures::future::join_all(members.map(|s| stop(s, grace))).await);
    }
    stopped
}

async fn stop(service: &Service, grace: Duration) -> Stopped {
    let process = &service.process;
    let outcome = match process.signal(Signal::SIGTERM) {
        Ok(false) => Outcome::NotRunning,
        Err(_) => Outcome::StillRunning,
        Ok(true) if process.wait_end(grace).await => Outcome::Stopped,
        Ok(true) => match process.signal(Signal::SIGKILL) {
            Ok(false) => Outcome::Stopped,
            Ok(true) if process.wait_end(KILL_WAIT).await => Outcome::Killed,
            _ => Outcome::StillRunning,
        },
    };
    Stopped { name: service.name.clone(), pid: process.pid, outcome }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::super::proc::ProcessId;
    use super::super::state::Role;
    use super::*;

    fn service(role: Role, name: &str, pid: u32) -> Service {
        Service {
            role,
            name: name.into(),
            process: ProcessId::of(pid).unwrap(),
            started_at_ms: 0,
            ports: BTreeMap::new(),
            url: None,
            log: "/dev/null".into(),
        }
    }

    #[tokio::test]
    async fn gentle_first_then_not() {
        let mut gentle = Command::new("sleep").arg("60").spawn().unwrap();
        let mut stubborn = Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 0.1; done"]).spawn().unwrap();
        // The trap must stand before the signal comes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let services = [service(Role::Broker, "broker", gentle.id()), service(Role::Executor, "executor-1", stubborn.id())];
        let stopped = stop_all(&services, Duration::from_millis(400)).await;
        let told: Vec<_> = stopped.iter().map(|s| (s.name.as_str(), s.outcome)).collect();
        assert_eq!(told, [("executor-1", Outcome::Killed), ("broker", Outcome::Stopped)]);
        gentle.wait().unwrap();
        stubborn.wait().unwrap();
        let again = stop_all(&services, Duration::from_millis(400)).await;
        assert!(again.iter().all(|s| s.outcome == Outcome::NotRunning));
    }
}
