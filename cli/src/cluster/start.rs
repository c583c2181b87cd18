//! Starts the planned processes one kind after the other and waits until each is ready. What was started goes again if anything fails.

use std::path::Path;
use std::time::{Duration, Instant};

use chainalytics_common::{Error, ErrorCode};

use super::plan::{Plan, PlannedService};
use super::ready::{Asker, Readiness};
use super::spawn::{Started, spawn};
use super::state::{ClusterState, Paths, Role, Service, write_private};
use super::stop::stop_all;
use crate::error::{CliError, CliResult};

/// How often readiness is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Grace for what a failed start takes down again.
const CLEANUP_GRACE: Duration = Duration::from_secs(5);

/// Whether there was anything to start.
pub enum Outcome {
    Started(ClusterState),
    /// All recorded processes live; nothing was done.
    AlreadyRunning(ClusterState),
}

/// The cluster that runs in `data_dir`, all of it. Asked before planning: its ports stand in the configuration already and must not be moved again.
pub fn running(data_dir: &Path) -> CliResult<Option<ClusterState>> {
    Ok(Paths::new(data_dir).load()?.filter(ClusterState::is_complete))
}

/// Starts the cluster of `plan` in `data_dir`, unless it runs. `note` is told what happens.
pub async fn start(data_dir: &Path, plan: &Plan, timeout: Duration, note: &(dyn Fn(&str) + Sync)) -> CliResult<Outcome> {
    let paths = Paths::new(data_dir);
    let _lock = paths.lock()?;
    if let Some(state) = paths.load()? {
        if state.is_complete() {
            return Ok(Outcome::AlreadyRunning(state));
        }
        if state.alive().next().is_some() {
            let dead: Vec<_> = state.services.iter().filter(|s| !s.process.is_alive()).map(|s| s.name.as_str()).collect();
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "a cluster runs in {} but lacks {}; stop it with `chainalytics cluster stop --data-dir {}` and start it again",
                    data_dir.display(),
                    dead.join(", "),
                    data_dir.display()
                ),
            )
            .into());
        }
        // All of it is gone (a restart of the machine): forget it.
        paths.remove(&state)?;
    }
    plan.check_ports()?;
    write_private(&paths.config_file(), plan.config_toml.as_bytes())?;

    let mut state = ClusterState::new(data_dir, chrono::Utc::now().timestamp_millis(), plan.port_offset);
    state.master.clone_from(&plan.master);
    state.urls.clone_from(&plan.urls);
    let mut starter = Starter { paths: &paths, state, asker: Asker::new(), deadline: Instant::now() + timeout, note };
    let result = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
        result = starter.run(plan) => result,
    };
    match result {
        Ok(()) => Ok(Outcome::Started(starter.state)),
        Err(error) => {
            note("starting failed; stopping what was started");
            stop_all(&starter.state.services, CLEANUP_GRACE).await;
            starter.paths.remove(&starter.state)?;
            Err(error)
        }
    }
}

struct Starter<'a> {
    paths: &'a Paths,
    state: ClusterState,
    asker: Asker,
    deadline: Instant,
    note: &'a (dyn Fn(&str) + Sync),
}

impl Starter<'_> {
    async fn run(&mut self, plan: &Plan) -> CliResult<()> {
        for role in [Role::Broker, Role::Scheduler, Role::HistoryServer, Role::Executor] {
            let mut started = Vec::new();
            for service in plan.services.iter().filter(|s| s.role == role) {
                started.push(self.spawn(service)?);
            }
            // The history server and the executors come up side by side.
            if !started.is_empty() && role != Role::HistoryServer {
                self.wait(role, plan, &mut started).await?;
            }
        }
        self.wait(Role::HistoryServer, plan, &mut []).await
    }

    fn spawn(&mut self, service: &PlannedService) -> CliResult<Started> {
        let started = spawn(&service.name, &service.args, &self.paths.log_file(&service.name))?;
        self.state.services.push(Service {
            role: service.role,
            name: service.name.clone(),
            process: started.process.clone(),
            started_at_ms: chrono::Utc::now().timestamp_millis(),
            ports: service.ports.iter().map(|p| (p.serves.to_owned(), p.port)).collect(),
            url: service.url.clone(),
            log: started.log.clone(),
        });
        // Recorded at once: if this command is killed, `stop` still finds the process.
        self.paths.save(&self.state)?;
        (self.note)(&format!("started {} (pid {})", service.name, started.process.pid));
        Ok(started)
    }

    async fn wait(&self, role: Role, plan: &Plan, started: &mut [Started]) -> CliResult<()> {
        loop {
            let readiness = ask(&self.asker, role, plan).await;
            let Err(reason) = readiness else { return Ok(()) };
            for process in started.iter_mut() {
                if let Some(status) = process.ended() {
                    return Err(failed(&format!("{} ended while starting ({status})", process.name), process));
                }
            }
            if Instant::now() >= self.deadline {
                let what = format!("{} did not get ready in time: {reason}", role.command());
                return Err(match started.first() {
                    Some(process) => failed(&what, process),
                    None => Error::new(ErrorCode::ClusterNotReady, what).into(),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Whether all processes of a role are ready.
pub async fn ask(asker: &Asker, role: Role, plan: &Plan) -> Readiness {
    match role {
        Role::Broker => asker.broker(&plan.broker_address).await,
        // `/readyz` waits for executors, which start after this.
        Role::Scheduler => asker.alive(&plan.scheduler_http).await,
        Role::HistoryServer => asker.alive(&plan.history_http).await,
        Role::Executor => asker.scheduler(&plan.scheduler_http, plan.executors).await,
    }
}

fn failed(what: &str, process: &Started) -> CliError {
    let tail = process.tail();
    let log = process.log.display();
    let code = if tail.contains(ErrorCode::PortInUse.as_str()) { ErrorCode::PortInUse } else { ErrorCode::ClusterNotReady };
    Error::new(code, format!("{what}; its log {log} ends with:\n{tail}")).into()
}
