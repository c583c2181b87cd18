//! `chainalytics history-server`: ended runs, from their event logs.

use clap::Args;

use crate::context::Context;
use crate::error::CliResult;
use crate::signals;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics history-server --data-dir /var/lib/chainalytics --conf history.port=18080")]
pub struct HistoryServerArgs {}

pub async fn run(context: &Context) -> CliResult<()> {
    Ok(chainalytics_history_server::run(context.config(), signals::cancel_on_signal()).await?)
}
