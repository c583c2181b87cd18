//! The executor process: runs the tasks that the scheduler sends, serves their output, and launches drivers of cluster runs.
//!
//! [`run`] is a small supervisor. Under it live, each an owned task: the Ballista side ([`tasks`]) under one executor id; the lease with the
//! scheduler ([`lease`]); the drivers ([`drivers`]), which outlive a change of id; cleaners and a health port. When the scheduler calls the id
//! stale (this process was frozen, or cut off), or Ballista's side ends by itself, only that side and the lease are started again, under a
//! new id.

mod connections;
mod drivers;
mod health;
mod lease;
mod memory;
mod ports;
mod reports;
mod settings;
mod tasks;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ballista_executor::health::ExecutorHealth;
use chainalytics_common::{Config, Error, ErrorCode, Result};
use chainalytics_engine::Engine;
use chainalytics_proto::v1::ExecutorPing;
use chainalytics_proto::v1::command::Command;
use nix::fcntl::{Flock, FlockArg};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::drivers::{DriverSettings, Drivers};
use crate::lease::{Lease, LeaseEvent, PingSource};
use crate::memory::Reserved;
use crate::reports::{CurrentId, Reporter};
use crate::settings::Settings;
use crate::tasks::TaskService;
use crate::usage::DiskUsage;

const RESTART_BACKOFF_MIN: Duration = Duration::from_millis(200);
const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Drivers get this long between SIGTERM and SIGKILL when the executor ends.
const DRIVER_STOP_GRACE: Duration = Duration::from_secs(5);
const HIGHEST_SLOT: u32 = 1024;

/// Runs an executor until `shutdown`, then drains it: no new tasks, running ones end within `executor.drain-timeout`, drivers are told to end.
///
/// An unreachable scheduler is waited for without end; that is what executors do.
///
/// # Errors
/// [`ErrorCode::Config`], [`ErrorCode::PortInUse`] and [`ErrorCode::Io`] at the start only.
pub async fn run(config: Arc<Config>, shutdown: CancellationToken) -> Result<()> {
    let (settings, _slot) = claim(Settings::from_config(&config)?)?;
    let engine = Engine::new(Arc::clone(&config))?;
    tracing::info!(name = settings.name, cores = settings.cores, memory_bytes = settings.memory_bytes, dir = %settings.dir.display(), "executor starts");

    let background = CancellationToken::new();
    let _stop_background = background.clone().drop_guard();
    let cleaner = tasks::spawn_cleaner(settings.shuffle_dir(), settings.shuffle_ttl, settings.clean_interval, background.clone());
    let disk = DiskUsage::default();
    let disk_task = disk.spawn(settings.dir.clone(), background.clone());
    let health = ExecutorHealth::new();
    let health_task = match settings.health_port {
        Some(port) => Some(health::serve(&settings.bind_host, port, health.clone(), background.clone()).await?),
        None => None,
    };

    let endpoint = lease::endpoint(&settings.scheduler_url)?;
    let id = CurrentId::default();
    let drivers = Drivers::new(driver_settings(&settings, &config)?, Reporter::new(&endpoint, id.clone()))?;
    let supervisor = Supervisor { settings, engine, endpoint, id, drivers, disk, health, account: Reserved::default(), draining: Arc::default() };
    let result = supervisor.supervise(&shutdown).await;

    background.cancel();
    let _ = cleaner.await;
    let _ = disk_task.await;
    if let Some(task) = health_task {
        let _ = task.await;
    }
    result
}

struct Supervisor {
    settings: Settings,
    engine: Engine,
    endpoint: tonic::transport::Endpoint,
    id: CurrentId,
    drivers: Drivers,
    disk: DiskUsage,
    health: ExecutorHealth,
    account: Reserved,
    draining: Arc<AtomicBool>,
}

/// Why one incarnation ended.
enum End {
    /// Asked to, with the time to drain.
    Drain(Duration),
    /// To be started again under a new id.
    Restart(String),
}

impl Supervisor {
    async fn supervise(self, shutdown: &CancellationToken) -> Result<()> {
        let mut backoff = RESTART_BACKOFF_MIN;
        let mut first = true;
        loop {
            let id = Uuid::new_v4().to_string();
            self.id.set(&id);
            let started = tokio::select! {
                started = TaskService::start(&self.settings, &self.engine, id, self.health.clone(), self.account.clone()) => started,
                () = shutdown.cancelled() => break,
            };
            match started {
                Ok(service) => {
                    first = false;
                    backoff = RESTART_BACKOFF_MIN;
                    match self.serve(service, shutdown).await {
                        End::Drain(_) => break,
                        End::Restart(reason) => {
                            tracing::warn!(reason, "starting again under a new executor id");
                            self.remove_old_output();
                        }
                    }
                }
                // What is wrong with the configuration now was wrong from the beginning; a scheduler comes back.
                Err(error) if first && error.code() != ErrorCode::SchedulerUnreachable => return Err(error),
                Err(error) => tracing::warn!(%error, "cannot start the task service; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = shutdown.cancelled() => break,
            }
            backoff = (backoff * 2).min(RESTART_BACKOFF_MAX);
        }
        self.drivers.stop_all(DRIVER_STOP_GRACE, DRIVER_STOP_GRACE + Duration::from_secs(3)).await;
        tracing::info!("executor stopped");
        Ok(())
    }

    /// One incarnation: from registration to its end.
    async fn serve(&self, mut service: TaskService, shutdown: &CancellationToken) -> End {
        tracing::info!(
            executor_id = service.executor_id,
            flight_port = service.flight_port,
            grpc_port = service.grpc_port,
            "registered with the scheduler"
        );
        let mut lease = Lease::open(self.endpoint.clone(), self.ping_source(&service));
        let end = loop {
            tokio::select! {
                () = shutdown.cancelled() => break End::Drain(self.settings.drain_timeout),
                reason = service.failed() => break End::Restart(reason),
                event = lease.events.recv() => match event {
                    Some(LeaseEvent::Stale) => break End::Restart("the scheduler lost this executor's lease".to_owned()),
                    Some(LeaseEvent::Command(command)) => {
                        if let Some(timeout) = self.obey(command.command) {
                            break End::Drain(timeout);
                        }
                    }
                    None => break End::Restart("the lease ended".to_owned()),
                }
            }
        };
        match &end {
            End::Drain(timeout) => {
                tracing::info!(?timeout, tasks = service.active_tasks(), "draining");
                self.draining.store(true, Ordering::Release);
                let (drained, ()) = tokio::join!(service.drain(*timeout), self.drivers.stop_all(DRIVER_STOP_GRACE, *timeout + DRIVER_STOP_GRACE));
                if !drained {
                    tracing::warn!(tasks = service.active_tasks(), "tasks did not end in time; their queries run again elsewhere");
                }
                service.report_stopped("drained").await;
                lease.leave().await;
                service.stop().await;
            }
            End::Restart(_) => {
                lease.abandon();
                service.stop().await;
            }
        }
        end
    }

    /// Carries a command out; a drain's time-out is handed back.
    fn obey(&self, command: Option<Command>) -> Option<Duration> {
        match command {
            Some(Command::LaunchDriver(launch)) => self.drivers.launch(launch),
            Some(Command::KillDriver(kill)) => self.drivers.kill(&kill),
            Some(Command::Drain(drain)) => {
                return Some(if drain.timeout_ms == 0 { self.settings.drain_timeout } else { Duration::from_millis(drain.timeout_ms) });
            }
            None => tracing::warn!("the scheduler sent a command that this version does not know"),
        }
        None
    }

    fn ping_source(&self, service: &TaskService) -> PingSource {
        let fixed = ExecutorPing {
            executor_id: service.executor_id.clone(),
            host: self.settings.advertise_host.clone(),
            flight_port: u32::from(service.flight_port),
            grpc_port: u32::from(service.grpc_port),
            pid: std::process::id(),
            cores: u32::try_from(self.settings.cores).unwrap_or(u32::MAX),
            memory_pool_bytes: self.settings.memory_bytes,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            work_dir: self.settings.dir.to_string_lossy().into_owned(),
            name: self.settings.name.clone(),
            ..ExecutorPing::default()
        };
        let (account, disk, drivers, draining) = (self.account.clone(), self.disk.clone(), self.drivers.clone(), Arc::clone(&self.draining));
        Arc::new(move || ExecutorPing {
            memory_used_bytes: account.bytes(),
            memory_rss_bytes: usage::resident_bytes(),
            disk_used_bytes: disk.bytes(),
            drivers: drivers.list(),
            draining: draining.load(Ordering::Acquire),
            ..fixed.clone()
        })
    }

    /// Nothing that ran under the old id counts, so its output only fills the disk.
    fn remove_old_output(&self) {
        empty_dir(&self.settings.shuffle_dir());
    }
}

/// Takes a directory that no other live executor uses: the configured name's, or the first free number's. Held by a file lock.
fn claim(mut settings: Settings) -> Result<(Settings, Flock<std::fs::File>)> {
    let root = settings.dir.clone();
    let names: Vec<String> = if settings.name.is_empty() { (1..=HIGHEST_SLOT).map(|n| n.to_string()).collect() } else { vec![settings.name.clone()] };
    std::fs::create_dir_all(&root).map_err(|e| Error::io(format!("cannot create {}", root.display()), e))?;
    for name in &names {
        let dir = root.join(name);
        if let Some(lock) = try_lock(&root.join(format!("{name}.lock")))? {
            std::fs::create_dir_all(&dir).map_err(|e| Error::io(format!("cannot create {}", dir.display()), e))?;
            if settings.name.is_empty() {
                settings.name = format!("executor-{name}");
            }
            settings.dir = dir;
            empty_dir(&settings.shuffle_dir());
            empty_dir(&settings.spill_dir());
            return Ok((settings, lock));
        }
    }
    Err(Error::new(ErrorCode::Config, format!("the executor directory {} is in use by another executor", root.join(&names[0]).display())))
}

fn try_lock(path: &Path) -> Result<Option<Flock<std::fs::File>>> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(Error::io(format!("cannot lock {}", path.display()), error.into())),
    }
}

fn empty_dir(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "cannot remove old output");
        }
    }
}

fn driver_settings(settings: &Settings, config: &Arc<Config>) -> Result<DriverSettings> {
    let program: PathBuf = std::env::current_exe().map_err(|e| Error::io("cannot find this program's file", e))?;
    Ok(DriverSettings { program, config: Arc::clone(config), runs_dir: settings.runs_dir.clone(), max_drivers: settings.max_drivers })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn two_executors_get_two_directories() {
        let root = std::env::temp_dir().join(format!("ca-claim-{}", Uuid::new_v4()));
        let settings = Settings::for_tests(root.clone());
        let (first, lock) = claim(settings.clone()).unwrap();
        let (second, _lock) = claim(settings.clone()).unwrap();
        assert_ne!(first.dir, second.dir);
        assert_eq!((first.name.as_str(), second.name.as_str()), ("executor-1", "executor-2"));
        drop(lock);
        let (third, _lock) = claim(settings).unwrap();
        assert_eq!(third.dir, first.dir);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_name_in_use_is_refused() {
        let root = std::env::temp_dir().join(format!("ca-claim-{}", Uuid::new_v4()));
        let settings = Settings { name: "a".to_owned(), ..Settings::for_tests(root.clone()) };
        let (_, _lock) = claim(settings.clone()).unwrap();
        assert!(claim(settings).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
