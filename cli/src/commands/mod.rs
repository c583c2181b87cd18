//! One file per command: its arguments, and what it does.

pub mod broker;
pub mod cluster;
pub mod completions;
pub mod config;
pub mod demo;
pub mod driver;
pub mod executor;
pub mod history_server;
pub mod jobs;
pub mod kill;
pub mod logs;
pub mod produce;
pub mod runs;
pub mod scheduler;
pub mod sql;
pub mod submit;
pub mod table;

use crate::args::{Cli, Command};
use crate::context::{Context, LogTo};
use crate::error::CliResult;

/// Runs what was asked for.
pub async fn run(cli: Cli) -> CliResult<()> {
    let Cli { global, command } = cli;
    // These two work without a configuration.
    let command = match command {
        Command::Completions(args) => return completions::run(&args),
        Command::Config(config::ConfigArgs { command: config::ConfigCommand::Docs }) => return config::docs(global.format()),
        command => command,
    };
    let context = match &command {
        Command::Scheduler(_) | Command::Executor(_) | Command::HistoryServer(_) | Command::Broker(_) | Command::Driver(_) => {
            Context::for_server(global)?
        }
        Command::Demo(args) => Context::with_overrides(global, args.overrides(), LogTo::Person)?,
        _ => Context::new(global)?,
    };
    match command {
        Command::Cluster(args) => cluster::run(&context, args).await,
        Command::Submit(args) => submit::run(&context, args).await,
        Command::Jobs(args) => jobs::run(&context, &args),
        Command::Runs(args) => runs::run(&context, args).await,
        Command::Logs(args) => logs::run(&context, args).await,
        Command::Kill(args) => kill::run(&context, args).await,
        Command::Sql(args) => sql::run(&context, args).await,
        Command::Table(args) => table::run(&context, args).await,
        Command::Produce(args) => produce::run(&context, args).await,
        Command::Demo(args) => demo::run(&context, args).await,
        Command::Config(args) => config::run(&context, &args),
        Command::Scheduler(_) => scheduler::run(&context).await,
        Command::Executor(_) => executor::run(&context).await,
        Command::HistoryServer(_) => history_server::run(&context).await,
        Command::Broker(_) => broker::run(&context).await,
        Command::Driver(args) => driver::run(&context, args).await,
        Command::Completions(args) => completions::run(&args),
    }
}
