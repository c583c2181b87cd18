use serde::{Deserialize, Serialize};

use super::offsets::OffsetRange;
use super::plan::BatchPlan;

/// One piece of work: a range of one partition that one reader reads from start to end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unit {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub start: i64,
    /// First offset after the unit.
    pub end: i64,
}

impl Unit {
    /// Log positions.
    pub fn len(&self) -> u64 {
        OffsetRange::new(self.start, self.end).len()
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// Cuts a batch into at most `groups_max` groups of equal size; each group is one task.
///
/// Ranges are laid end to end and cut at the groups' borders, so that three partitions keep two cores equally busy. No
/// group gets fewer than `unit_len_min` positions (but the last, and if there are not more), as each unit costs a
/// connection and a read-ahead.
pub fn split_units(plan: &BatchPlan, groups_max: usize, unit_len_min: u64) -> Vec<Vec<Unit>> {
    let total = plan.len();
    if total == 0 {
        return Vec::new();
    }
    let groups_max = u64::try_from(groups_max.max(1)).unwrap_or(u64::MAX);
    let groups = total.div_ceil(unit_len_min.max(1)).min(groups_max).max(1);
    let group_len = total.div_ceil(groups);

    let mut result = Vec::new();
    let mut group = Vec::new();
    let mut room = group_len;
    for topic in &plan.topics {
        for (&partition, range) in &topic.read {
            let mut start = range.start;
            while start < range.end {
                let take = OffsetRange::new(start, range.end).len().min(room);
                let end = start.saturating_add(i64::try_from(take).unwrap_or(i64::MAX));
                group.push(Unit { topic: topic.topic.clone(), partition, start, end });
                start = end;
                room -= take;
                if room == 0 {
                    result.push(std::mem::take(&mut group));
                    room = group_len;
                }
            }
        }
    }
    if !group.is_empty() {
        result.push(group);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::decide::Basis;
    use super::super::offsets::PartitionRanges;
    use super::super::plan::TopicPlan;
    use super::*;

    fn plan(ranges: &[(i32, i64, i64)]) -> BatchPlan {
        let read: PartitionRanges = ranges.iter().map(|(p, start, end)| (*p, OffsetRange::new(*start, *end))).collect();
        BatchPlan {
            topics: vec![TopicPlan {
                topic: "t".into(),
                basis: Basis::Ongoing,
                planned_id: None,
                topic_id: None,
                commit: read.clone(),
                read,
                lost: PartitionRanges::new(),
                lag: BTreeMap::new(),
            }],
        }
    }

    #[test]
    fn groups_are_equal_and_cover_every_position_once() {
        for groups in 1..9 {
            let plan = plan(&[(0, 10, 1010), (1, 0, 333), (2, 5, 700)]);
            let split = split_units(&plan, groups, 1);
            assert_eq!(split.len(), groups);
            let sizes: Vec<u64> = split.iter().map(|group| group.iter().map(Unit::len).sum()).collect();
            assert_eq!(sizes.iter().sum::<u64>(), plan.len());
            assert!(sizes.iter().all(|size| *size <= plan.len().div_ceil(groups as u64)));
            let mut next = BTreeMap::from([(0, 10), (1, 0), (2, 5)]);
            for unit in split.iter().flatten() {
                assert_eq!(next.insert(unit.partition, unit.end), Some(unit.start));
            }
            assert_eq!(next, BTreeMap::from([(0, 1010), (1, 333), (2, 700)]));
        }
    }

    #[test]
    fn small_batches_stay_together() {
        assert_eq!(split_units(&plan(&[(0, 0, 50), (1, 0, 50)]), 8, 1000).len(), 1);
        assert_eq!(split_units(&plan(&[(0, 0, 5000)]), 8, 1000).len(), 5);
        assert!(split_units(&plan(&[]), 8, 1000).is_empty());
    }
}
