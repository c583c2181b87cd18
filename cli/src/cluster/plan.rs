//! Which processes a cluster has, with which ports and settings. Nothing is started here.

use std::collections::BTreeMap;
use std::net::TcpListener;

use chainalytics_common::{Error, ErrorCode, keys};

use super::state::{Paths, Role};
use crate::context::Context;
use crate::error::{CliError, CliResult};

/// What `cluster start` and `demo` let people choose.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    pub executors: u16,
    pub port_offset: u16,
    pub no_broker: bool,
}

/// A port that a process listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `grpc`, `http`, `kafka`.
    pub serves: &'static str,
    pub host: String,
    pub port: u16,
    /// The configuration key that sets it.
    pub key: &'static str,
}

/// A process to start.
#[derive(Debug, Clone)]
pub struct PlannedService {
    pub role: Role,
    pub name: String,
    pub args: Vec<String>,
    pub ports: Vec<Port>,
    pub url: Option<String>,
}

/// A cluster to start.
#[derive(Debug, Clone)]
pub struct Plan {
    pub services: Vec<PlannedService>,
    pub executors: u64,
    pub port_offset: u16,
    pub master: String,
    pub scheduler_http: String,
    pub history_http: String,
    pub broker_address: String,
    pub urls: BTreeMap<String, String>,
    /// Configuration of all processes.
    pub config_toml: String,
}

impl Plan {
    /// Plans from the effective configuration. Every port is moved by the offset; whoever names a Kafka of their own gets no broker.
    pub fn new(context: &Context, options: &PlanOptions) -> CliResult<Self> {
        let config = context.config();
        let shift = |key: &'static str, port: u16| shifted(key, port, options.port_offset);
        let scheduler_host = config.get(&keys::SCHEDULER_BIND_HOST);
        let history_host = config.get(&keys::HISTORY_BIND_HOST);
        let broker_host = config.get(&keys::BROKER_HOST);
        let grpc = shift("scheduler.port", config.get(&keys::SCHEDULER_PORT))?;
        let http = shift("scheduler.http-port", config.get(&keys::SCHEDULER_HTTP_PORT))?;
        let history = shift("history.port", config.get(&keys::HISTORY_PORT))?;
        let kafka = shift("broker.port", config.get(&keys::BROKER_PORT))?;
        let external = config.get(&keys::SCHEDULER_EXTERNAL_HOST);
        let scheduler_name = if external.is_empty() { reachable(&scheduler_host) } else { external };

        let with_broker = !options.no_broker && !context.is_set("kafka.bootstrap.servers");
        let master = format!("chainalytics://{scheduler_name}:{grpc}");
        let scheduler_http = format!("http://{scheduler_name}:{http}");
        let history_http = format!("http://{}:{history}", reachable(&history_host));
        let broker_address = if with_broker { format!("{}:{kafka}", reachable(&broker_host)) } else { config.get(&keys::KAFKA_BOOTSTRAP_SERVERS) };

        let mut settings: Vec<(&str, String)> = vec![
            ("scheduler.port", grpc.to_string()),
            ("scheduler.http-port", http.to_string()),
            ("scheduler.url", master.clone()),
            ("history.port", history.to_string()),
            ("history.url", history_http.clone()),
            ("broker.port", kafka.to_string()),
            ("kafka.bootstrap.servers", broker_address.clone()),
        ];
        if !context.is_set("executor.cores") {
            settings.push(("executor.cores", core_share(options.executors).to_string()));
        }
        // All executors share this machine's cores and disk: more partitions than cores only cost, and so does compressing what never leaves it.
        if !context.is_set("query.shuffle-partitions") {
            settings.push(("query.shuffle-partitions", core_share(1).max(2).to_string()));
        }
        if !context.is_set("ballista.shuffle.compression.codec") {
            settings.push(("ballista.shuffle.compression.codec", "none".to_owned()));
        }
        let config_toml = context.config_toml(&settings)?;

        let paths = Paths::new(context.data_dir());
        let common = |role: Role| {
            let mut args = vec![role.command().to_owned(), "--config".to_owned(), paths.config_file().display().to_string()];
            args.extend(["--data-dir".to_owned(), context.data_dir().display().to_string()]);
            args
        };
        let port = |serves, host: &str, port, key| Port { serves, host: host.to_owned(), port, key };
        let mut services = Vec::new();
        if with_broker {
            services.push(PlannedService {
                role: Role::Broker,
                name: "broker".to_owned(),
                args: common(Role::Broker),
                ports: vec![port("kafka", &broker_host, kafka, "broker.port")],
                url: Some(broker_address.clone()),
            });
        }
        services.push(PlannedService {
            role: Role::Scheduler,
            name: "scheduler".to_owned(),
            args: common(Role::Scheduler),
            ports: vec![port("grpc", &scheduler_host, grpc, "scheduler.port"), port("http", &scheduler_host, http, "scheduler.http-port")],
            url: Some(master.clone()),
        });
        services.push(PlannedService {
            role: Role::HistoryServer,
            name: "history-server".to_owned(),
            args: common(Role::HistoryServer),
            ports: vec![port("http", &history_host, history, "history.port")],
            url: Some(history_http.clone()),
        });
        for n in 1..=options.executors {
            let name = format!("executor-{n}");
            let mut args = common(Role::Executor);
            // Ports of executors are found by themselves: nobody needs to know them beforehand.
            args.extend(["--conf".to_owned(), format!("executor.name={name}")]);
            for key in ["executor.port", "executor.grpc-port", "executor.health-port"] {
                args.extend(["--conf".to_owned(), format!("{key}=0")]);
            }
            services.push(PlannedService { role: Role::Executor, name, args, ports: Vec::new(), url: None });
        }
        let urls =
            [("scheduler", master.clone()), ("ui", scheduler_http.clone()), ("history", history_http.clone()), ("kafka", broker_address.clone())];
        Ok(Self {
            services,
            executors: options.executors.into(),
            port_offset: options.port_offset,
            master,
            scheduler_http,
            history_http,
            broker_address,
            urls: urls.map(|(name, url)| (name.to_owned(), url)).into(),
            config_toml,
        })
    }

    /// Fails if a port that will be needed is taken, before anything is started.
    pub fn check_ports(&self) -> CliResult<()> {
        self.services.iter().flat_map(|s| s.ports.iter().map(move |p| (s, p))).try_for_each(|(service, port)| check(&service.name, port))
    }
}

/// An equal part of the machine's cores, at least one: all executors of this cluster run here.
fn core_share(executors: u16) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(usize::from(executors.max(1))).max(1)
}

fn shifted(key: &str, port: u16, offset: u16) -> CliResult<u16> {
    port.checked_add(offset).filter(|port| *port > 0).ok_or_else(|| {
        CliError::usage(format!("{key} = {port} moved by --port-offset {offset} is no port; choose a smaller offset, and ports other than 0"))
    })
}

fn check(service: &str, port: &Port) -> CliResult<()> {
    match TcpListener::bind((port.host.as_str(), port.port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::new(
            ErrorCode::PortInUse,
            format!("port {} on {}, for {} of the {service} (key {}), is in use", port.port, port.host, port.serves, port.key),
        )
        .into()),
        Err(error) => {
            Err(Error::new(ErrorCode::Io, format!("cannot listen on {}:{} for the {service} ({}): {error}", port.host, port.port, port.key)).into())
        }
    }
}

/// Under which name an address that is listened on is reached from this machine.
fn reachable(host: &str) -> String {
    match host {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" | "[::]" => "[::1]".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ports_move_together_and_never_overflow() {
        assert_eq!(shifted("k", 7077, 100).unwrap(), 7177);
        assert!(shifted("k", 65_500, 100).is_err());
        assert!(shifted("k", 0, 0).is_err());
    }

    #[test]
    fn a_port_in_use_is_named_with_its_key() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        let port = Port { serves: "http", host: "127.0.0.1".into(), port: taken, key: "history.port" };
        let text = check("history-server", &port).unwrap_err().to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("history.port"), "{text}");
        drop(listener);
        assert!(check("history-server", &port).is_ok());
    }
}
