//! Counts what the topics and tables hold now: totals over all runs, so that a second demo in the same place adds up as well.

use std::collections::BTreeMap;

use chainalytics_client::Session;
use chainalytics_streaming::kafka::{KafkaMetadata, KafkaOptions};
use chainalytics_streaming::topics::DEAD_LETTERS_TABLE;
use serde_json::{Map, Value};

use super::counts::{Counts, TopicTables};
use super::files::InputFile;
use super::query::{count, counts_by, rows};
use crate::context::Context;
use crate::error::CliResult;

/// Rows of each gold table that are shown.
const GOLD_ROWS: usize = 5;
const QUARANTINE_TABLE: &str = "silver_quarantine";

/// What was found.
pub struct Measured {
    pub counts: Counts,
    /// Rows by table that files were loaded into.
    pub files: BTreeMap<String, u64>,
    pub gold_rows: Vec<(String, Vec<Map<String, Value>>)>,
}

pub async fn measure(context: &Context, session: &Session, topics: &[TopicTables], files: &[InputFile]) -> CliResult<Measured> {
    let mut counts = Counts::default();
    for t in topics {
        counts.produced.insert(t.topic.clone(), produced(context, session, t).await?);
        counts.bronze.insert(t.bronze.clone(), count(session, &t.bronze).await?.unwrap_or(0));
        counts.silver.insert(t.silver.clone(), count(session, &t.silver).await?.unwrap_or(0));
    }
    let names: Vec<String> = topics.iter().map(|t| format!("'{}'", t.topic)).collect();
    let of_topics = names.join(", ");
    let sql = format!("SELECT kafka_topic AS a, error_code AS b, count(*) AS n FROM {DEAD_LETTERS_TABLE} WHERE kafka_topic IN ({of_topics}) GROUP BY 1, 2");
    counts.dead_letters_by_reason = counts_by(session, &sql).await?;
    counts.dead_letters.insert(DEAD_LETTERS_TABLE.to_owned(), total(&counts.dead_letters_by_reason));
    let _ = files;
    Ok(Measured { counts, files: BTreeMap::new(), gold_rows: Vec::new() })
}

fn total(map: &BTreeMap<String, BTreeMap<String, u64>>) -> u64 {
    map.values().flat_map(BTreeMap::values).sum()
}

/// Records that were ever in the topic and not gone before the first batch: each partition's end less where its first row or the log begins,
/// so that retention after the fact changes nothing.
async fn produced(context: &Context, session: &Session, t: &TopicTables) -> CliResult<u64> {
    let metadata = KafkaMetadata::new(&KafkaOptions::from_config(&context.config())?)?;
    let partitions = metadata.partitions(std::slice::from_ref(&t.topic)).await?.remove(&t.topic).unwrap_or_default();
    let marks = metadata.watermarks(&t.topic, &partitions).await?;
    let sql = format!(
        "SELECT kafka_partition AS p, min(kafka_offset) AS first FROM (\
           SELECT kafka_partition, kafka_offset FROM {} WHERE kafka_topic = '{topic}' \
           UNION ALL SELECT kafka_partition, kafka_offset FROM {DEAD_LETTERS_TABLE} WHERE kafka_topic = '{topic}') AS r GROUP BY 1",
        t.bronze,
        topic = t.topic,
    );
    let mut first = BTreeMap::new();
    for row in rows(session, &sql).await? {
        if let (Some(p), Some(offset)) = (row.get("p").and_then(Value::as_i64), row.get("first").and_then(Value::as_i64)) {
            first.insert(p, offset);
        }
    }
    let length = |(partition, marks): (&i32, &chainalytics_streaming::batch::Watermarks)| {
        let begin = first.get(&i64::from(*partition)).map_or(marks.low, |first| marks.low.min(*first));
        u64::try_from(marks.high - begin).unwrap_or(0)
    };
    Ok(marks.iter().map(length).sum())
}
