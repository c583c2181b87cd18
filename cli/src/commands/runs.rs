//! `chainalytics runs`: which runs there are, and one of them in detail.

use clap::{Args, Subcommand};
use serde_json::json;

use chainalytics_proto::v1::{ListRunsRequest, Run, RunState};

use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output::{self, Format, Rows, timestamp};
use crate::runs::{client, resolve, run_json};

/// States that can be asked for.
const STATES: [&str; 7] = ["submitted", "queued", "running", "finished", "failed", "killed", "lost"];

/// Runs listed unless more are asked for.
const LIMIT_DEFAULT: u32 = 50;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  chainalytics runs                                  the latest\n  chainalytics runs list --state running,queued\n  chainalytics runs show last --output json"
)]
pub struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// List runs, newest first
    #[command(after_help = "Example:\n  chainalytics runs list --job kafka_to_bronze --limit 5")]
    List {
        /// Only runs in these states
        #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = STATES)]
        state: Vec<String>,
        /// Only runs of this job
        #[arg(long, value_name = "JOB")]
        job: Option<String>,
        /// Only runs whose name holds this text
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = LIMIT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one run with its queries and its report
    #[command(after_help = "Examples:\n  chainalytics runs show last\n  chainalytics runs show 0199ab12-3c4d-7e5f-8a9b-0c1d2e3f4a5b --output json")]
    Show {
        /// Id of the run, an unmistakable beginning of it, or `last`
        #[arg(value_name = "RUN")]
        run_id: String,
    },
}

pub async fn run(context: &Context, args: RunsArgs) -> CliResult<()> {
    let client = client(context).await?;
    let command = args.command.unwrap_or(RunsCommand::List { state: Vec::new(), job: None, name: None, limit: LIMIT_DEFAULT });
    match command {
        RunsCommand::List { state, job, name, limit } => {
            let request = ListRunsRequest {
                states: state.iter().filter_map(|s| RunState::from_label(s)).map(|s| s as i32).collect(),
                job: job.unwrap_or_default(),
                name_contains: name.unwrap_or_default(),
                limit,
            };
            let runs = client.list(request).await?;
            if context.format() == Format::Json {
                return runs.iter().try_for_each(|run| output::json(&run_json(run)));
            }
            let mut rows = Rows::new(&["run_id", "name", "job", "mode", "state", "attempt", "submitted", "seconds"]);
            for run in &runs {
                rows.push(vec![
                    json!(run.run_id),
                    json!(run.name),
                    json!(run.job),
                    json!(run.deploy_mode().label()),
                    json!(run.state().label()),
                    json!(run.attempt),
                    timestamp(run.submitted_at_ms),
                    seconds(run),
                ]);
            }
            rows.print(context.format())
        }
        RunsCommand::Show { run_id } => {
            let run_id = resolve(&client, &run_id).await?;
            let run = client.get(&run_id).await?;
            let report = crate::runs::report(context, &run_id).await;
            let mut value = run_json(&run);
            value["report"] = report.unwrap_or_default();
            match context.format() {
                Format::Json => output::json(&value),
                Format::Csv => Err(CliError::usage("runs show prints as table or json")),
                Format::Table => show(&run, &value["report"]),
            }
        }
    }
}

fn show(run: &Run, report: &serde_json::Value) -> CliResult<()> {
    let mut rows = Rows::new(&["field", "value"]);
    let mut field = |name: &str, value: serde_json::Value| rows.push(vec![json!(name), value]);
    field("run id", json!(run.run_id));
    field("name", json!(run.name));
    field("job", json!(run.job));
    field("arguments", json!(run.args.join(" ")));
    field("state", json!(run.state().label()));
    field("deploy mode", json!(run.deploy_mode().label()));
    field("attempt", json!(run.attempt.to_string()));
    field("user", json!(run.user));
    field("submitted", timestamp(run.submitted_at_ms));
    field("started", timestamp(run.started_at_ms));
    field("ended", timestamp(run.ended_at_ms));
    if !run.driver_executor_id.is_empty() {
        field("driver on", json!(run.driver_executor_id));
    }
    if let Some(error) = &run.error {
        let message = error.message.strip_prefix(&format!("[{}] ", error.code)).unwrap_or(&error.message);
        field("error", json!(format!("{}: {message}", error.code)));
    }
    if let Some(progress) = &run.progress {
        let of = if progress.total > 0 { format!(" {}/{}", progress.done, progress.total) } else { String::new() };
        field("progress", json!(format!("{}{of}, {} rows", progress.stage, output::thousands(progress.rows))));
    }
    for (key, value) in sorted(&run.conf) {
        field("conf", json!(format!("{key}={value}")));
    }
    output::text(&rows.table())?;
    if !run.queries.is_empty() {
        let mut queries = Rows::new(&["query", "attempt", "label", "statement"]);
        for query in &run.queries {
            let statement: String = query.statement.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
            queries.push(vec![json!(query.job_id), json!(query.attempt), json!(query.label), json!(statement)]);
        }
        output::line("")?;
        output::text(&queries.table())?;
    }
    if !report.is_null() {
        output::line("")?;
        output::line(&serde_json::to_string_pretty(report).unwrap_or_default())?;
    }
    Ok(())
}

fn sorted(conf: &std::collections::HashMap<String, String>) -> Vec<(&String, &String)> {
    let mut conf: Vec<_> = conf.iter().collect();
    conf.sort();
    conf
}

/// How long it has run, once it started.
fn seconds(run: &Run) -> serde_json::Value {
    if run.started_at_ms <= 0 {
        return serde_json::Value::Null;
    }
    let end = if run.ended_at_ms > 0 { run.ended_at_ms } else { chrono::Utc::now().timestamp_millis() };
    json!(((end - run.started_at_ms).max(0) as f64 / 100.0).round() / 10.0)
}
