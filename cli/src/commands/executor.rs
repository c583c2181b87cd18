//! `chainalytics executor`: runs tasks; on SIGTERM it drains and leaves in order.

use clap::Args;

use crate::context::Context;
use crate::error::CliResult;
use crate::signals;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  chainalytics executor --conf scheduler.url=chainalytics://scheduler:7077 --conf executor.cores=4 --conf executor.memory=8GB"
)]
pub struct ExecutorArgs {}

pub async fn run(context: &Context) -> CliResult<()> {
    Ok(chainalytics_executor::run(context.config(), signals::cancel_on_signal()).await?)
}
