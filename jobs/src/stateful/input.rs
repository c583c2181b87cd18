//! One input of a query with state: a table that grows by Kafka positions, its event time and its watermark.

use std::collections::BTreeMap;
use std::time::Duration;

use chainalytics_common::Result;
use chainalytics_streaming::window::{PartitionTime, PartitionWatermark, TopicWatermark};
use serde::{Deserialize, Serialize};

use crate::JobContext;
use crate::rows::{Rows, fetch};
use crate::source::{Position, Span, moment, span};
use crate::stateful::quoted;

/// A length of time in microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A table and how its event time is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Input {
    pub table: String,
    /// Column with the event's time, as the table spells it.
    pub time: String,
    /// How far the watermark stays behind the newest event, microseconds.
    pub delay: i64,
}

/// How far an input was read. Moments in microseconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputState {
    pub position: Position,
    pub watermark: Option<i64>,
    partitions: Partitions,
}

/// The watermarks of partitions as properties keep them: next offset, greatest event time, last arrival, watermark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Partitions(BTreeMap<i32, (i64, i64, i64, i64)>);

impl Partitions {
    pub(crate) fn of(topic: &TopicWatermark) -> Self {
        Self(topic.partitions.iter().map(|(p, w)| (*p, (w.time.next_offset, w.time.max_event, w.time.last_arrival, w.watermark))).collect())
    }

    /// With the topic's own watermark.
    pub(crate) fn watermarks(&self, topic: Option<i64>) -> TopicWatermark {
        let watermark = |(next_offset, max_event, last_arrival, watermark): (i64, i64, i64, i64)| PartitionWatermark {
            time: PartitionTime { next_offset, max_event, last_arrival },
            watermark,
            // Judged anew with every batch.
            idle: false,
        };
        TopicWatermark { partitions: self.0.iter().map(|(p, w)| (*p, watermark(*w))).collect(), watermark: topic }
    }
}

/// What new rows say of their partitions: rows of `kafka_partition`, `last_offset`, `max_event`, `last_arrival`.
pub(crate) fn partition_times(rows: &Rows) -> BTreeMap<i32, PartitionTime> {
    let time = |row| {
        let time = PartitionTime {
            next_offset: rows.long(row, "last_offset")? + 1,
            max_event: rows.micros(row, "max_event")?,
            last_arrival: rows.micros(row, "last_arrival")?,
        };
        Some((rows.int(row, "kafka_partition")?, time))
    };
    (0..rows.len()).filter_map(time).collect()
}

/// What came since.
#[derive(Debug, Clone)]
pub(crate) struct News {
    pub span: Span,
    /// Rows that the watermark had passed (or without a time): they are dropped.
    pub late: u64,
    /// The state with them.
    pub state: InputState,
}

impl Input {
    /// Looks for rows that came since `before`. `watermark` is the query's, as the last batch left it: rows that are not after it are late.
    /// A partition is idle when its last row arrived more than `idle_after` before the newest one.
    ///
    /// # Errors
    /// Of the queries.
    pub(crate) async fn look(&self, context: &JobContext, before: &InputState, watermark: Option<i64>, idle_after: i64) -> Result<News> {
        let span = span(context, &self.table, &quoted(&self.time), before.position.clone()).await?;
        if span.rows == 0 {
            return Ok(News { span, late: 0, state: before.clone() });
        }
        let query = format!(
            "SELECT kafka_partition, max(kafka_offset) AS last_offset, max({time}) AS max_event, max(coalesce(ingested_at, {time})) AS last_arrival, \
             count(*) FILTER (WHERE NOT ({in_time})) AS late FROM {table} WHERE {new} GROUP BY kafka_partition",
            time = quoted(&self.time),
            in_time = self.in_time(watermark),
            table = self.table,
            new = span.condition()
        );
        let rows = fetch(context.session(), &query).await?;
        let late = (0..rows.len()).map(|row| rows.count(row, "late")).sum();
        let news = partition_times(&rows);
        let watermarks = before.partitions.watermarks(before.watermark).advance(&news, self.delay, idle_after);
        let state = InputState { position: span.end.clone(), watermark: watermarks.watermark, partitions: Partitions::of(&watermarks) };
        Ok(News { span, late, state })
    }

    /// Rows that are not late, as a condition that is never NULL.
    pub(crate) fn in_time(&self, watermark: Option<i64>) -> String {
        let time = quoted(&self.time);
        match watermark {
            None => format!("{time} IS NOT NULL"),
            Some(watermark) => format!("({time} IS NOT NULL AND {time} > {})", moment(watermark)),
        }
    }
}
