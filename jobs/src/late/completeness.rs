//! Completeness of a topic by offsets: every log position that a batch has passed must be a bronze row or a dead letter. Pure.
//!
//! Positions count in the hour in which their batch was stored: a batch covers a range of each partition and is stored in one moment, so
//! that hours divide each partition's log without overlap. A position that is missing belongs to the batch that went past it. Where a
//! producer writes in transactions, the log has positions that hold no record; they count as missing here.

use std::collections::BTreeMap;

/// Rows of one partition that were stored in one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub partition: i32,
    /// Beginning of the hour, microseconds since the epoch.
    pub hour: i64,
    /// Different positions.
    pub rows: u64,
    pub first_offset: i64,
    pub last_offset: i64,
    pub dead_letters: bool,
}

/// One hour of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HourCount {
    pub expected: u64,
    pub arrived: u64,
    pub dead_letters: u64,
}

impl HourCount {
    pub(crate) fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.arrived + self.dead_letters)
    }

    /// Share of what was expected; 1 where nothing was.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn completeness(&self) -> f64 {
        if self.expected == 0 { 1.0 } else { ((self.arrived + self.dead_letters) as f64 / self.expected as f64).min(1.0) }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.arrived += other.arrived;
        self.dead_letters += other.dead_letters;
    }
}

/// What new rows add to each hour. `start`: next offset of each partition before them; a partition that is new begins with its first row,
/// since Kafka's retention may have taken what was before.
pub(crate) fn by_hour(start: &BTreeMap<i32, i64>, stored: &[Stored]) -> BTreeMap<i64, HourCount> {
    let mut ordered: Vec<&Stored> = stored.iter().collect();
    ordered.sort_by_key(|s| (s.partition, s.hour, s.last_offset));
    let mut hours: BTreeMap<i64, HourCount> = BTreeMap::new();
    let mut at: BTreeMap<i32, i64> = start.clone();
    for s in &ordered {
        // The least first offset of a new partition may be a dead letter's.
        at.entry(s.partition)
            .or_insert_with(|| ordered.iter().filter(|o| o.partition == s.partition).map(|o| o.first_offset).min().unwrap_or(s.first_offset));
    }
    for s in ordered {
        let hour = hours.entry(s.hour).or_default();
        if s.dead_letters {
            hour.dead_letters += s.rows;
        } else {
            hour.arrived += s.rows;
        }
        if let Some(next) = at.get_mut(&s.partition) {
            hour.expected += u64::try_from(s.last_offset + 1 - *next).unwrap_or(0);
            *next = (*next).max(s.last_offset + 1);
        }
    }
    hours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(partition: i32, hour: i64, rows: u64, first: i64, last: i64, dead_letters: bool) -> Stored {
        Stored { partition, hour, rows, first_offset: first, last_offset: last, dead_letters }
    }

    #[test]
    fn dead_letters_are_not_missing() {
        let hours = by_hour(&BTreeMap::new(), &[stored(0, 1, 8, 1, 9, false), stored(0, 1, 2, 0, 5, true)]);
        assert_eq!(hours[&1], HourCount { expected: 10, arrived: 8, dead_letters: 2 });
        assert_eq!((hours[&1].missing(), hours[&1].completeness()), (0, 1.0));
    }

    #[test]
    fn a_gap_belongs_to_the_batch_that_went_past_it() {
        let start = BTreeMap::from([(0, 10)]);
        let hours = by_hour(&start, &[stored(0, 1, 5, 10, 14, false), stored(0, 2, 3, 17, 19, false)]);
        assert_eq!((hours[&1].missing(), hours[&2].missing()), (0, 2));
        assert_eq!(hours[&2].completeness(), 0.6);
    }

    #[test]
    fn partitions_count_for_themselves() {
        let hours = by_hour(&BTreeMap::from([(1, 100)]), &[stored(0, 1, 3, 7, 9, false), stored(1, 1, 1, 101, 101, false)]);
        assert_eq!(hours[&1], HourCount { expected: 5, arrived: 4, dead_letters: 0 });
    }

    #[test]
    fn a_trailing_dead_letter_moves_on() {
        let hours = by_hour(&BTreeMap::from([(0, 0)]), &[stored(0, 1, 3, 0, 2, false), stored(0, 1, 1, 3, 3, true), stored(0, 2, 1, 4, 4, false)]);
        assert_eq!((hours[&1].missing(), hours[&2].missing()), (0, 0));
    }

    #[test]
    fn hours_can_be_added_in_any_portions() {
        let all = [stored(0, 1, 2, 0, 2, false), stored(0, 1, 1, 4, 4, false), stored(0, 2, 2, 5, 6, false)];
        let whole = by_hour(&BTreeMap::from([(0, 0)]), &all);
        let mut parts = by_hour(&BTreeMap::from([(0, 0)]), &all[..1]);
        for (hour, count) in by_hour(&BTreeMap::from([(0, 3)]), &all[1..]) {
            parts.entry(hour).or_default().add(&count);
        }
        assert_eq!(whole, parts);
    }
}
