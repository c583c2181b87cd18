//! `kafka_to_bronze`: topics into their bronze tables, in micro-batches, each record exactly once.

use async_trait::async_trait;
use chainalytics_common::{Error, ErrorCode, Result, keys};
use chainalytics_lakehouse::TableIdent;
use chainalytics_proto::v1::Progress;
use chainalytics_streaming::decode::ValueFormat;
use chainalytics_streaming::stream::{ProgressListener, StartPolicy, StreamSpec, StreamingQuery, StreamingQueryProgress, TopicSubscription, Trigger, Waiting};
use chainalytics_streaming::topics::{PLATFORM_TOPICS, platform_topic};
use clap::{Parser, ValueEnum};
use serde_json::json;

use crate::{Job, JobContext, JobReport, parse};

pub(crate) struct KafkaToBronze;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Avro where a schema registry is configured, else JSON.
    Auto,
    Json,
    Avro,
}

#[derive(Debug, Parser)]
#[command(name = "kafka_to_bronze")]
struct Args {
    /// Topics, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = PLATFORM_TOPICS.map(str::to_owned))]
    topics: Vec<String>,
    /// available-now, once, or an interval such as 30s; default: streaming.trigger.interval
    #[arg(long)]
    trigger: Option<Trigger>,
    /// Where a table without progress starts: earliest, latest, a timestamp
    #[arg(long, default_value = "earliest")]
    starting_offsets: StartPolicy,
    /// Format of the values
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
}

#[async_trait]
impl Job for KafkaToBronze {
    fn name(&self) -> &'static str {
        "kafka_to_bronze"
    }

    fn description(&self) -> &'static str {
        "Kafka topics to bronze tables in micro-batches, exactly once (-- --topics a,b --trigger available-now)"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        let args: Args = parse(self.name(), args)?;
        let session = context.session();
        let config = session.config();
        let namespace = config.get(&keys::CATALOG_NAMESPACE);
        let with_registry = !config.get(&keys::SCHEMA_REGISTRY_URL).is_empty();
        let format = match args.format {
            Format::Json => ValueFormat::Json,
            Format::Avro => ValueFormat::Avro,
            Format::Auto if with_registry => ValueFormat::Avro,
            Format::Auto => ValueFormat::Json,
        };
        let topics = args.topics.iter().map(|name| subscription(name, &namespace, format)).collect::<Result<Vec<_>>>()?;
        let run_id = session.run().run_id().map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let mut spec = StreamSpec::from_config(config, self.name(), run_id, topics)?;
        spec.start = args.starting_offsets;
        let trigger = args.trigger.unwrap_or_else(|| Trigger::from_config(config));
        let listener = Listener::new(context.clone());
        let query = StreamingQuery::new(session.lakehouse().clone(), spec)?;
        let summary = query.run(session, trigger, session.run().cancellation(), &listener).await?;
        Ok(json!({
            "batches": summary.batches, "input_rows": summary.input_rows, "rows": summary.output_rows,
            "dead_letter_rows": summary.dead_letter_rows, "conflicts": summary.conflicts, "stopped": summary.stopped,
        }))
    }
}

fn subscription(topic: &str, namespace: &str, format: ValueFormat) -> Result<TopicSubscription> {
    let definition = platform_topic(topic).ok_or_else(|| {
        Error::new(ErrorCode::TopicNotFound, format!("topic {topic:?} is none of the platform's: {}", PLATFORM_TOPICS.join(", ")))
    })?;
    let mut subscription = TopicSubscription::new(&definition, namespace, format);
    subscription.table = TableIdent::parse(&definition.table, namespace)?;
    Ok(subscription)
}

/// Tells the run of each batch.
struct Listener {
    context: JobContext,
    rows: std::sync::atomic::AtomicU64,
}

impl Listener {
    fn new(context: JobContext) -> Self {
        Self { context, rows: std::sync::atomic::AtomicU64::new(0) }
    }
}

impl ProgressListener for Listener {
    fn on_progress(&self, progress: &StreamingQueryProgress) {
        let read = self.rows.fetch_add(progress.num_input_rows, std::sync::atomic::Ordering::Relaxed) + progress.num_input_rows;
        let behind: u64 = progress.sources.iter().map(|source| source.offsets_behind_latest).sum();
        let metrics_json = serde_json::to_string(progress).unwrap_or_default();
        tracing::info!(batch = progress.batch_id, rows = progress.num_input_rows, behind, "batch committed");
        let stage = format!("batch {}", progress.batch_id);
        self.context.session().run().progress(Progress { stage, done: read, total: read + behind, rows: read, metrics_json });
    }

    fn on_waiting(&self, waiting: &Waiting) {
        tracing::warn!(code = waiting.code, attempts = waiting.attempts, "waiting: {}", waiting.reason);
        let stage = format!("waiting: {}", waiting.reason);
        let last = self.context.session().run().last_progress();
        self.context.session().run().progress(Progress { stage, ..last });
    }
}
