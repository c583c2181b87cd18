//! `chainalytics submit`: runs a job, here or on the cluster, and tells how it ended.

use std::path::PathBuf;

use chainalytics_common::{Error, ErrorCode, Master};
use chainalytics_proto::v1::RunState;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output::{self, Format};
use crate::progress::RunLine;
use crate::registry;
use crate::submit::{RunRequest, RunResult, drive, follow, sql_job};

/// Where the driver runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In this process.
    Client,
    /// In a process of its own that an executor launches.
    Cluster,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  chainalytics submit kafka_to_bronze --master 'local[2]' --conf streaming.max-rows-per-batch=5000 -- --trigger available-now\n  \
                        chainalytics submit gold_aggregation --deploy-mode cluster --supervise\n  \
                        chainalytics submit --sql nightly.sql --output json\n\n\
                        `chainalytics jobs` lists the jobs. What follows -- goes to the job; `-- --help` shows what it takes."
)]
pub struct SubmitArgs {
    /// Job to run; see `chainalytics jobs`
    #[arg(value_name = "JOB", required_unless_present = "sql")]
    job: Option<String>,
    /// Run the statements of this file (- for stdin) as a job
    #[arg(long, value_name = "FILE", conflicts_with = "job")]
    sql: Option<PathBuf>,
    /// Where the driver runs
    #[arg(long, value_enum, default_value = "client", value_name = "MODE")]
    deploy_mode: Mode,
    /// Launch a failed or lost driver again, elsewhere (cluster mode)
    #[arg(long)]
    supervise: bool,
    /// Wait for the end and show log and progress (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as the run is submitted (cluster mode)
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Name shown with the run [default: the job's]
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Arguments of the job
    #[arg(last = true, value_name = "JOB_ARGS")]
    args: Vec<String>,
}

pub async fn run(context: &Context, args: SubmitArgs) -> CliResult<()> {
    if context.format() == Format::Csv {
        return Err(CliError::usage("submit prints as table or json"));
    }
    let mut request = match (&args.sql, &args.job) {
        (Some(_), _) if !args.args.is_empty() => return Err(CliError::usage("--sql takes no job arguments")),
        (Some(file), _) => {
            let mut request = RunRequest::new(sql_job::NAME, vec![super::sql::read(file)?]);
            request.name = file.file_name().map_or_else(|| sql_job::NAME.to_owned(), |n| n.to_string_lossy().into_owned());
            request
        }
        (None, Some(job)) => {
            drive::known(job)?;
            if args.args.iter().any(|arg| arg == "--help" || arg == "-h") {
                return output::line(&registry::help(context, job).await?);
            }
            RunRequest::new(job, args.args)
        }
        (None, None) => return Err(CliError::usage("name a job or give --sql FILE")),
    };
    if let Some(name) = args.name {
        request.name = name;
    }
    request.supervise = args.supervise;
    if args.deploy_mode == Mode::Cluster && matches!(context.master()?, Master::Local(_)) {
        return Err(CliError::usage("--deploy-mode cluster needs a cluster: give --master chainalytics://HOST:PORT"));
    }
    if args.deploy_mode == Mode::Client && (args.supervise || args.no_wait) {
        return Err(CliError::usage("--supervise and --no-wait need --deploy-mode cluster: in client mode the driver is this process"));
    }
    if args.no_wait {
        let (_, run) = follow::submit(context, &request).await?;
        return if context.json() {
            output::json(&json!({ "run_id": run.run_id, "state": run.state().label(), "report": null }))
        } else {
            output::line(&run.run_id)
        };
    }
    let result = execute(context, &request, args.deploy_mode).await?;
    print(context, &result)?;
    outcome(&result)
}

/// Runs the request to its end with a progress line on stderr.
async fn execute(context: &Context, request: &RunRequest, mode: Mode) -> CliResult<RunResult> {
    let line = RunLine::new(context, &request.name);
    let sink = line.sink();
    let result = match mode {
        Mode::Client => drive::run_here(context, request, sink).await,
        Mode::Cluster => {
            let copy = line.clone();
            follow::run_on_cluster(context, request, sink, Some(Box::new(move |text| copy.print(text)))).await
        }
    };
    line.finish();
    result
}

fn print(context: &Context, result: &RunResult) -> CliResult<()> {
    if context.json() {
        return output::json(&result.to_json());
    }
    output::line(&format!("run    {}\nstate  {}", result.run_id, result.state.label()))?;
    if result.report.is_null() { Ok(()) } else { output::line(&serde_json::to_string_pretty(&result.report).unwrap_or_default()) }
}

/// The exit code follows the run.
pub fn outcome(result: &RunResult) -> CliResult<()> {
    match (result.state, &result.error) {
        (RunState::Finished, _) => Ok(()),
        (_, Some((code, message))) => {
            let known = ErrorCode::ALL.iter().copied().find(|c| c.as_str() == code.as_str());
            let error = Error::new(known.unwrap_or(ErrorCode::RunFailed), format!("run {} {}: {message}", result.run_id, result.state.label()));
            // The job's own arguments were wrong: that is the command line again.
            Err(if known == Some(ErrorCode::InvalidArgument) { error.into() } else { CliError::RunFailed(error) })
        }
        (state, None) => Err(Error::new(ErrorCode::RunFailed, format!("run {} {}", result.run_id, state.label())).into()),
    }
}
