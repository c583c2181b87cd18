//! `kafka_to_bronze`: topics into their bronze tables, in micro-batches, each record exactly once.

mod args;
mod listener;
mod topics;

use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result, keys};
use chainalytics_streaming::decode::ValueFormat;
use chainalytics_streaming::registry::RegistryOptions;
use chainalytics_streaming::stream::{SchemaEvolution, StreamSpec, StreamSummary, StreamingQuery, TopicPattern, TopicResolver, Trigger};
use chainalytics_streaming::topics::PLATFORM_TOPICS;
use futures::future::BoxFuture;
use serde_json::json;

use self::args::{Args, Format, OnErrorArg};
use self::listener::Listener;
use self::topics::TopicTables;
use crate::{Job, JobContext, JobReport, parse};

pub(crate) struct KafkaToBronze;

impl Job for KafkaToBronze {
    fn name(&self) -> &'static str {
        "kafka_to_bronze"
    }

    fn description(&self) -> &'static str {
        "Kafka topics to bronze tables in micro-batches, exactly once (-- --topics a,b --trigger available-now)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let session = context.session();
            let config = session.config();
            let run_id = session.run().run_id().map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
            let tables = Arc::new(TopicTables {
                lakehouse: session.lakehouse().clone(),
                namespace: config.get(&keys::CATALOG_NAMESPACE),
                registry: RegistryOptions::from_config(config),
                format: format_of(&args, !config.get(&keys::SCHEMA_REGISTRY_URL).is_empty())?,
                tombstones: args.tombstones.into(),
                tables: args.tables.iter().cloned().collect(),
            });
            let mut named = args.topics.clone().unwrap_or_default();
            if named.is_empty() && args.topic_pattern.is_none() {
                named = PLATFORM_TOPICS.map(str::to_owned).to_vec();
            }
            let mut topics = Vec::with_capacity(named.len());
            for topic in &named {
                topics.push(tables.subscribe(topic).await?);
            }
            if let Some(unused) = args.tables.iter().map(|(topic, _)| topic).find(|topic| args.topic_pattern.is_none() && !named.contains(topic)) {
                return Err(Error::new(ErrorCode::InvalidArgument, format!("--table names topic '{unused}', which --topics does not")));
            }
            let mut spec = StreamSpec::from_config(config, self.name(), run_id, topics)?;
            tables.ensure_dead_letters(&spec.dead_letters).await?;
            spec.start = args.starting_offsets.clone();
            if let Some(pattern) = &args.topic_pattern {
                spec.pattern = Some(TopicPattern::new(pattern, Arc::clone(&tables) as Arc<dyn TopicResolver>)?);
            }
            spec.limits.rows_max = args.max_rows_per_batch.unwrap_or(spec.limits.rows_max);
            spec.limits.bytes_max = args.max_bytes_per_batch.map_or(spec.limits.bytes_max, |bytes| bytes.as_u64());
            spec.limits.fail_on_data_loss = args.fail_on_data_loss.unwrap_or(spec.limits.fail_on_data_loss);
            spec.on_error = match args.on_error {
                Some(on_error) => on_error.into(),
                None => from_key::<OnErrorArg>(keys::STREAMING_ON_ERROR.name(), &config.get(&keys::STREAMING_ON_ERROR))?.into(),
            };
            spec.evolution = match args.schema_evolution {
                Some(evolution) => evolution,
                None => config.get(&keys::STREAMING_SCHEMA_EVOLUTION).parse::<SchemaEvolution>()?,
            };
            let trigger = args.trigger.unwrap_or_else(|| Trigger::from_config(config));
            let listener = Listener::new(context.clone());
            let query = StreamingQuery::new(session.lakehouse().clone(), spec)?;
            let summary = query.run(session, trigger, session.run().cancellation(), &listener).await?;
            Ok(report(&summary))
        })
    }
}

fn report(summary: &StreamSummary) -> JobReport {
    json!({
        "batches": summary.batches, "input_rows": summary.input_rows, "rows": summary.output_rows,
        "dead_letter_rows": summary.dead_letter_rows, "dead_letters": summary.dead_letters, "skipped_rows": summary.skipped_rows,
        "conflicts": summary.conflicts, "stopped": summary.stopped,
    })
}

fn format_of(args: &Args, with_registry: bool) -> Result<ValueFormat> {
    match args.format {
        Format::Json => Ok(ValueFormat::Json),
        Format::Auto if !with_registry => Ok(ValueFormat::Json),
        Format::Auto => Ok(ValueFormat::Avro),
        Format::Avro | Format::JsonSchema if with_registry => Ok(ValueFormat::Avro),
        Format::Avro | Format::JsonSchema => Err(Error::new(
            ErrorCode::Config,
            "values with registered schemas (--format avro, json-schema) need schema.registry.url: set it with --conf, or read plain JSON with --format json",
        )),
    }
}

/// A value of the configuration as an argument has it.
fn from_key<T: clap::ValueEnum>(key: &str, text: &str) -> Result<T> {
    T::from_str(text, false).map_err(|_| {
        let known: Vec<String> = T::value_variants().iter().filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned())).collect();
        Error::new(ErrorCode::Config, format!("{key} is '{text}': expected {}", known.join(", ")))
    })
}
