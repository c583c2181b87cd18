//! `chainalytics logs`: what a run's driver wrote.

use clap::Args;
use futures::StreamExt as _;
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output;
use crate::runs::{client, resolve};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  chainalytics logs last --follow\n  chainalytics logs 0199ab12-3c4d-7e5f-8a9b-0c1d2e3f4a5b > driver.log")]
pub struct LogsArgs {
    /// Id of the run, an unmistakable beginning of it, or `last`
    #[arg(value_name = "RUN")]
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
    let run_id = resolve(&client, &args.run_id).await?;
    let chunks = client.logs(&run_id, args.follow, args.offset).await?;
    let mut empty = true;
    let mut chunks = std::pin::pin!(chunks);
    loop {
        let chunk = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
            chunk = chunks.next() => chunk,
        };
        let Some(chunk) = chunk.transpose()? else { return Ok(()) };
        if !chunk.data.is_empty() {
            empty = false;
            let text = String::from_utf8_lossy(&chunk.data);
            if context.json() {
                output::json(&json!({ "offset": chunk.offset, "text": text }))?;
            } else {
                output::text(&text)?;
            }
        }
        if chunk.end {
            if empty && args.offset == 0 {
                context.note("no log was kept: the driver wrote nothing, or ran in client mode and wrote to its own terminal");
            }
            return Ok(());
        }
    }
}
