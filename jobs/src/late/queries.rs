//! The handler's queries over new bronze rows of one topic.

use chainalytics_streaming::decode::RejectCode;
use chainalytics_streaming::window::TopicWatermark;

use crate::layers::Layer;
use crate::source::{moment, text};

use super::categories::{CATEGORIES, arrival, by_category, delay_hours};

/// Queries over a selection of a topic's rows.
pub(super) struct Queries<'a> {
    layer: &'a Layer,
    topic: &'a str,
    selected: &'a str,
    /// Greatest event time of each partition before the selection, as SQL.
    before: String,
}

impl<'a> Queries<'a> {
    pub(super) fn new(layer: &'a Layer, topic: &'a str, selected: &'a str, known: &TopicWatermark) -> Self {
        let cases: Vec<String> = known.partitions.iter().map(|(p, w)| format!("WHEN {p} THEN {}", moment(w.time.max_event))).collect();
        let before = if cases.is_empty() { String::new() } else { format!("CASE kafka_partition {} END", cases.join(" ")) };
        Self { layer, topic, selected, before }
    }

    fn arrival(&self) -> &'static str {
        arrival(matches!(self.topic, "user-events" | "user-posts" | "weather-data"))
    }

    /// The selected rows with `arrival`, `delay_hours` and `late_category`.
    fn judged(&self) -> String {
        let Layer { bronze, time, .. } = self.layer;
        let arrival = self.arrival();
        format!(
            "SELECT *, {} AS late_category FROM (SELECT *, {arrival} AS arrival, {} AS delay_hours FROM {bronze} WHERE kafka_topic = {} AND {}) AS a",
            by_category(|c| text(c.name)),
            delay_hours(time, arrival),
            text(self.topic),
            self.selected
        )
    }

    /// One row per partition: counts by category, delays, rows that came after a later event, times and offsets.
    pub(super) fn statistics(&self) -> String {
        let time = self.layer.time;
        let counts: Vec<String> =
            CATEGORIES.iter().map(|c| format!("count(*) FILTER (WHERE late_category = {}) AS {}", text(c.name), c.column)).collect();
        let running =
            format!("max({time}) OVER (PARTITION BY kafka_partition ORDER BY kafka_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)");
        let seen = if self.before.is_empty() { running } else { format!("greatest({running}, {})", self.before) };
        format!(
            "SELECT kafka_partition, count(*) AS n, {}, avg(CAST({} AS DOUBLE)) AS average_score, avg(delay_hours) * 3600.0 AS average_delay_s, \
             max(delay_hours) * 3600.0 AS max_delay_s, count(*) FILTER (WHERE {time} < seen) AS out_of_order, \
             CAST(max(arrow_cast(seen, 'Int64') - arrow_cast({time}, 'Int64')) FILTER (WHERE {time} < seen) AS DOUBLE) / 1000000.0 AS max_out_of_order_s, \
             max({time}) AS max_event, max(arrival) AS last_arrival, min(kafka_offset) AS first_offset, max(kafka_offset) AS last_offset \
             FROM (SELECT *, {seen} AS seen FROM ({}) AS j) AS s GROUP BY kafka_partition ORDER BY kafka_partition",
            counts.join(", "),
            by_category(|c| c.score.to_string()),
            self.judged()
        )
    }

    /// Different positions of a table by partition and hour of storing.
    pub(super) fn stored(&self, table: &str) -> String {
        format!(
            "SELECT kafka_partition, date_trunc('hour', ingested_at) AS arrival_hour, count(DISTINCT kafka_offset) AS n, \
             min(kafka_offset) AS first_offset, max(kafka_offset) AS last_offset \
             FROM {table} WHERE kafka_topic = {} AND {} GROUP BY kafka_partition, date_trunc('hour', ingested_at)",
            text(self.topic),
            self.selected
        )
    }

    /// Records whose writer's schema does not go with the table.
    pub(super) fn incompatible(&self) -> String {
        format!(
            "SELECT count(*) AS n FROM bronze_dead_letters WHERE kafka_topic = {} AND error_code = {} AND {}",
            text(self.topic),
            text(RejectCode::IncompatibleSchema.as_str()),
            self.selected
        )
    }

    /// A late row asks for its day to be built anew if that day was over when it came.
    fn requires_reprocessing(&self) -> String {
        let time = self.layer.time;
        format!("late_category NOT IN ('On-time', 'Too Late') AND CAST({time} AS DATE) < CAST(arrival AS DATE)")
    }

    pub(super) fn days_to_rebuild(&self) -> String {
        let time = self.layer.time;
        format!(
            "SELECT CAST({time} AS DATE) AS event_date, count(*) AS n, max(delay_hours) AS max_delay_hours FROM ({}) AS j WHERE {} \
             GROUP BY CAST({time} AS DATE) ORDER BY 1",
            self.judged(),
            self.requires_reprocessing()
        )
    }

    /// Rows for `monitoring_rejected_late_data`.
    pub(super) fn rejected(&self, batch: i64, now: i64, watermark: Option<i64>) -> String {
        let Layer { key, time, .. } = self.layer;
        let watermark = watermark.map_or_else(|| "NULL".to_owned(), moment);
        format!(
            "SELECT kafka_topic, kafka_partition, kafka_offset, {key} AS business_key, {time} AS event_timestamp, arrival AS arrival_timestamp, \
             delay_hours AS arrival_delay_hours, late_category AS late_data_category, CAST(0 AS INT) AS late_data_score, {watermark} AS watermark, \
             CAST({batch} AS BIGINT) AS trigger_batch_id, {} AS rejected_at FROM ({}) AS j WHERE late_category = 'Too Late'",
            moment(now),
            self.judged()
        )
    }

    fn event_columns(now: i64) -> String {
        format!(
            "event_id, user_id, event_type, product_id, session_id, event_timestamp, value, {} AS processing_timestamp, ingestion_timestamp, \
             kafka_topic AS source_system, kafka_topic, kafka_partition, kafka_offset",
            moment(now)
        )
    }

    /// Rows for `bronze_streaming_events`.
    pub(super) fn on_time_events(&self, now: i64) -> String {
        format!("SELECT {} FROM ({}) AS j WHERE late_category = 'On-time'", Self::event_columns(now), self.judged())
    }

    /// Rows for `bronze_streaming_events_late`.
    pub(super) fn late_events(&self, now: i64) -> String {
        format!(
            "SELECT {}, delay_hours AS arrival_delay_hours, late_category AS late_data_category, CAST({} AS INT) AS late_data_score, \
             {} AS requires_reprocessing FROM ({}) AS j WHERE late_category NOT IN ('On-time', 'Too Late')",
            Self::event_columns(now),
            by_category(|c| c.score.to_string()),
            self.requires_reprocessing(),
            self.judged()
        )
    }
}
