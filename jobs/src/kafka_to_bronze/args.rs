use bytesize::ByteSize;
use chainalytics_streaming::exec::{OnError, Tombstones};
use chainalytics_streaming::stream::{SchemaEvolution, StartPolicy, Trigger};
use clap::{Parser, ValueEnum};

/// How the topics' values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// By the schema registry where one is configured, else plain JSON
    Auto,
    /// JSON objects, bare or behind a schema id that is not looked up
    Json,
    /// By the registered schema of each record's id (Avro, JSON Schema)
    Avro,
    /// The same; the registered schema says what it is
    JsonSchema,
}

/// What becomes of records that cannot be rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnErrorArg {
    /// Kept in bronze_dead_letters with key, value and reason
    DeadLetter,
    /// Counted by reason and dropped
    Skip,
    /// The run fails at the first one; nothing of its batch is committed
    Fail,
}

impl From<OnErrorArg> for OnError {
    fn from(arg: OnErrorArg) -> Self {
        match arg {
            OnErrorArg::DeadLetter => OnError::DeadLetter,
            OnErrorArg::Skip => OnError::Skip,
            OnErrorArg::Fail => OnError::Fail,
        }
    }
}

/// What records without a value mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TombstonesArg {
    /// Records that cannot be rows, as --on-error says
    Reject,
    /// Deletions of a compacted topic: counted and dropped
    Skip,
}

impl From<TombstonesArg> for Tombstones {
    fn from(arg: TombstonesArg) -> Self {
        match arg {
            TombstonesArg::Reject => Tombstones::Reject,
            TombstonesArg::Skip => Tombstones::Skip,
        }
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "kafka_to_bronze",
    about = "Reads Kafka topics into bronze tables in micro-batches, each record exactly once",
    after_help = "Examples:\n  kafka_to_bronze --trigger available-now\n  kafka_to_bronze --topics user-events,products --trigger 10s --max-rows-per-batch 500000\n  \
                  kafka_to_bronze --topic-pattern 'user-.*' --schema-evolution add-columns\n  \
                  kafka_to_bronze --topics orders --table orders=bronze_shop_orders --starting-offsets '{\"orders\":{\"0\":100,\"1\":-2}}'\n\n\
                  A table's own progress always wins over --starting-offsets. A topic that is none of the platform's needs its table (the record's columns \
                  and the lineage columns of the other bronze tables) or a schema in the registry, of which the table is made."
)]
pub(super) struct Args {
    /// Topics, separated by commas [default: the platform's five, unless --topic-pattern is given]
    #[arg(long, value_delimiter = ',', value_name = "TOPIC")]
    pub(super) topics: Option<Vec<String>>,
    /// More topics: those whose whole name matches, also ones that appear while the stream runs
    #[arg(long, value_name = "REGEX")]
    pub(super) topic_pattern: Option<String>,
    /// Table of a topic, TOPIC=TABLE; may be repeated [default: bronze_<topic>]
    #[arg(long = "table", value_name = "TOPIC=TABLE", value_parser = pair)]
    pub(super) tables: Vec<(String, String)>,
    /// available-now (everything that is there at the start), once (one batch), or an interval such as 30s or 500ms [default: streaming.trigger.interval]
    #[arg(long, value_name = "TRIGGER")]
    pub(super) trigger: Option<Trigger>,
    /// Where tables without progress start: earliest, latest, a timestamp (RFC 3339 or epoch milliseconds), or JSON {"topic":{"partition":offset}} (-2 earliest, -1 latest)
    #[arg(long, default_value = "earliest", value_name = "START")]
    pub(super) starting_offsets: StartPolicy,
    /// How values are written
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) format: Format,
    /// Most records of a batch over all topics [default: streaming.max-rows-per-batch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_rows_per_batch: Option<u64>,
    /// Most bytes of a batch over all topics, such as 256MiB [default: streaming.max-bytes-per-batch]
    #[arg(long, value_name = "SIZE")]
    pub(super) max_bytes_per_batch: Option<ByteSize>,
    /// Whether the run fails when records are gone that it has not read (retention, a topic deleted and made anew); false goes on with what is left [default: streaming.fail-on-data-loss]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = false, default_missing_value = "true")]
    pub(super) fail_on_data_loss: Option<bool>,
    /// What becomes of records that cannot be rows [default: streaming.on-error]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(super) on_error: Option<OnErrorArg>,
    /// What records without a value mean
    #[arg(long, value_enum, default_value = "reject", value_name = "WHAT")]
    pub(super) tombstones: TombstonesArg,
    /// New fields of registered schemas: none ignores them, add-columns gives the table optional columns for them [default: streaming.schema-evolution]
    #[arg(long, value_name = "WHAT")]
    pub(super) schema_evolution: Option<SchemaEvolution>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((topic, table)) if !topic.is_empty() && !table.is_empty() => Ok((topic.to_owned(), table.to_owned())),
        _ => Err("expected TOPIC=TABLE, such as orders=bronze_orders".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::parse;

    fn read(line: &str) -> chainalytics_common::Result<Args> {
        parse("kafka_to_bronze", line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn every_argument_is_read() {
        let args = read(
            "--topics a,b --topic-pattern x.* --table a=t --trigger 30s --starting-offsets {\"a\":{\"0\":5}} --max-rows-per-batch 7 \
             --max-bytes-per-batch 1MiB --fail-on-data-loss false --on-error skip --tombstones skip --schema-evolution add-columns --format json-schema",
        )
        .unwrap();
        assert_eq!(args.topics.as_deref().unwrap(), ["a", "b"]);
        assert_eq!(args.tables, [("a".to_owned(), "t".to_owned())]);
        assert_eq!(args.trigger, Some(Trigger::Interval(Duration::from_secs(30))));
        assert!(matches!(args.starting_offsets, StartPolicy::Offsets(_)));
        assert_eq!(args.max_bytes_per_batch.unwrap().as_u64(), 1 << 20);
        assert_eq!((args.fail_on_data_loss, args.on_error), (Some(false), Some(OnErrorArg::Skip)));
        assert_eq!(args.schema_evolution, Some(SchemaEvolution::AddColumns));
        assert_eq!(read("--fail-on-data-loss").unwrap().fail_on_data_loss, Some(true));
        assert_eq!(read("").unwrap().fail_on_data_loss, None);
    }

    #[test]
    fn wrong_arguments_say_what_would_be_right() {
        for (line, hint) in [
            ("--trigger soon", "available-now"),
            ("--starting-offsets soon", "earliest"),
            ("--on-error ignore", "dead-letter"),
            ("--max-rows-per-batch 0", "1.."),
            ("--table orders", "TOPIC=TABLE"),
            ("--schema-evolution yes", "add-columns"),
            ("--topic a", "--topics"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
