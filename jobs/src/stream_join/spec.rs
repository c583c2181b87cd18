//! What an interval join is, and when a row of its state can go. Pure. Lengths and moments in microseconds.

use serde::{Deserialize, Serialize};

/// Which rows come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Pairs
    Inner,
    /// Pairs, and once no match can come any more the left rows that had none
    LeftOuter,
}

/// A right row matches a left one with the same key whose time is within `[left + lower, left + upper]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub lower: i64,
    pub upper: i64,
    pub kind: Kind,
}

impl Interval {
    /// Left rows up to this time have no matches to come: right rows that are accepted from now on are after the watermark.
    pub(crate) fn left_done(&self, watermark: i64) -> i64 {
        watermark.saturating_sub(self.upper)
    }

    /// Right rows up to this time are of no more use. With outer rows they stay until the left rows that they may have matched have been
    /// judged.
    pub(crate) fn right_done(&self, watermark: i64) -> i64 {
        let last_left = watermark.saturating_add(self.lower);
        match self.kind {
            Kind::Inner => last_left,
            Kind::LeftOuter => last_left.min(last_left.saturating_sub(self.upper)),
        }
    }
}
