//! What a recorded cluster looks like now: which processes live, and whether each answers.

use serde_json::{Value, json};

use super::ready::{Asker, Readiness};
use super::state::{ClusterState, Role, Service};
use crate::output::{Rows, timestamp};

/// One process as it is now.
pub struct ServiceStatus<'a> {
    pub service: &'a Service,
    pub alive: bool,
    /// Asked over the network; `None` if it was not asked because it does not live.
    pub readiness: Option<Readiness>,
}

impl ServiceStatus<'_> {
    pub fn word(&self) -> &'static str {
        match (&self.readiness, self.alive) {
            (_, false) => "stopped",
            (Some(Ok(())), _) => "ready",
            (Some(Err(_)) | None, _) => "not ready",
        }
    }
}

/// Asks every process.
pub async fn status(state: &ClusterState) -> Vec<ServiceStatus<'_>> {
    let asker = Asker::new();
    let scheduler_http = state.urls.get("ui").map(String::as_str).unwrap_or_default();
    let cluster = asker.cluster(scheduler_http).await;
    let mut all = Vec::with_capacity(state.services.len());
    for service in &state.services {
        let alive = service.process.is_alive();
        let url = service.url.as_deref().unwrap_or_default();
        let readiness = match service.role {
            _ if !alive => None,
            Role::Broker => Some(asker.broker(url).await),
            Role::Scheduler => Some(asker.scheduler(scheduler_http, 0).await),
            Role::HistoryServer => Some(asker.alive(url).await),
            // An executor has no address that is known here; the scheduler tells how many hold a lease.
            Role::Executor => Some(match &cluster {
                Err(error) => Err(error.clone()),
                Ok(info) if info.executors.alive >= state.executors() as u64 => Ok(()),
                Ok(info) => Err(format!("{} of {} executors hold a lease", info.executors.alive, state.executors())),
            }),
        };
        all.push(ServiceStatus { service, alive, readiness });
    }
    all
}

/// `running` (all ready), `degraded`, or `stopped` (no process lives).
pub fn overall(services: &[ServiceStatus<'_>]) -> &'static str {
    if services.iter().all(|s| !s.alive) {
        "stopped"
    } else if services.iter().all(|s| s.word() == "ready") {
        "running"
    } else {
        "degraded"
    }
}

pub fn to_json(state: &ClusterState, services: &[ServiceStatus<'_>]) -> Value {
    json!({
        "state": overall(services),
        "data_dir": state.data_dir,
        "master": state.master,
        "started_at_ms": state.started_at_ms,
        "port_offset": state.port_offset,
        "config_file": state.config_file,
        "urls": state.urls,
        "services": services.iter().map(|s| json!({
            "name": s.service.name,
            "role": s.service.role,
            "pid": s.service.process.pid,
            "state": s.word(),
            "reason": s.readiness.as_ref().and_then(|r| r.as_ref().err()),
            "ports": s.service.ports,
            "url": s.service.url,
            "log": s.service.log,
            "started_at_ms": s.service.started_at_ms,
        })).collect::<Vec<_>>(),
    })
}

pub fn to_table(state: &ClusterState, services: &[ServiceStatus<'_>]) -> String {
    let mut rows = Rows::new(&["service", "pid", "state", "ports", "started", "log"]);
    for s in services {
        let ports: Vec<String> = s.service.ports.iter().filter(|(_, port)| **port != 0).map(|(name, port)| format!("{name}={port}")).collect();
        rows.push(vec![
            json!(s.service.name),
            json!(s.service.process.pid),
            json!(s.word()),
            json!(ports.join(" ")),
            timestamp(s.service.started_at_ms),
            json!(s.service.log.display().to_string()),
        ]);
    }
    let mut out = format!("Cluster in {}: {}\n\n{}\n", state.data_dir.display(), overall(services), rows.table());
    let width = state.urls.keys().map(String::len).max().unwrap_or(0);
    for (name, url) in &state.urls {
        out.push_str(&format!("{name:width$}  {url}\n"));
    }
    for (s, reason) in services.iter().filter_map(|s| s.readiness.as_ref()?.as_ref().err().map(|e| (s, e))) {
        out.push_str(&format!("\n{}: {reason}", s.service.name));
    }
    out.trim_end().to_owned()
}
