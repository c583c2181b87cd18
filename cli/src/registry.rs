//! The jobs that this binary knows: the only place that names the jobs crate.

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode, Master};
use chainalytics_jobs::JobContext;
use serde_json::Value;

use crate::context::Context;
use crate::error::CliResult;

/// A job as listed.
pub struct Listed {
    pub name: &'static str,
    pub description: &'static str,
}

/// All jobs, in the order of the documentation.
pub fn all() -> Vec<Listed> {
    chainalytics_jobs::all().into_iter().map(|job| Listed { name: job.name(), description: job.description() }).collect()
}

/// Runs a job to its end; its report as JSON.
pub async fn run(session: &Session, job: &str, args: Vec<String>) -> Result<Value, Error> {
    match chainalytics_jobs::find(job) {
        Some(job) => job.run(JobContext::new(session.clone()), args).await,
        None => Err(Error::new(ErrorCode::UnknownJob, format!("there is no job '{job}'"))),
    }
}

/// What a job says about its own arguments; no cluster is needed for that.
pub async fn help(context: &Context, job: &str) -> CliResult<String> {
    let session = Session::connect(context.config(), Master::Local(1)).await?;
    match run(&session, job, vec!["--help".to_owned()]).await {
        Ok(_) => Ok(String::new()),
        // The job's argument parser answers --help as an error that carries the text, after the job's name.
        Err(error) if error.code() == ErrorCode::InvalidArgument => Ok(error.message().trim_start_matches(job).trim_start_matches(": ").to_owned()),
        Err(error) => Err(error.into()),
    }
}
