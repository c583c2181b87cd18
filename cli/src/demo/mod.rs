//! The demo, in the order of the data's way: `cluster` (start or reuse), `pipeline` (events, jobs), `measure` (what the tables and topics
//! hold), `counts` (do the sums add up), `report` (what people and scripts see).

pub mod counts;
mod files;
mod measure;
mod pipeline;
mod query;
pub mod report;

use std::time::{Duration, Instant};

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode};

use crate::cluster::plan::{Plan, PlanOptions};
use crate::cluster::start::{Outcome, running, start};
use crate::cluster::state::ClusterState;
use crate::commands::demo::DemoArgs;
use crate::context::Context;
use crate::error::CliResult;
use counts::TopicTables;
use report::Report;

/// Topics of the demo.
const TOPICS: [&str; 3] = ["user-events", "products", "weather-data"];
/// A slow machine takes its time to start six processes.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs everything; the cluster stays up.
pub async fn run(context: &Context, args: &DemoArgs) -> CliResult<Report> {
    let started = Instant::now();
    let state = cluster(context, args).await?;
    // From here on as any command that is given this cluster's data directory.
    let context = context.for_cluster(&state)?;
    let topics = TOPICS.map(TopicTables::of);
    let files = pipeline::run(&context, args, &topics).await?;

    let session = Session::connect(context.config(), context.master()?).await?;
    let measured = tokio::select! {
        biased;
        () = crate::signals::interrupted() => Err(crate::error::CliError::Interrupted),
        measured = measure::measure(&context, &session, &topics, &files) => measured,
    };
    session.close().await;
    let measured = measured?;
    let checks = measured.counts.checks(&topics);
    let lakehouse = session.lakehouse();
    Ok(Report {
        checks,
        counts: measured.counts,
        files: measured.files,
        gold_rows: measured.gold_rows,
        catalog_uri: lakehouse.catalog_uri(),
        warehouse: lakehouse.warehouse(),
        urls: state.urls,
        seconds: started.elapsed().as_secs_f64(),
    })
}

async fn cluster(context: &Context, args: &DemoArgs) -> CliResult<ClusterState> {
    let options = PlanOptions { executors: args.executors, port_offset: args.port_offset, no_broker: false };
    if let Some(state) = running(context.data_dir())? {
        context.note("using the cluster that runs already");
        return Ok(state);
    }
    let plan = Plan::new(context, &options)?;
    let note = |text: &str| context.note(text);
    Ok(match start(context.data_dir(), &plan, START_TIMEOUT, &note).await? {
        Outcome::Started(state) => state,
        Outcome::AlreadyRunning(state) => {
            context.note("using the cluster that runs already");
            state
        }
    })
}

/// Fails if a sum does not add up; the report has been printed.
pub fn verdict(report: &Report) -> CliResult<()> {
    let broken: Vec<String> =
        report.checks.iter().filter(|c| !c.holds()).map(|c| format!("{} ({} against {})", c.equation, c.left, c.right)).collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorCode::CountsDiffer, format!("the counts do not add up: {}", broken.join("; "))).into())
}
