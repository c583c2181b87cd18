//! What a query keeps between batches: its definition, position and watermarks as a property of `window_state`, its open windows as rows.

use std::collections::BTreeMap;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::Table;
use chainalytics_streaming::window::{OpenWindow, PartitionTime, PartitionWatermark, TopicWatermark, WindowSpec};
use datafusion::dataframe::DataFrame;
use serde::{Deserialize, Serialize};

use crate::JobContext;
use crate::rows::{as_long, booleans, doubles, frame, longs, moments, texts};
use crate::source::Position;

use super::Key;

/// What a query computes. It cannot change under the same name: the state would mean something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub spec: WindowSpec,
    pub key: Key,
    /// Microseconds.
    pub watermark_delay: i64,
    pub deduplicate: bool,
}

impl Definition {
    pub(super) fn default_name(&self) -> String {
        let seconds = |micros: i64| format!("{}s", micros / 1_000_000);
        let lengths = match self.spec {
            WindowSpec::Tumbling { size } => seconds(size),
            WindowSpec::Sliding { size, slide } => format!("{}_{}", seconds(size), seconds(slide)),
            WindowSpec::Session { gap } => seconds(gap),
        };
        let key = match self.key {
            Key::UserId => "user_id",
            Key::ProductId => "product_id",
            Key::EventType => "event_type",
            Key::All => "all",
        };
        format!("{}_{key}_{lengths}", self.spec.kind())
    }
}

/// State as the property has it. Moments in microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    definition: Definition,
    pub position: Position,
    watermark: Option<i64>,
    /// By partition: next offset, greatest event time, last arrival, watermark.
    partitions: BTreeMap<i32, (i64, i64, i64, i64)>,
    pub open: u64,
    /// Batches so far; zero in states of before they were counted.
    #[serde(default)]
    pub batch_id: i64,
}

impl State {
    pub(super) fn new(batch_id: i64, definition: Definition, position: Position, watermarks: &TopicWatermark, open: u64) -> Self {
        let partitions =
            watermarks.partitions.iter().map(|(p, w)| (*p, (w.time.next_offset, w.time.max_event, w.time.last_arrival, w.watermark))).collect();
        Self { definition, position, watermark: watermarks.watermark, partitions, open, batch_id }
    }

    /// The state of a query; `None` before its first batch.
    ///
    /// # Errors
    /// `InvalidArgument` if the name belongs to another definition; `ProgressLost` for a property that cannot be read.
    pub(super) fn of(table: &Table, key: &str, name: &str, definition: Definition) -> Result<Option<Self>> {
        let Some(text) = table.property(key) else { return Ok(None) };
        let state: Self = serde_json::from_str(text)
            .map_err(|e| Error::new(ErrorCode::ProgressLost, format!("property {key} of table {} cannot be read: {e}", table.ident())))?;
        if state.definition != definition {
            let message = format!("query {name} has state of other windows; take another name with --query, or the definition that it has: {text}");
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        Ok(Some(state))
    }

    pub(super) fn watermarks(&self) -> TopicWatermark {
        let watermark = |(next_offset, max_event, last_arrival, watermark): (i64, i64, i64, i64)| PartitionWatermark {
            time: PartitionTime { next_offset, max_event, last_arrival },
            watermark,
            // Judged anew with every batch.
            idle: false,
        };
        TopicWatermark { partitions: self.partitions.iter().map(|(p, w)| (*p, watermark(*w))).collect(), watermark: self.watermark }
    }

    pub(super) fn to_json(&self) -> String {
        // Numbers and names: serialising cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Rows of windows: for the state, or with kind and `closed` for the results.
pub(super) fn windows_frame(context: &JobContext, query: &str, windows: &[OpenWindow], result: Option<(WindowSpec, bool)>) -> Result<DataFrame> {
    let count = |pick: fn(&OpenWindow) -> u64| longs(windows.iter().map(|w| Some(as_long(pick(w)))));
    let moment = |pick: fn(&OpenWindow) -> i64| moments(windows.iter().map(|w| Some(pick(w))));
    let mut columns = vec![
        ("query", texts(windows.iter().map(|_| Some(query)))),
        ("window_key", texts(windows.iter().map(|w| Some(w.key.as_str())))),
        ("window_start", moment(|w| w.start)),
        ("window_end", moment(|w| w.end)),
        ("events", count(|w| w.figures.events)),
        ("views", count(|w| w.figures.views)),
        ("clicks", count(|w| w.figures.clicks)),
        ("purchases", count(|w| w.figures.purchases)),
        ("revenue", doubles(windows.iter().map(|w| Some(w.figures.revenue)))),
        ("first_event", moment(|w| w.figures.first)),
        ("last_event", moment(|w| w.figures.last)),
    ];
    if let Some((spec, closed)) = result {
        columns.push(("window_type", texts(windows.iter().map(|_| Some(spec.kind())))));
        columns.push(("closed", booleans(windows.iter().map(|_| Some(closed)))));
    }
    frame(context.session(), columns)
}
