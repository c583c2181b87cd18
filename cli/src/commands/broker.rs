//! `chainalytics broker`: the embedded Kafka-protocol broker, for the demo and for trying things out.

use clap::Args;

use crate::context::Context;
use crate::error::CliResult;
use crate::signals;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics broker --data-dir /tmp/ca --conf broker.port=9092")]
pub struct BrokerArgs {}

pub async fn run(context: &Context) -> CliResult<()> {
    Ok(chainalytics_broker::run(context.config(), signals::cancel_on_signal()).await?)
}
