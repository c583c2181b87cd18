use std::collections::BTreeMap;

use super::{Figures, WindowSpec};

/// Rows of one key that belong to one window (tumbling, sliding) or follow each other in less than the gap (session).
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// Key.
    pub key: String,
    /// Beginning of the window; of a session its first event.
    pub start: i64,
    /// The rows' figures.
    pub figures: Figures,
    /// Rows whose own window had closed when they came: counted, not taken.
    pub late: bool,
}

/// A window with its end as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenWindow {
    /// Key.
    pub key: String,
    /// Beginning.
    pub start: i64,
    /// End, which does not belong to it; a session's moves with its last event.
    pub end: i64,
    /// Figures of its rows.
    pub figures: Figures,
}

/// The open windows of one query.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowOperator {
    spec: WindowSpec,
    watermark: Option<i64>,
    windows: BTreeMap<String, BTreeMap<i64, Figures>>,
    count: usize,
    dropped: u64,
}

impl WindowOperator {
    /// An operator that has these windows open; `watermark` is what it had come to.
    pub fn restore(spec: WindowSpec, watermark: Option<i64>, open: impl IntoIterator<Item = OpenWindow>) -> Self {
        let mut operator = Self { spec, watermark, windows: BTreeMap::new(), count: 0, dropped: 0 };
        for window in open {
            operator.insert(window.key, window.start, window.figures);
        }
        operator
    }

    /// Whether rows of a window with this end would come too late.
    pub fn is_late(&self, end: i64) -> bool {
        self.watermark.is_some_and(|watermark| end <= watermark)
    }

    /// Whether these rows would be dropped.
    pub fn drops(&self, partial: &Partial) -> bool {
        // A session's rows were judged one by one: a late one must not be carried in by its neighbours.
        partial.late || self.is_late(self.spec.end(partial.start, partial.figures.last))
    }

    /// Takes rows in. Those of windows that have closed are dropped.
    pub fn absorb(&mut self, partial: Partial) {
        if self.drops(&partial) {
            self.dropped += partial.figures.events;
            return;
        }
        self.insert(partial.key, partial.start, partial.figures);
    }

    fn insert(&mut self, key: String, start: i64, mut figures: Figures) {
        let windows = self.windows.entry(key).or_default();
        let WindowSpec::Session { gap } = self.spec else {
            match windows.entry(start) {
                std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().merge(&figures),
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(figures);
                    self.count += 1;
                }
            }
            return;
        };
        // Everything that it touches becomes one session: one before it that reaches it, and those that it reaches.
        if let Some((before, known)) = windows.range(..=figures.first).next_back().map(|(start, known)| (*start, *known))
            && figures.first < known.last + gap
        {
            windows.remove(&before);
            self.count -= 1;
            figures.merge(&known);
        }
        while let Some((after, known)) = windows.range(figures.first..).next().map(|(start, known)| (*start, *known))
            && known.first < figures.last + gap
        {
            windows.remove(&after);
            self.count -= 1;
            figures.merge(&known);
        }
        windows.insert(figures.first, figures);
        self.count += 1;
    }

    /// Moves the watermark and gives out the windows that it has passed. It never moves back.
    pub fn advance(&mut self, watermark: Option<i64>) -> Vec<OpenWindow> {
        self.watermark = self.watermark.max(watermark);
        let Some(watermark) = self.watermark else { return Vec::new() };
        let spec = self.spec;
        let mut closed = Vec::new();
        self.windows.retain(|key, windows| {
            windows.retain(|start, figures| {
                let end = spec.end(*start, figures.last);
                if end > watermark {
                    return true;
                }
                closed.push(OpenWindow { key: key.clone(), start: *start, end, figures: *figures });
                false
            });
            !windows.is_empty()
        });
        self.count -= closed.len();
        closed
    }

    /// The open windows, by key and beginning.
    pub fn open(&self) -> impl Iterator<Item = OpenWindow> + '_ {
        let spec = self.spec;
        self.windows.iter().flat_map(move |(key, windows)| {
            windows.iter().map(move |(start, figures)| OpenWindow {
                key: key.clone(),
                start: *start,
                end: spec.end(*start, figures.last),
                figures: *figures,
            })
        })
    }

    /// Open windows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no window is open.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where event time stands.
    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// Rows dropped since the operator was made, once for each window that they were too late for.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
