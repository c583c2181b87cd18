//! The part of a batch that runs where the session's queries run: repeats left out, rows grouped.

use std::collections::BTreeMap;

use chainalytics_common::{Error, Result};
use chainalytics_streaming::window::{Figures, Partial, PartitionTime, WindowSpec};

use crate::JobContext;
use crate::rows::{Rows, fetch};
use crate::source::{moment, text};
use crate::stateful::partition_times;

use super::state::Definition;
use super::{BRONZE, Key, SEEN};

const FIGURES: &str = "count(*) AS events, count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'click') AS clicks, \
     count(*) FILTER (WHERE event_type = 'purchase') AS purchases, coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue, \
     min(event_timestamp) AS first_event, max(event_timestamp) AS last_event";

/// Queries of one batch.
pub(super) struct Queries<'a> {
    name: &'a str,
    definition: Definition,
    selected: &'a str,
    times: Option<(i64, i64)>,
    watermark: Option<i64>,
}

/// Grouped rows of a batch.
pub(super) struct Partials {
    pub partials: Vec<Partial>,
    /// Rows that are no repeats.
    pub rows: u64,
}

impl<'a> Queries<'a> {
    pub(super) fn new(name: &'a str, definition: Definition, selected: &'a str, times: Option<(i64, i64)>, watermark: Option<i64>) -> Self {
        Self { name, definition, selected, times, watermark }
    }

    /// The batch's rows as `window_key`, `event_type`, `value`, `event_timestamp`, `t` (microseconds); each event once.
    fn events(&self) -> String {
        let key = match self.definition.key {
            Key::UserId => "user_id",
            Key::ProductId => "coalesce(product_id, '')",
            Key::EventType => "event_type",
            Key::All => "'all'",
        };
        let columns = format!("{key} AS window_key, event_id, event_type, value, event_timestamp, arrow_cast(event_timestamp, 'Int64') AS t");
        let selected = self.selected;
        if !self.definition.deduplicate {
            return format!("SELECT {columns} FROM {BRONZE} WHERE {selected}");
        }
        let (first, last) = self.times.unwrap_or_default();
        format!(
            "SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY event_id, event_timestamp ORDER BY kafka_topic, kafka_partition, kafka_offset) AS place \
             FROM {BRONZE} WHERE {selected}) AS b \
             LEFT ANTI JOIN (SELECT event_id AS known_id, event_timestamp AS known_time FROM {SEEN} WHERE query = {} AND event_timestamp >= {} AND event_timestamp <= {}) AS s \
             ON b.event_id = s.known_id AND b.event_timestamp = s.known_time WHERE b.place = 1",
            text(self.name),
            moment(first),
            moment(last)
        )
    }

    /// Identities that this batch brings, from a moment on.
    pub(super) fn newly_seen(&self, from: Option<i64>) -> String {
        let from = from.map_or_else(String::new, |from| format!(" WHERE event_timestamp >= {}", moment(from)));
        format!("SELECT {} AS query, event_id, event_timestamp FROM ({}) AS e{from}", text(self.name), self.events())
    }

    /// The query that groups the rows.
    fn grouped(&self) -> String {
        let events = self.events();
        match self.definition.spec {
            WindowSpec::Tumbling { size } => format!(
                "SELECT window_key, window_start, false AS late, {FIGURES} FROM (SELECT *, {} AS window_start FROM ({events}) AS e) AS w GROUP BY window_key, window_start",
                floor("t", size)
            ),
            WindowSpec::Sliding { size, slide } => {
                let ks: Vec<String> = (0..self.definition.spec.windows_per_row()).map(|k| format!("({k})")).collect();
                format!(
                    "SELECT window_key, window_start, false AS late, {FIGURES} FROM (\
                     SELECT e.*, {} - v.k * {slide} AS window_start FROM ({events}) AS e CROSS JOIN (VALUES {}) AS v (k)) AS w \
                     WHERE window_start + {size} > t GROUP BY window_key, window_start",
                    floor("e.t", slide),
                    ks.join(", ")
                )
            }
            WindowSpec::Session { gap } => {
                // Rows are judged one by one before they are joined to their neighbours.
                let late = self.watermark.map_or_else(|| "false".to_owned(), |w| format!("t + {gap} <= {w}"));
                let over = "PARTITION BY window_key, late ORDER BY t";
                format!(
                    "SELECT window_key, min(t) AS window_start, late, {FIGURES} FROM (\
                     SELECT *, sum(begins) OVER ({over} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS session FROM (\
                     SELECT *, CASE WHEN t - lag(t) OVER ({over}) < {gap} THEN 0 ELSE 1 END AS begins FROM (\
                     SELECT *, {late} AS late FROM ({events}) AS e) AS l) AS b) AS s GROUP BY window_key, late, session"
                )
            }
        }
    }

    /// Runs it.
    pub(super) async fn partials(&self, context: &JobContext) -> Result<Partials> {
        let grouped = fetch(context.session(), &self.grouped()).await?;
        let mut partials = Vec::with_capacity(grouped.len());
        for row in 0..grouped.len() {
            let (Some(key), Some(start), Some(figures)) =
                (grouped.text(row, "window_key"), grouped.long(row, "window_start"), figures(&grouped, row))
            else {
                return Err(Error::internal("a window without key, beginning or figures"));
            };
            partials.push(Partial { key, start, figures, late: grouped.boolean(row, "late").unwrap_or(false) });
        }
        // A row is in several sliding windows, so they do not tell how many rows there were.
        let rows = match self.definition.spec {
            WindowSpec::Sliding { .. } => {
                fetch(context.session(), &format!("SELECT count(*) AS n FROM ({}) AS e", self.events())).await?.count(0, "n")
            }
            _ => partials.iter().map(|p| p.figures.events).sum(),
        };
        Ok(Partials { partials, rows })
    }

    /// Newest event and arrival of each partition that has news.
    pub(super) async fn partition_times(&self, context: &JobContext) -> Result<BTreeMap<i32, PartitionTime>> {
        let query = format!(
            "SELECT kafka_partition, max(kafka_offset) AS last_offset, max(event_timestamp) AS max_event, \
             max(coalesce(ingestion_timestamp, kafka_timestamp, ingested_at)) AS last_arrival FROM {BRONZE} WHERE {} GROUP BY kafka_partition",
            self.selected
        );
        Ok(partition_times(&fetch(context.session(), &query).await?))
    }
}

/// The greatest multiple of `length` that is not after `t`, also before the epoch.
fn floor(t: &str, length: i64) -> String {
    format!("({t} - (({t} % {length}) + {length}) % {length})")
}

pub(super) fn figures(rows: &Rows, row: usize) -> Option<Figures> {
    Some(Figures {
        events: rows.count(row, "events"),
        views: rows.count(row, "views"),
        clicks: rows.count(row, "clicks"),
        purchases: rows.count(row, "purchases"),
        revenue: rows.double(row, "revenue")?,
        first: rows.micros(row, "first_event")?,
        last: rows.micros(row, "last_event")?,
    })
}
