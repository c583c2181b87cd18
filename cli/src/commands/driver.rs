//! `chainalytics driver`: the driver of a run that the scheduler placed on an executor. Executors call it; people use `submit`.

use chainalytics_client::RunContext;
use clap::Args;

use crate::context::Context;
use crate::error::CliResult;
use crate::signals;
use crate::submit::{RunRequest, drive};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics driver --run-id 0199ab12-... --attempt 1 --job gold_aggregation -- --day 2025-06-01")]
pub struct DriverArgs {
    #[arg(long, value_name = "ID")]
    run_id: String,
    /// Launches of this run's driver so far
    #[arg(long, value_name = "N")]
    attempt: u32,
    #[arg(long, value_name = "JOB")]
    job: String,
    /// Name shown with the run
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Arguments of the job
    #[arg(last = true, value_name = "JOB_ARGS")]
    args: Vec<String>,
}

pub async fn run(context: &Context, args: DriverArgs) -> CliResult<()> {
    let cancel = signals::cancel_on_signal();
    let request =
        RunRequest { run_id: args.run_id, name: args.name.unwrap_or_else(|| args.job.clone()), job: args.job, args: args.args, supervise: false };
    let run = RunContext::new(&request.run_id, &request.name, args.attempt, cancel);
    tracing::info!(run_id = request.run_id, attempt = args.attempt, job = request.job, args = ?request.args, "driver starts");
    let result = drive::run_reported(context, &request, run, 0).await?;
    tracing::info!(state = result.state.label(), report = %result.report, "driver ends");
    super::submit::outcome(&result)
}
