//! How far a job has come with a table that grows by Kafka positions, and the condition that selects what is new.
//!
//! A position stands as a property of the job's own target table and changes in the same commit as its rows, so that a row is worked on
//! once, whatever is repeated. Positions are Kafka's, not snapshots': compaction and expiry of the source do not matter.

use std::collections::BTreeMap;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::Table;
use serde::{Deserialize, Serialize};

use crate::JobContext;
use crate::rows::fetch;
use crate::stateful::read_property;

/// Partitions (and loaded files) of one source at most: each is a term of a condition.
const PARTITIONS_MAX: usize = 2_000;

/// Next offset by topic and partition: `{"topic":{"0":next}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Position(pub BTreeMap<String, BTreeMap<i32, i64>>);

impl Position {
    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.get(topic)?.get(&partition).copied()
    }

    /// Raises one partition's next offset; never lowers it.
    pub(crate) fn raise(&mut self, topic: &str, partition: i32, next: i64) {
        let slot = self.0.entry(topic.to_owned()).or_default().entry(partition).or_insert(next);
        *slot = next.max(*slot);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.0.iter().flat_map(|(topic, ends)| ends.iter().map(move |(partition, next)| (topic.as_str(), *partition, *next)))
    }

    pub(crate) fn to_json(&self) -> String {
        // Maps of integers: serialising cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The position that a table's property holds.
    ///
    /// # Errors
    /// `ProgressLost` for a text that is none: taking it for "from the start" would double rows.
    pub(crate) fn of(table: &Table, key: &str) -> Result<Option<Self>> {
        read_property(table, key)
    }

    /// Rows at or behind this position, as an SQL condition over the lineage columns.
    pub(crate) fn after(&self) -> String {
        let terms: Vec<String> = self.iter().map(|(t, p, next)| format!("({} AND kafka_offset >= {next})", partition(t, p))).collect();
        if terms.is_empty() {
            return "TRUE".to_owned();
        }
        let known: Vec<String> = self.iter().map(|(t, p, _)| partition(t, p)).collect();
        format!("({} OR NOT ({}))", terms.join(" OR "), known.join(" OR "))
    }

    /// Rows before this position.
    pub(crate) fn before(&self) -> String {
        let terms: Vec<String> = self.iter().map(|(t, p, next)| format!("({} AND kafka_offset < {next})", partition(t, p))).collect();
        if terms.is_empty() { "FALSE".to_owned() } else { format!("({})", terms.join(" OR ")) }
    }

    /// Rows from `start` up to this position; of partitions that have any.
    pub(crate) fn since(&self, start: &Position) -> String {
        let terms: Vec<String> = self
            .iter()
            .filter_map(|(t, p, end)| {
                let from = start.get(t, p);
                match from {
                    Some(from) if from >= end => None,
                    Some(from) => Some(format!("({} AND kafka_offset >= {from} AND kafka_offset < {end})", partition(t, p))),
                    None => Some(format!("({} AND kafka_offset < {end})", partition(t, p))),
                }
            })
            .collect();
        if terms.is_empty() { "FALSE".to_owned() } else { format!("({})", terms.join(" OR ")) }
    }
}

fn partition(topic: &str, partition: i32) -> String {
    format!("kafka_topic = {} AND kafka_partition = {partition}", text(topic))
}

/// A text as an SQL literal.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A moment as an SQL literal of the tables' own type, so that it prunes files.
pub(crate) fn moment(micros: i64) -> String {
    format!("arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

/// What is new in a source.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Span {
    pub start: Position,
    /// After the new rows; partitions without news as in `start`.
    pub end: Position,
    pub rows: u64,
    /// Least and greatest event time of the new rows, microseconds.
    pub times: Option<(i64, i64)>,
}

impl Span {
    /// The new rows as a condition.
    pub(crate) fn condition(&self) -> String {
        self.end.since(&self.start)
    }
}

/// Looks for rows of `table` after `start`. `time` is the column of the event's time as SQL.
///
/// # Errors
/// Of the query; `ResourcesExhausted` beyond two thousand partitions.
pub(crate) async fn span(context: &JobContext, table: &str, time: &str, start: Position) -> Result<Span> {
    let query = format!(
        "SELECT kafka_topic, kafka_partition, max(kafka_offset) + 1 AS next, count(*) AS n, min({time}) AS first, max({time}) AS last \
         FROM {table} WHERE {} GROUP BY kafka_topic, kafka_partition",
        start.after()
    );
    let rows = fetch(context.session(), &query).await?;
    let mut span = Span { end: start.clone(), start, ..Span::default() };
    for row in 0..rows.len() {
        let (Some(topic), Some(partition), Some(next)) = (rows.text(row, "kafka_topic"), rows.int(row, "kafka_partition"), rows.long(row, "next"))
        else {
            return Err(Error::new(ErrorCode::SchemaMismatch, format!("table {table} has rows without Kafka position")));
        };
        span.end.raise(&topic, partition, next);
        span.rows += rows.count(row, "n");
        if let (Some(first), Some(last)) = (rows.micros(row, "first"), rows.micros(row, "last")) {
            let (least, greatest) = span.times.unwrap_or((first, last));
            span.times = Some((least.min(first), greatest.max(last)));
        }
    }
    if span.end.iter().count() > PARTITIONS_MAX {
        return Err(Error::new(ErrorCode::ResourcesExhausted, format!("table {table} has more than {PARTITIONS_MAX} partitions and loaded files")));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn position(entries: &[(&str, i32, i64)]) -> Position {
        let mut position = Position::default();
        for (topic, partition, next) in entries {
            position.raise(topic, *partition, *next);
        }
        position
    }

    #[test]
    fn positions_only_rise() {
        let mut at = position(&[("t", 0, 5)]);
        at.raise("t", 0, 3);
        assert_eq!(at.get("t", 0), Some(5));
        assert_eq!(at.to_json(), r#"{"t":{"0":5}}"#);
        assert_eq!(serde_json::from_str::<Position>(&at.to_json()).unwrap(), at);
    }

    #[test]
    fn what_is_new_includes_partitions_never_seen() {
        assert_eq!(Position::default().after(), "TRUE");
        assert_eq!(Position::default().before(), "FALSE");
        let after = position(&[("t", 0, 5)]).after();
        assert_eq!(after, "((kafka_topic = 't' AND kafka_partition = 0 AND kafka_offset >= 5) OR NOT (kafka_topic = 't' AND kafka_partition = 0))");
    }

    #[test]
    fn a_span_names_only_partitions_with_news() {
        let (start, end) = (position(&[("t", 0, 5), ("t", 1, 7)]), position(&[("t", 0, 9), ("t", 1, 7), ("t", 2, 1)]));
        assert_eq!(
            end.since(&start),
            "((kafka_topic = 't' AND kafka_partition = 0 AND kafka_offset >= 5 AND kafka_offset < 9) OR (kafka_topic = 't' AND kafka_partition = 2 AND kafka_offset < 1))"
        );
        assert_eq!(start.since(&start), "FALSE");
    }

    #[test]
    fn quotes_in_names_are_doubled() {
        assert_eq!(text("o'brien"), "'o''brien'");
    }
}
