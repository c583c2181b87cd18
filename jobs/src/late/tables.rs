//! The handler's small tables: rows made in the driver.

use std::collections::BTreeMap;

use chainalytics_common::Result;
use chainalytics_streaming::window::{PartitionTime, PartitionWatermark, TopicWatermark};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{col, lit};

use crate::JobContext;
use crate::rows::{Rows, as_long, booleans, days, doubles, fetch, frame, ints, longs, moments, texts};
use crate::source::{moment, text};
use crate::stage::{Keep, Part};

use super::alerts::Alert;
use super::categories::CATEGORIES;
use super::completeness::HourCount;

const COMPLETENESS: &str = "monitoring_completeness";

/// One batch of one topic.
pub(super) struct Batch<'a> {
    pub context: &'a JobContext,
    pub topic: &'a str,
    pub id: i64,
    pub now: i64,
}

/// The watermarks as the last batch left them.
pub(super) async fn read_watermarks(context: &JobContext, topic: &str) -> Result<TopicWatermark> {
    let query = format!(
        "SELECT kafka_partition, next_offset, max_event_time, last_arrival, partition_watermark, idle, topic_watermark \
         FROM monitoring_watermarks WHERE kafka_topic = {}",
        text(topic)
    );
    let rows = fetch(context.session(), &query).await?;
    let mut known = TopicWatermark::default();
    for row in 0..rows.len() {
        let watermark = || {
            let time = PartitionTime {
                next_offset: rows.long(row, "next_offset")?,
                max_event: rows.micros(row, "max_event_time")?,
                last_arrival: rows.micros(row, "last_arrival")?,
            };
            Some(PartitionWatermark { time, watermark: rows.micros(row, "partition_watermark")?, idle: rows.boolean(row, "idle")? })
        };
        if let (Some(partition), Some(found)) = (rows.int(row, "kafka_partition"), watermark()) {
            known.partitions.insert(partition, found);
        }
        known.watermark = known.watermark.max(rows.micros(row, "topic_watermark"));
    }
    Ok(known)
}

impl Batch<'_> {
    fn topics(&self, n: usize) -> arrow::array::ArrayRef {
        texts(std::iter::repeat_n(Some(self.topic), n))
    }

    pub(super) fn watermarks(&self, topic: &TopicWatermark) -> Result<DataFrame> {
        let all: Vec<(&i32, &PartitionWatermark)> = topic.partitions.iter().collect();
        frame(
            self.context.session(),
            vec![
                ("kafka_topic", self.topics(all.len())),
                ("kafka_partition", ints(all.iter().map(|(p, _)| Some(**p)))),
                ("next_offset", longs(all.iter().map(|(_, w)| Some(w.time.next_offset)))),
                ("max_event_time", moments(all.iter().map(|(_, w)| Some(w.time.max_event)))),
                ("last_arrival", moments(all.iter().map(|(_, w)| Some(w.time.last_arrival)))),
                ("partition_watermark", moments(all.iter().map(|(_, w)| Some(w.watermark)))),
                ("idle", booleans(all.iter().map(|(_, w)| Some(w.idle)))),
                ("topic_watermark", moments(all.iter().map(|_| topic.watermark))),
            ],
        )
    }

    pub(super) fn statistics(&self, rows: &Rows, start: &BTreeMap<i32, i64>) -> Result<DataFrame> {
        let n = rows.len();
        let counts = |name: &'static str| longs((0..n).map(|row| Some(as_long(rows.count(row, name)))));
        let floats = |name: &'static str| doubles((0..n).map(|row| rows.double(row, name)));
        let partition = |row| rows.int(row, "kafka_partition");
        let first = |row| partition(row).and_then(|p| start.get(&p).copied()).or_else(|| rows.long(row, "first_offset"));
        let mut columns = vec![
            ("trigger_batch_id", longs((0..n).map(|_| Some(self.id)))),
            ("batch_timestamp", moments((0..n).map(|_| Some(self.now)))),
            ("kafka_topic", self.topics(n)),
            ("kafka_partition", ints((0..n).map(partition))),
            ("start_offset", longs((0..n).map(first))),
            ("end_offset", longs((0..n).map(|row| rows.long(row, "last_offset").map(|last| last + 1)))),
            ("rows", counts("n")),
        ];
        columns.extend(CATEGORIES.iter().map(|c| (c.column, counts(c.column))));
        columns.push(("out_of_order", counts("out_of_order")));
        columns.extend(["average_score", "average_delay_s", "max_delay_s", "max_out_of_order_s"].map(|name| (name, floats(name))));
        frame(self.context.session(), columns)
    }

    /// The hours that got something, with what they had before.
    pub(super) async fn completeness(&self, new: &BTreeMap<i64, HourCount>) -> Result<Part> {
        let hours: Vec<i64> = new.keys().copied().collect();
        let listed: Vec<String> = hours.iter().map(|h| moment(*h)).collect();
        let query = format!(
            "SELECT arrival_hour, expected, arrived, dead_letters FROM {COMPLETENESS} WHERE kafka_topic = {} AND arrival_hour IN ({})",
            text(self.topic),
            if listed.is_empty() { "NULL".to_owned() } else { listed.join(", ") }
        );
        let mut all = new.clone();
        let known = if hours.is_empty() { None } else { Some(fetch(self.context.session(), &query).await?) };
        if let Some(known) = &known {
            for row in 0..known.len() {
                let before = HourCount {
                    expected: known.count(row, "expected"),
                    arrived: known.count(row, "arrived"),
                    dead_letters: known.count(row, "dead_letters"),
                };
                if let Some(hour) = known.micros(row, "arrival_hour") {
                    all.entry(hour).or_default().add(&before);
                }
            }
        }
        let at = |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
        let replaced = col("kafka_topic").eq(lit(self.topic)).and(col("arrival_hour").in_list(hours.into_iter().map(at).collect(), false));
        let part = Part::new(self.context, COMPLETENESS, Keep::AllBut(replaced)).await?;
        let count = |pick: fn(&HourCount) -> u64| longs(all.values().map(|c| Some(as_long(pick(c)))));
        Ok(part.frame(frame(
            self.context.session(),
            vec![
                ("kafka_topic", self.topics(all.len())),
                ("arrival_hour", moments(all.keys().map(|h| Some(*h)))),
                ("expected", count(|c| c.expected)),
                ("arrived", count(|c| c.arrived)),
                ("dead_letters", count(|c| c.dead_letters)),
                ("missing", count(HourCount::missing)),
                ("completeness", doubles(all.values().map(|c| Some(c.completeness())))),
            ],
        )?))
    }

    pub(super) fn alerts(&self, found: &[Alert]) -> Result<DataFrame> {
        let n = found.len();
        frame(
            self.context.session(),
            vec![
                ("alert_id", texts(found.iter().map(|a| Some(format!("{}/{}/{}", self.topic, self.id, a.kind))))),
                ("alert_timestamp", moments((0..n).map(|_| Some(self.now)))),
                ("alert_type", texts(found.iter().map(|a| Some(a.kind)))),
                ("severity", texts(found.iter().map(|a| Some(a.severity)))),
                ("kafka_topic", self.topics(n)),
                ("metric", texts(found.iter().map(|a| Some(a.metric)))),
                ("value", doubles(found.iter().map(|a| Some(a.value)))),
                ("threshold", doubles(found.iter().map(|a| Some(a.threshold)))),
                ("message", texts(found.iter().map(|a| Some(a.message.as_str())))),
                ("trigger_batch_id", longs((0..n).map(|_| Some(self.id)))),
            ],
        )
    }

    /// One request per day.
    pub(super) fn requests(&self, late: &Rows) -> Result<DataFrame> {
        let n = late.len();
        let reason = |row| format!("{} late rows, up to {:.1} h", late.count(row, "n"), late.double(row, "max_delay_hours").unwrap_or(0.0));
        frame(
            self.context.session(),
            vec![
                ("event_date", days((0..n).map(|row| late.day(row, "event_date")))),
                ("trigger_batch_id", longs((0..n).map(|_| Some(self.id)))),
                ("trigger_timestamp", moments((0..n).map(|_| Some(self.now)))),
                ("reason", texts((0..n).map(|row| Some(reason(row))))),
                ("processed", booleans((0..n).map(|_| Some(false)))),
                ("kafka_topic", self.topics(n)),
                ("late_rows", longs((0..n).map(|row| Some(as_long(late.count(row, "n")))))),
            ],
        )
    }
}
