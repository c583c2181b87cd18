//! `chainalytics cluster`: real processes on this machine.

use std::time::Duration;

use chainalytics_common::{Error, ErrorCode};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cluster::plan::{Plan, PlanOptions};
use crate::cluster::start::{Outcome, running, start};
use crate::cluster::state::{ClusterState, Paths};
use crate::cluster::status::{overall, status, to_json, to_table};
use crate::cluster::stop::{self, stop_all};
use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output::{self, Format, Rows};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  chainalytics cluster start --executors 3 --data-dir /tmp/ca\n  chainalytics cluster status --data-dir /tmp/ca --output json\n  \
                        chainalytics cluster stop --data-dir /tmp/ca\n\n\
                        A second cluster beside it: another --data-dir and --port-offset 100."
)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Start scheduler, executors, history server and, unless Kafka is configured, the embedded broker
    #[command(after_help = "Example:\n  chainalytics cluster start --executors 3 --data-dir /tmp/ca --port-offset 100")]
    Start(StartArgs),
    /// Show the processes, whether they are ready, and their URLs
    #[command(after_help = "Example:\n  chainalytics cluster status --data-dir /tmp/ca")]
    Status,
    /// Stop the processes that `start` recorded
    #[command(after_help = "Example:\n  chainalytics cluster stop --data-dir /tmp/ca")]
    Stop {
        /// Seconds between asking a process to end and ending it
        #[arg(long, default_value_t = 20, value_name = "SECONDS")]
        grace: u64,
    },
}

#[derive(Debug, Args)]
struct StartArgs {
    /// How many executor processes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    executors: u16,
    /// Added to every default port, so that several clusters run side by side
    #[arg(long, default_value_t = 0, value_name = "N")]
    port_offset: u16,
    /// Start no broker even if no other Kafka is configured
    #[arg(long)]
    no_broker: bool,
    /// Seconds until all must be ready
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

pub async fn run(context: &Context, args: ClusterArgs) -> CliResult<()> {
    match args.command {
        ClusterCommand::Start(args) => {
            if let Some(state) = running(context.data_dir())? {
                context.note("the cluster is already running");
                return print(context, &state).await.map(|_| ());
            }
            let options = PlanOptions { executors: args.executors, port_offset: args.port_offset, no_broker: args.no_broker };
            let plan = Plan::new(context, &options)?;
            let note = |text: &str| context.note(text);
            let state = match start(context.data_dir(), &plan, Duration::from_secs(args.timeout), &note).await? {
                Outcome::Started(state) => state,
                Outcome::AlreadyRunning(state) => {
                    context.note("the cluster is already running");
                    state
                }
            };
            print(context, &state).await.map(|_| ())
        }
        ClusterCommand::Status => {
            let Some(state) = Paths::new(context.data_dir()).load()? else {
                return Err(none_here(context));
            };
            match print(context, &state).await? {
                "running" => Ok(()),
                state => Err(CliError::reported(Error::new(ErrorCode::ClusterNotReady, format!("the cluster is {state}")))),
            }
        }
        ClusterCommand::Stop { grace } => {
            let paths = Paths::new(context.data_dir());
            let Some(state) = paths.load()? else {
                context.note(&format!("no cluster is recorded in {}", context.data_dir().display()));
                return if context.json() { output::json(&json!({ "stopped": [] })) } else { Ok(()) };
            };
            let _lock = paths.lock()?;
            let stopped = stop_all(&state.services, Duration::from_secs(grace)).await;
            let left: Vec<_> = stopped.iter().filter(|s| s.outcome == stop::Outcome::StillRunning).map(|s| s.name.clone()).collect();
            if left.is_empty() {
                paths.remove(&state)?;
            }
            if context.json() {
                output::json(&json!({ "stopped": stopped }))?;
            } else {
                let mut rows = Rows::new(&["service", "pid", "outcome"]);
                for s in &stopped {
                    rows.push(vec![json!(s.name), json!(s.pid), json!(s.outcome)]);
                }
                rows.print(context.format())?;
            }
            if left.is_empty() { Ok(()) } else { Err(Error::new(ErrorCode::Timeout, format!("still running: {}", left.join(", "))).into()) }
        }
    }
}

/// Prints the cluster as it is now; its overall state.
async fn print(context: &Context, state: &ClusterState) -> CliResult<&'static str> {
    let services = status(state).await;
    match context.format() {
        Format::Json => output::json(&to_json(state, &services))?,
        Format::Table => output::line(&to_table(state, &services))?,
        Format::Csv => return Err(CliError::usage("the cluster's state prints as table or json")),
    }
    Ok(overall(&services))
}

fn none_here(context: &Context) -> CliError {
    Error::new(
        ErrorCode::NotFound,
        format!(
            "no cluster is recorded in {}; start one with `chainalytics cluster start`, or name another directory with --data-dir",
            context.data_dir().display()
        ),
    )
    .into()
}
