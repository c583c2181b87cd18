//! `chainalytics kill`: asks for the end of a run and waits for it.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::CliResult;
use crate::output;
use crate::runs::{client, resolve};

const POLL_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  chainalytics kill 0199ab12-3c4d-7e5f-8a9b-0c1d2e3f4a5b --reason 'wrong day'\n  chainalytics kill last")]
pub struct KillArgs {
    /// Id of the run, an unmistakable beginning of it, or `last`
    #[arg(value_name = "RUN")]
    run_id: String,
    /// Shown with the run
    #[arg(long, default_value = "asked for at the command line", value_name = "TEXT")]
    reason: String,
    /// Wait at most so many seconds for the run's end; 0 does not wait
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
}

pub async fn run(context: &Context, args: KillArgs) -> CliResult<()> {
    let client = client(context).await?;
    let run_id = resolve(&client, &args.run_id).await?;
    let mut run = client.kill(&run_id, &args.reason).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(args.wait);
    while !run.state().is_terminal() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL_INTERVAL).await;
        run = client.get(&run_id).await?;
    }
    let state = run.state().label();
    if context.json() {
        return output::json(&json!({ "run_id": run.run_id, "state": state, "kill_requested": run.kill_requested }));
    }
    if run.state().is_terminal() {
        output::line(&format!("{} {state}", run.run_id))
    } else {
        output::line(&format!("{} will end (still {state})", run.run_id))
    }
}
