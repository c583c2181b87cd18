use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Offsets of one partition that a batch covers: `start` is the first one, `end` the first one after it.
///
/// JSON: `[start,end]`. The range counts log positions, not records: aborted, compacted and control records leave holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(i64, i64)", into = "(i64, i64)")]
pub struct OffsetRange {
    /// First offset.
    pub start: i64,
    /// First offset that is not covered any more.
    pub end: i64,
}

impl OffsetRange {
    /// `[start, end)`.
    pub fn new(start: i64, end: i64) -> Self {
        Self { start, end }
    }

    /// Log positions in the range.
    pub fn len(&self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

impl From<(i64, i64)> for OffsetRange {
    fn from((start, end): (i64, i64)) -> Self {
        Self { start, end }
    }
}

impl From<OffsetRange> for (i64, i64) {
    fn from(range: OffsetRange) -> Self {
        (range.start, range.end)
    }
}

/// Ranges of one topic by partition.
pub type PartitionRanges = BTreeMap<i32, OffsetRange>;

/// Next offset to read of one topic by partition.
pub type PartitionEnds = BTreeMap<i32, i64>;

/// What a snapshot's summary says under [`super::OFFSETS_KEY`]: `{"topic":{"0":[start,end]}}`.
///
/// Each commit names every partition of its topics that it knows, those without news as `[end,end]`, so that the newest
/// entry alone tells a topic's whole progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchOffsets(pub BTreeMap<String, PartitionRanges>);

impl BatchOffsets {
    /// The summary's value.
    pub fn to_json(&self) -> String {
        // Maps of integers: serialising cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a summary's value.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// What the table property says under [`super::OFFSETS_PROPERTY`]: `{"topic":{"0":end}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndOffsets(pub BTreeMap<String, PartitionEnds>);

impl EndOffsets {
    /// The property's value.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a property's value.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn summary_value_is_the_documented_json() {
        let mut offsets = BatchOffsets::default();
        offsets.0.insert("user-events".into(), PartitionRanges::from([(0, OffsetRange::new(0, 10)), (1, OffsetRange::new(5, 5))]));
        let text = offsets.to_json();
        assert_eq!(text, r#"{"user-events":{"0":[0,10],"1":[5,5]}}"#);
        assert_eq!(BatchOffsets::from_json(&text).unwrap(), offsets);
    }

    #[test]
    fn property_value_is_the_documented_json() {
        let mut ends = EndOffsets::default();
        ends.0.insert("t".into(), PartitionEnds::from([(0, 10), (12, 7)]));
        let text = ends.to_json();
        assert_eq!(text, r#"{"t":{"0":10,"12":7}}"#);
        assert_eq!(EndOffsets::from_json(&text).unwrap(), ends);
    }

    #[test]
    fn a_reversed_range_is_empty() {
        assert!(OffsetRange::new(5, 3).is_empty());
        assert_eq!(OffsetRange::new(5, 3).len(), 0);
        assert_eq!(OffsetRange::new(3, 5).len(), 2);
    }
}
