//! The command line: what can be typed. What each command does stands in `commands/`, one file per command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::output::Format;

#[derive(Debug, Parser)]
#[command(
    name = "chainalytics",
    version,
    about = "Lakehouse analytics on a cluster: Kafka to Iceberg, SQL, batch and streaming jobs",
    propagate_version = true,
    max_term_width = 110,
    after_help = "Examples:\n  chainalytics demo --data-dir /tmp/ca           the whole platform in one command\n  \
                  chainalytics sql -e 'SELECT 1' --master local  SQL in this process, without a cluster\n  \
                  chainalytics submit gold_aggregation           run a job on the configured cluster\n\n\
                  Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Accepted by every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Configuration file [default: chainalytics.toml in the working directory, if there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one configuration key; may be repeated, wins over file and environment
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = parse_key_value)]
    pub conf: Vec<(String, String)>,
    /// Directory of all local state: catalog file, warehouse, logs, work directories
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where work runs: chainalytics://HOST:PORT, local, or local[N]
    #[arg(long, global = true, value_name = "URL")]
    pub master: Option<String>,
    /// How results are printed on stdout
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// More messages on stderr; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Only errors on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl GlobalArgs {
    pub fn format(&self) -> Format {
        self.output.unwrap_or(Format::Table)
    }

    pub fn json(&self) -> bool {
        self.output == Some(Format::Json)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start, inspect and stop a cluster of processes on this machine
    Cluster(commands::cluster::ClusterArgs),
    /// Run a job, or a SQL file as a job
    Submit(commands::submit::SubmitArgs),
    /// List the jobs that can be submitted
    Jobs(commands::jobs::JobsArgs),
    /// List runs or show one
    Runs(commands::runs::RunsArgs),
    /// Print the driver log of a run
    Logs(commands::logs::LogsArgs),
    /// End a run
    Kill(commands::kill::KillArgs),
    /// Run SQL: from the command line, a file, a pipe, or at a prompt
    Sql(commands::sql::SqlArgs),
    /// Look into tables and keep them in shape: compact, expire, roll back, remove orphans
    Table(commands::table::TableArgs),
    /// Produce seeded events into Kafka topics
    Produce(commands::produce::ProduceArgs),
    /// Run the whole platform once: cluster, events, bronze, silver, gold
    Demo(commands::demo::DemoArgs),
    /// Show the configuration and its documentation
    Config(commands::config::ConfigArgs),
    /// Run a scheduler in the foreground
    Scheduler(commands::scheduler::SchedulerArgs),
    /// Run an executor in the foreground
    Executor(commands::executor::ExecutorArgs),
    /// Run a history server in the foreground
    HistoryServer(commands::history_server::HistoryServerArgs),
    /// Run the embedded Kafka-protocol broker in the foreground
    #[command(hide = true)]
    Broker(commands::broker::BrokerArgs),
    /// Run the driver of a submitted run (called by executors)
    #[command(hide = true)]
    Driver(commands::driver::DriverArgs),
    /// Print a completion script for a shell
    Completions(commands::completions::CompletionsArgs),
}

/// `key=value`; the value may hold further `=`.
fn parse_key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as streaming.max-rows-per-batch=5000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"chainalytics").chain(line))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{path} has no example");
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(|c| check(c, &path));
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn global_options_go_anywhere_before_the_job_arguments() {
        let line = [
            "submit",
            "kafka_to_bronze",
            "--master",
            "local[2]",
            "--conf",
            "a.b=1=2",
            "--conf",
            "c=",
            "--",
            "--trigger",
            "available-now",
            "--conf",
            "x=y",
        ];
        let cli = parse(&line).unwrap();
        assert_eq!(cli.global.master.as_deref(), Some("local[2]"));
        assert_eq!(cli.global.conf, [("a.b".to_owned(), "1=2".to_owned()), ("c".to_owned(), String::new())]);
        let cli = parse(&["--data-dir", "/d", "--output", "json", "cluster", "start", "--executors", "2"]).unwrap();
        assert!(cli.global.json() && cli.global.data_dir == Some(PathBuf::from("/d")));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            &["submit"][..],
            &["submit", "job", "--sql", "f.sql"],
            &["sql", "-e", "select 1", "-f", "x.sql"],
            &["cluster", "start", "--executors", "0"],
            &["cluster", "start", "--executors", "many"],
            &["jobs", "--conf", "no-value"],
            &["jobs", "-v", "-q"],
            &["runs", "list", "--state", "sleeping"],
            &["no-such-command"],
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn a_driver_is_launched_as_executors_do() {
        let line = ["driver", "--run-id", "r", "--attempt", "2", "--job", "sql", "--data-dir", "/d", "--conf", "a=1", "--", "select 1; -- x"];
        assert!(matches!(parse(&line).unwrap().command, Command::Driver(_)));
    }
}
