//! Drivers of cluster runs: child processes of the executor, with their logs kept, shipped, and their ends reported.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::{Config, Error, ErrorCode, Result, keys};
use chainalytics_proto::v1::driver_status_request::Status;
use chainalytics_proto::v1::{DriverExited, DriverLaunchFailed, DriverStarted, KillDriver, LaunchDriver, RunningDriver};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::reports::{LogShipper, Reporter};

/// Between SIGTERM and SIGKILL when nobody says otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Bytes of the log's end that go into a failure's message.
const TAIL_BYTES: u64 = 4096;
/// How long the rest of an ended driver's log may take to ship.
const LAST_LOG_TIMEOUT: Duration = Duration::from_secs(20);

/// How drivers are launched.
pub(crate) struct DriverSettings {
    /// The binary; its `driver` command is called.
    pub(crate) program: PathBuf,
    /// This executor's configuration, which drivers start from.
    pub(crate) config: Arc<Config>,
    /// `<data-dir>/runs`.
    pub(crate) runs_dir: PathBuf,
    pub(crate) max_drivers: usize,
}

struct Running {
    attempt: u32,
    pid: u32,
    kill: CancellationToken,
    grace: Arc<Mutex<Duration>>,
}

/// The drivers of this process. They outlive a change of the executor id, but never the process.
#[derive(Clone)]
pub(crate) struct Drivers {
    settings: Arc<DriverSettings>,
    reporter: Reporter,
    running: Arc<Mutex<HashMap<String, Running>>>,
    launcher: Launcher,
    tasks: TaskTracker,
}

impl Drivers {
    pub(crate) fn new(settings: DriverSettings, reporter: Reporter) -> Result<Self> {
        Ok(Self { settings: Arc::new(settings), reporter, running: Arc::default(), launcher: Launcher::start()?, tasks: TaskTracker::new() })
    }

    pub(crate) fn list(&self) -> Vec<RunningDriver> {
        let running = self.running.lock();
        running.iter().map(|(run_id, r)| RunningDriver { run_id: run_id.clone(), attempt: r.attempt, pid: r.pid }).collect()
    }

    /// Launches a driver unless the very same runs already. Its fate is reported to the scheduler.
    pub(crate) fn launch(&self, request: LaunchDriver) {
        let drivers = self.clone();
        self.tasks.spawn(async move {
            let (run_id, attempt) = (request.run_id.clone(), request.attempt);
            if drivers.running.lock().get(&run_id).is_some_and(|r| r.attempt == attempt) {
                return;
            }
            if let Err(error) = drivers.run(request).await {
                tracing::error!(run_id, attempt, %error, "driver not launched");
                drivers.reporter.status(&run_id, attempt, Status::LaunchFailed(DriverLaunchFailed { message: error.to_string() })).await;
            }
        });
    }

    /// SIGTERM now, SIGKILL after the grace period.
    pub(crate) fn kill(&self, request: &KillDriver) {
        let running = self.running.lock();
        if let Some(driver) = running.get(&request.run_id)
            && (request.attempt == 0 || request.attempt == driver.attempt)
        {
            if request.grace_ms > 0 {
                *driver.grace.lock() = Duration::from_millis(request.grace_ms);
            }
            driver.kill.cancel();
        }
    }

    /// Ends all drivers and waits until their ends are reported, at most `timeout`.
    pub(crate) async fn stop_all(&self, grace: Duration, timeout: Duration) {
        for driver in self.running.lock().values() {
            *driver.grace.lock() = grace;
            driver.kill.cancel();
        }
        self.tasks.close();
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!("drivers did not end in time; they end with this process");
        }
    }

    async fn run(&self, request: LaunchDriver) -> Result<()> {
        if !is_plain_name(&request.run_id) {
            return Err(Error::new(ErrorCode::InvalidArgument, format!("run id {:?} is not usable as a directory name", request.run_id)));
        }
        if self.running.lock().len() >= self.settings.max_drivers {
            return Err(Error::new(ErrorCode::ResourcesExhausted, format!("this executor already runs {} drivers", self.settings.max_drivers)));
        }
        let log = self.settings.runs_dir.join(&request.run_id).join(format!("driver-{}.log", request.attempt));
        if let Some(dir) = log.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io(format!("cannot create {}", dir.display()), e))?;
        }
        let config = log.with_extension("toml");
        write_private(&config, &driver_config(&self.settings.config, &request)?)?;
        let command = self.command(&request, &log, &config)?;
        let mut child = self.launcher.spawn(command).await?;
        let pid = child.id().ok_or_else(|| Error::internal("the driver ended at once"))?;
        tracing::info!(run_id = request.run_id, attempt = request.attempt, pid, job = request.job, "driver launched");

        let kill = CancellationToken::new();
        let grace = Arc::new(Mutex::new(DEFAULT_GRACE));
        let entry = Running { attempt: request.attempt, pid, kill: kill.clone(), grace: Arc::clone(&grace) };
        self.running.lock().insert(request.run_id.clone(), entry);
        self.reporter.status(&request.run_id, request.attempt, Status::Started(DriverStarted { pid })).await;

        let ended = CancellationToken::new();
        let shipper = LogShipper::new(self.reporter.clone(), request.run_id.clone(), request.attempt, log.clone());
        let shipping = tokio::spawn(shipper.run(ended.clone()));
        let status = wait(&mut child, pid, &kill, &grace).await;
        // What the driver left behind in its process group goes with it, and so do the secrets in its settings.
        let _ = killpg(pid_of(pid), Signal::SIGKILL);
        let _ = std::fs::remove_file(&config);
        ended.cancel();
        if tokio::time::timeout(LAST_LOG_TIMEOUT, shipping).await.is_err() {
            tracing::warn!(run_id = request.run_id, "the end of a driver's log could not be shipped");
        }
        let exited = exited(status, tail(&log));
        tracing::info!(run_id = request.run_id, attempt = request.attempt, code = ?exited.code, signal = ?exited.signal, "driver ended");
        self.reporter.status(&request.run_id, request.attempt, Status::Exited(exited)).await;
        // Listed until the scheduler knows of the end, so that no ping contradicts the report.
        let mut running = self.running.lock();
        if running.get(&request.run_id).is_some_and(|r| r.attempt == request.attempt) {
            running.remove(&request.run_id);
        }
        Ok(())
    }

    fn command(&self, request: &LaunchDriver, log: &Path, config: &Path) -> Result<Command> {
        let opening = |e| Error::io(format!("cannot open {}", log.display()), e);
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(opening)?;
        let err = out.try_clone().map_err(opening)?;
        let mut command = Command::new(&self.settings.program);
        command.arg("driver").args(driver_args(config, request));
        // The environment is in the file already, and must not win over the run's own settings.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHAINALYTICS_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).kill_on_drop(true);
        let parent = std::process::id();
        // SAFETY: only async-signal-safe calls (prctl, getppid) run between fork and exec.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above took effect.
                if nix::unistd::getppid().as_raw().unsigned_abs() != parent {
                    return Err(std::io::Error::other("the executor is gone"));
                }
                Ok(())
            });
        }
        Ok(command)
    }
}

/// Arguments of the `driver` command.
fn driver_args(config: &Path, request: &LaunchDriver) -> Vec<String> {
    let mut args = vec!["--run-id".to_owned(), request.run_id.clone()];
    args.extend(["--attempt".to_owned(), request.attempt.to_string(), "--job".to_owned(), request.job.clone()]);
    if !request.name.is_empty() {
        args.extend(["--name".to_owned(), request.name.clone()]);
    }
    args.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
    args.push("--".to_owned());
    args.extend(request.args.iter().cloned());
    args
}

/// This executor's settings with the run's own over them, as a file: a command line would show the secrets among them to everyone.
fn driver_config(config: &Config, request: &LaunchDriver) -> Result<String> {
    let mut overrides: Vec<(&str, String)> = vec![
        (keys::DATA_DIR.name(), config.data_dir().to_string_lossy().into_owned()),
        (keys::SCHEDULER_URL.name(), config.get(&keys::SCHEDULER_URL)),
    ];
    overrides.extend(request.conf.iter().filter(|(key, _)| *key != keys::DATA_DIR.name()).map(|(key, value)| (key.as_str(), value.clone())));
    config.to_toml(&overrides)
}

/// Writes a file that only this user reads.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?.write_all(text.as_bytes());
    write().map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// Waits for the end; once `kill` fires, SIGTERM, then SIGKILL after the grace period.
async fn wait(child: &mut Child, pid: u32, kill: &CancellationToken, grace: &Mutex<Duration>) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        () = kill.cancelled() => {}
    }
    let grace = *grace.lock();
    let _ = killpg(pid_of(pid), Signal::SIGTERM);
    if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
        return status;
    }
    tracing::warn!(pid, ?grace, "driver did not end in its grace period; killing it");
    let _ = killpg(pid_of(pid), Signal::SIGKILL);
    child.wait().await
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

fn exited(status: std::io::Result<ExitStatus>, stderr_tail: String) -> DriverExited {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => DriverExited { code: status.code(), signal: status.signal(), stderr_tail },
        Err(error) => DriverExited { code: None, signal: None, stderr_tail: format!("{stderr_tail}\n(its exit status is unknown: {error})") },
    }
}

/// The last lines of a log, whole lines, lossy UTF-8.
fn tail(log: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        let start = length.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        if start > 0
            && let Some(newline) = bytes.iter().position(|b| *b == b'\n')
        {
            bytes.drain(..=newline);
        }
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

type SpawnRequest = (Command, tokio::runtime::Handle, oneshot::Sender<std::io::Result<Child>>);

/// Forks drivers on a thread that lives as long as the process: Linux sends the parent-death signal when the *thread* that forked ends.
#[derive(Clone)]
struct Launcher {
    requests: std::sync::mpsc::SyncSender<SpawnRequest>,
}

impl Launcher {
    fn start() -> Result<Self> {
        let (requests, receiver) = std::sync::mpsc::sync_channel::<SpawnRequest>(16);
        std::thread::Builder::new()
            .name("driver-launcher".to_owned())
            .spawn(move || {
                while let Ok((mut command, runtime, reply)) = receiver.recv() {
                    let _guard = runtime.enter();
                    let _ = reply.send(command.spawn());
                }
            })
            .map_err(|e| Error::io("cannot start the driver launcher", e))?;
        Ok(Self { requests })
    }

    async fn spawn(&self, command: Command) -> Result<Child> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .try_send((command, tokio::runtime::Handle::current(), reply))
            .map_err(|_| Error::new(ErrorCode::ResourcesExhausted, "too many drivers are being launched".to_owned()))?;
        answer.await.map_err(|_| Error::internal("the driver launcher ended"))?.map_err(|e| Error::io("cannot launch the driver", e))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn request() -> LaunchDriver {
        LaunchDriver {
            run_id: "r1".to_owned(),
            attempt: 2,
            job: "kafka_to_bronze".to_owned(),
            args: vec!["--trigger".to_owned(), "once".to_owned()],
            conf: [("query.timeout".to_owned(), "7s".to_owned()), ("data-dir".to_owned(), "/elsewhere".to_owned())].into(),
            ..LaunchDriver::default()
        }
    }

    #[test]
    fn arguments_keep_their_order_and_the_job_its_own() {
        let args = driver_args(Path::new("/d/driver-2.toml"), &request());
        assert_eq!(args.join(" "), "--run-id r1 --attempt 2 --job kafka_to_bronze --config /d/driver-2.toml -- --trigger once");
    }

    #[test]
    fn a_run_changes_settings_but_not_the_place_of_the_state() {
        let dir = std::env::temp_dir();
        let config = Config::with_data_dir(&dir, &[("query.timeout", "1s"), ("s3.region", "here")]).unwrap();
        let text = driver_config(&config, &request()).unwrap();
        let file = dir.join(format!("ca-driver-{}.toml", uuid::Uuid::new_v4()));
        write_private(&file, &text).unwrap();
        let options = chainalytics_common::LoadOptions { file: Some(file.clone()), ..Default::default() };
        let read = Config::load(options).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read.get(&keys::QUERY_TIMEOUT), Duration::from_secs(7));
        assert_eq!(read.get(&keys::S3_REGION), "here");
        assert_eq!(read.data_dir(), config.data_dir());
    }

    #[test]
    fn run_ids_that_leave_the_directory_are_refused() {
        assert!(is_plain_name("0192f-ab_C"));
        for bad in ["", "..", "a/b", "a b", "ü"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        let log = std::env::temp_dir().join(format!("ca-tail-{}", uuid::Uuid::new_v4()));
        let text: String = (0..2000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let tail = tail(&log);
        assert!(tail.starts_with("line ") && tail.ends_with("line 1999\n"), "{tail}");
        std::fs::remove_file(&log).unwrap();
    }
}
