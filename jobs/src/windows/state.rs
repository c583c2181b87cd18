//! What a query keeps between batches: its definition, position and watermarks as a property of `window_state`, its open windows as rows.

use chainalytics_common::Result;
use chainalytics_lakehouse::Table;
use chainalytics_streaming::window::{OpenWindow, TopicWatermark, WindowSpec};
use datafusion::dataframe::DataFrame;
use serde::{Deserialize, Serialize};

use crate::JobContext;
use crate::rows::{as_long, booleans, doubles, frame, longs, moments, texts};
use crate::source::Position;
use crate::stateful::{Partitions, read_property, same_definition};

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
    partitions: Partitions,
    pub open: u64,
    /// Batches so far; zero in states of before they were counted.
    #[serde(default)]
    pub batch_id: i64,
    /// Whether the results have a row of each open window, as it is in the state.
    #[serde(default)]
    pub told: bool,
}

impl State {
    pub(super) fn new(batch_id: i64, definition: Definition, position: Position, watermarks: &TopicWatermark, open: u64, told: bool) -> Self {
        Self { definition, position, watermark: watermarks.watermark, partitions: Partitions::of(watermarks), open, batch_id, told }
    }

    /// The state of a query; `None` before its first batch.
    ///
    /// # Errors
    /// `InvalidArgument` if the name belongs to another definition; `ProgressLost` for a property that cannot be read.
    pub(super) fn of(table: &Table, key: &str, name: &str, definition: Definition) -> Result<Option<Self>> {
        let state: Option<Self> = read_property(table, key)?;
        if let Some(state) = &state {
            same_definition(&state.definition, &definition, |known| {
                format!("query {name} has state of other windows; take another name with --query, or the definition that it has: {known}")
            })?;
        }
        Ok(state)
    }

    pub(super) fn watermarks(&self) -> TopicWatermark {
        self.partitions.watermarks(self.watermark)
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
