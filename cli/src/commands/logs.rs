//! `chainalytics logs`: what a run's driver wrote.

use clap::Args;
use futures::StreamExt as _;
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output;
use crate::runs::client;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics logs 0199ab12-3c4d-7e5f-8a9b-0c1d2e3f4a5b --follow")]
pub struct LogsArgs {
    #[arg(value_name = "RUN_ID")]
    run_id: String,
    /// Go on until the run has ended
    #[arg(short, long)]
    follow: bool,
    /// Begin at this byte
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    offset: u64,
}

pub async fn run(context: &Context, args: LogsArgs) -> CliResult<()> {
    let client = client(context).await?;
    let chunks = client.logs(&args.run_id, args.follow, args.offset).await?;
    let mut chunks = std::pin::pin!(chunks);
    loop {
        let chunk = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
            chunk = chunks.next() => chunk,
        };
        let Some(chunk) = chunk.transpose()? else { return Ok(()) };
        if !chunk.data.is_empty() {
            let text = String::from_utf8_lossy(&chunk.data);
            if context.json() {
                output::json(&json!({ "offset": chunk.offset, "text": text }))?;
            } else {
                output::text(&text)?;
            }
        }
        if chunk.end {
            return Ok(());
        }
    }
}
