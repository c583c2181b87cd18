//! `chainalytics jobs`: what can be submitted.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::CliResult;
use crate::output::Rows;
use crate::registry;
use crate::submit::sql_job;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics jobs --output json")]
pub struct JobsArgs {}

pub fn run(context: &Context, _: &JobsArgs) -> CliResult<()> {
    let mut rows = Rows::new(&["job", "description"]);
    for job in registry::all() {
        rows.push(vec![json!(job.name), json!(job.description)]);
    }
    rows.push(vec![json!(sql_job::NAME), json!("The statements of a file: submit --sql FILE")]);
    rows.print(context.format())
}
