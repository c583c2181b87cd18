//! `chainalytics scheduler`: gRPC for clients and executors, REST and the web page.

use chainalytics_common::Error;
use chainalytics_scheduler::{EngineParts, Options, Scheduler};
use clap::Args;

use crate::context::Context;
use crate::error::CliResult;
use crate::signals;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics scheduler --data-dir /var/lib/chainalytics --conf scheduler.port=7077")]
pub struct SchedulerArgs {}

pub async fn run(context: &Context) -> CliResult<()> {
    let options = Options::from_config(&context.config())?;
    let engine = EngineParts::from_config(context.config())?;
    let scheduler = Scheduler::start(options, engine, signals::cancel_on_signal()).await.map_err(Error::from)?;
    Ok(scheduler.wait().await.map_err(Error::from)?)
}
