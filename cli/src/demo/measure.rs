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
const DUPLICATES_TABLE: &str = "silver_duplicates";
/// Where `bronze_ingestion` puts the known data sets.
const FILE_TABLES: [&str; 2] = ["bronze_flights", "bronze_weather_observations"];

/// What was found.
pub struct Measured {
    pub counts: Counts,
    /// Rows by table that files were loaded into.
    pub files: BTreeMap<String, u64>,
    pub gold_rows: Vec<(String, Vec<Map<String, Value>>)>,
}

/// Asks topics and tables. Tables that other topics share with the demo's are counted for the demo's topics only.
pub async fn measure(context: &Context, session: &Session, topics: &[TopicTables], files: &[InputFile]) -> CliResult<Measured> {
    let mut counts = Counts::default();
    for t in topics {
        counts.produced.insert(t.topic.clone(), produced(context, session, t).await?);
        counts.bronze.insert(t.bronze.clone(), count(session, &t.bronze).await?.unwrap_or(0));
        counts.silver.insert(t.silver.clone(), count(session, &t.silver).await?.unwrap_or(0));
    }
    let of_topics = quoted(topics.iter().map(|t| &t.topic));
    let of_tables = quoted(topics.iter().map(|t| &t.bronze));
    let sql =
        format!("SELECT kafka_topic AS a, error_code AS b, count(*) AS n FROM {DEAD_LETTERS_TABLE} WHERE kafka_topic IN ({of_topics}) GROUP BY 1, 2");
    counts.dead_letters_by_reason = counts_by(session, &sql).await?;
    counts.dead_letters.insert(DEAD_LETTERS_TABLE.to_owned(), total(&counts.dead_letters_by_reason));
    let sql = format!("SELECT source_table AS a, rule AS b, count(*) AS n FROM {QUARANTINE_TABLE} WHERE source_table IN ({of_tables}) GROUP BY 1, 2");
    counts.quarantined_by_rule = counts_by(session, &sql).await?;
    counts.quarantined.insert(QUARANTINE_TABLE.to_owned(), total(&counts.quarantined_by_rule));
    let sql = format!("SELECT source_table AS a, '' AS b, count(*) AS n FROM {DUPLICATES_TABLE} WHERE source_table IN ({of_tables}) GROUP BY 1, 2");
    let duplicates = counts_by(session, &sql).await?;
    counts.duplicates.insert(DUPLICATES_TABLE.to_owned(), total(&duplicates));
    counts.duplicates_by_source = duplicates.into_iter().map(|(table, n)| (table, n.values().sum())).collect();

    let mut gold_rows = Vec::new();
    for table in gold_tables(session).await? {
        let rows_total = count(session, &table).await?.unwrap_or(0);
        counts.gold.insert(table.clone(), rows_total);
        // Dimensions and facts are there to be joined; what people look at are the business tables.
        if rows_total > 0 && table.starts_with("gold_") {
            let first = rows(session, &format!("SELECT * FROM {table} ORDER BY {} LIMIT {GOLD_ROWS}", order_of(&table))).await?;
            gold_rows.push((table, first));
        }
    }
    Ok(Measured { counts, files: file_rows(session, files).await?, gold_rows })
}

/// What makes the first rows of a table the interesting ones.
fn order_of(table: &str) -> &'static str {
    match table {
        "gold_customer_analytics" => "revenue DESC NULLS LAST, customer_id",
        "gold_product_performance" => "revenue_rank NULLS LAST, product_key",
        "gold_daily_business_summary" => "date_key DESC",
        "gold_customer_conversion_features" => "converting_sessions DESC NULLS LAST, customer_id",
        _ => "1, 2, 3",
    }
}

async fn gold_tables(session: &Session) -> CliResult<Vec<String>> {
    let mut names = Vec::new();
    for row in rows(session, "SHOW TABLES").await? {
        if let Some(Value::String(name)) = row.get("tableName")
            && row.get("isTemporary") != Some(&Value::Bool(true))
            && ["gold_", "dim_", "fact_"].iter().any(|prefix| name.starts_with(prefix))
        {
            names.push(name.clone());
        }
    }
    names.sort();
    Ok(names)
}

/// Rows of every table that files have been loaded into, now or by an earlier demo.
async fn file_rows(session: &Session, files: &[InputFile]) -> CliResult<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for table in FILE_TABLES {
        if let Some(n) = count(session, table).await? {
            counts.insert(table.to_owned(), n);
        }
    }
    if counts.is_empty() && !files.is_empty() {
        tracing::warn!("files were loaded, but their tables are not there");
    }
    Ok(counts)
}

fn quoted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
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
