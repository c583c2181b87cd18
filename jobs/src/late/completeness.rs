//! Completeness of a topic by offsets: every log position that a batch has passed must be a bronze row or a dead letter. Pure.
//!
//! Positions count in the hour in which their batch was stored: a batch covers a range of each partition and is stored in one moment, so
//! that hours divide each partition's log without overlap. What a batch covered, and how many of its positions hold no row (control
//! records, aborted and compacted ones, skipped records), it says itself; those are not expected. Where it does not (rows that came
//! otherwise, snapshots that have expired), the rows' own positions tell, and a gap belongs to the hour that went past it.

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

/// What a stream committed of one partition in one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    pub hour: i64,
    /// Positions that should be rows or dead letters.
    pub expected: u64,
}

/// What is known of the log beside the rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Next offset of each partition before the new rows; a partition that is new begins with its first row, since Kafka's retention may
    /// have taken what was before.
    pub start: BTreeMap<i32, i64>,
    /// Of partitions whose batches are all known.
    pub covered: BTreeMap<i32, Vec<Covered>>,
    /// Of the other partitions: positions that hold no row.
    pub absent: BTreeMap<i32, u64>,
}

/// What new rows add to each hour.
pub(crate) fn by_hour(known: &Known, stored: &[Stored]) -> BTreeMap<i64, HourCount> {
    let mut hours: BTreeMap<i64, HourCount> = BTreeMap::new();
    for s in stored {
        let hour = hours.entry(s.hour).or_default();
        if s.dead_letters {
            hour.dead_letters += s.rows;
        } else {
            hour.arrived += s.rows;
        }
    }
    for covered in known.covered.values().flatten() {
        hours.entry(covered.hour).or_default().expected += covered.expected;
    }
    let mut partitions: BTreeMap<i32, Vec<&Stored>> = BTreeMap::new();
    for s in stored.iter().filter(|s| !known.covered.contains_key(&s.partition)) {
        partitions.entry(s.partition).or_default().push(s);
    }
    for (partition, mut rows) in partitions {
        rows.sort_by_key(|s| (s.hour, s.last_offset));
        let mut absent = known.absent.get(&partition).copied().unwrap_or(0);
        // The least first offset of a new partition may be a dead letter's.
        let first = rows.iter().map(|s| s.first_offset).min().unwrap_or(0);
        let mut next = known.start.get(&partition).copied().unwrap_or(first);
        let mut at = 0;
        while let Some(hour) = rows.get(at).map(|s| s.hour) {
            let of_hour = rows[at..].iter().take_while(|s| s.hour == hour);
            let (count, last) = of_hour.fold((0, next - 1), |(n, last), s| (n + s.rows, last.max(s.last_offset)));
            at += rows[at..].iter().take_while(|s| s.hour == hour).count();
            let passed = u64::try_from(last + 1 - next).unwrap_or(0);
            let holes = passed.saturating_sub(count).min(absent);
            absent -= holes;
            hours.entry(hour).or_default().expected += passed - holes;
            next = last + 1;
        }
    }
    hours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(entries: &[(i32, i64)]) -> Known {
        Known { start: entries.iter().copied().collect(), ..Known::default() }
    }

    fn stored(partition: i32, hour: i64, rows: u64, first: i64, last: i64, dead_letters: bool) -> Stored {
        Stored { partition, hour, rows, first_offset: first, last_offset: last, dead_letters }
    }

    #[test]
    fn dead_letters_are_not_missing() {
        let hours = by_hour(&Known::default(), &[stored(0, 1, 8, 1, 9, false), stored(0, 1, 2, 0, 5, true)]);
        assert_eq!(hours[&1], HourCount { expected: 10, arrived: 8, dead_letters: 2 });
        assert_eq!((hours[&1].missing(), hours[&1].completeness()), (0, 1.0));
    }

    #[test]
    fn a_gap_belongs_to_the_batch_that_went_past_it() {
        let start = starts(&[(0, 10)]);
        let hours = by_hour(&start, &[stored(0, 1, 5, 10, 14, false), stored(0, 2, 3, 17, 19, false)]);
        assert_eq!((hours[&1].missing(), hours[&2].missing()), (0, 2));
        assert_eq!(hours[&2].completeness(), 0.6);
    }

    #[test]
    fn partitions_count_for_themselves() {
        let hours = by_hour(&starts(&[(1, 100)]), &[stored(0, 1, 3, 7, 9, false), stored(1, 1, 1, 101, 101, false)]);
        assert_eq!(hours[&1], HourCount { expected: 5, arrived: 4, dead_letters: 0 });
    }

    #[test]
    fn a_trailing_dead_letter_moves_on() {
        let hours = by_hour(&starts(&[(0, 0)]), &[stored(0, 1, 3, 0, 2, false), stored(0, 1, 1, 3, 3, true), stored(0, 2, 1, 4, 4, false)]);
        assert_eq!((hours[&1].missing(), hours[&2].missing()), (0, 0));
    }

    #[test]
    fn hours_can_be_added_in_any_portions() {
        let all = [stored(0, 1, 2, 0, 2, false), stored(0, 1, 1, 4, 4, false), stored(0, 2, 2, 5, 6, false)];
        let whole = by_hour(&starts(&[(0, 0)]), &all);
        let mut parts = by_hour(&starts(&[(0, 0)]), &all[..1]);
        for (hour, count) in by_hour(&starts(&[(0, 3)]), &all[1..]) {
            parts.entry(hour).or_default().add(&count);
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn positions_without_a_row_are_not_expected() {
        let rows = [stored(0, 1, 5, 10, 14, false), stored(0, 2, 3, 17, 19, false)];
        let mut known = starts(&[(0, 10)]);
        known.absent.insert(0, 2);
        assert!(by_hour(&known, &rows).values().all(|hour| hour.missing() == 0));
        // Batches that say so themselves: one of two positions is missing, the last batch has only holes.
        let covered = |hour, expected| Covered { hour, expected };
        known.covered.insert(0, vec![covered(1, 5), covered(2, 4), covered(3, 0)]);
        let hours = by_hour(&known, &rows);
        assert_eq!((hours[&1].missing(), hours[&2].missing(), hours[&3].expected), (0, 1, 0));
    }
}
