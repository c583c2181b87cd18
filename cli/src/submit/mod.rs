//! A run from the command line: `drive` runs a job's driver in this process, `follow` watches one that an executor runs.

pub mod drive;
pub mod follow;
pub mod sql_job;

use std::collections::HashMap;

use chainalytics_proto::v1::{DeployMode, RunState, SubmitRunRequest};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliResult;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub run_id: String,
    /// Registry name, or `sql`.
    pub job: String,
    /// Shown to people.
    pub name: String,
    pub args: Vec<String>,
    pub supervise: bool,
}

impl RunRequest {
    /// A request with an id of its own.
    pub fn new(job: &str, args: Vec<String>) -> Self {
        Self { run_id: uuid::Uuid::now_v7().to_string(), job: job.to_owned(), name: job.to_owned(), args, supervise: false }
    }

    pub fn message(&self, context: &Context, mode: DeployMode) -> CliResult<SubmitRunRequest> {
        Ok(SubmitRunRequest {
            run_id: self.run_id.clone(),
            name: self.name.clone(),
            job: self.job.clone(),
            args: self.args.clone(),
            conf: context.run_conf()?.into_iter().collect::<HashMap<_, _>>(),
            deploy_mode: mode.into(),
            supervise: self.supervise,
            user: user(),
            priority: 0,
        })
    }
}

/// Who submits, as far as the environment tells; daemons and containers often have no name, but the owner of this process is known.
fn user() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    named.unwrap_or_else(|| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/self").map_or_else(|_| String::new(), |own| format!("uid {}", own.uid()))
    })
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunResult {
    pub run_id: String,
    pub state: RunState,
    /// What the job reports, if it finished.
    pub report: Value,
    /// Code, message.
    pub error: Option<(String, String)>,
}

impl RunResult {
    pub fn to_json(&self) -> Value {
        json!({
            "run_id": self.run_id,
            "state": self.state.label(),
            "report": self.report,
            "error": self.error.as_ref().map(|(code, message)| json!({ "code": code, "message": message })),
        })
    }
}
