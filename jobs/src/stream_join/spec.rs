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
    /// Pairs, and once no match can come any more the right rows that had none
    RightOuter,
    /// Pairs, and once no match can come any more the rows of both sides that had none
    FullOuter,
}

impl Kind {
    /// Whether left rows come out that had no match.
    pub(crate) fn keeps_left(self) -> bool {
        matches!(self, Self::LeftOuter | Self::FullOuter)
    }

    /// Whether right rows come out that had no match.
    pub(crate) fn keeps_right(self) -> bool {
        matches!(self, Self::RightOuter | Self::FullOuter)
    }
}

/// A right row matches a left one with the same key whose time is within `[left + lower, left + upper]`.
///
/// A side's rows are *judged* once nothing that is accepted from now on, after the watermark, can match them: then those that never had a
/// match come out of an outer join. They *go* then too, or later if rows of the other side are still to be judged against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub lower: i64,
    pub upper: i64,
    pub kind: Kind,
}

impl Interval {
    /// Left rows up to this time are judged: the right rows that they match are not after the watermark.
    pub(crate) fn left_judged(&self, watermark: i64) -> i64 {
        watermark.saturating_sub(self.upper)
    }

    /// Right rows up to this time are judged.
    pub(crate) fn right_judged(&self, watermark: i64) -> i64 {
        watermark.saturating_add(self.lower)
    }

    /// Left rows up to this time go. Right rows that are not judged yet match left ones from `right - upper` on.
    pub(crate) fn left_gone(&self, watermark: i64) -> i64 {
        let judged = self.left_judged(watermark);
        if self.kind.keeps_right() { judged.min(self.right_judged(watermark).saturating_sub(self.upper)) } else { judged }
    }

    /// Right rows up to this time go. Left rows that are not judged yet match right ones from `left + lower` on.
    pub(crate) fn right_gone(&self, watermark: i64) -> i64 {
        let judged = self.right_judged(watermark);
        if self.kind.keeps_left() { judged.min(self.left_judged(watermark).saturating_add(self.lower)) } else { judged }
    }
}
