use super::offsets::PartitionRanges;
use super::progress::Progress;

/// Whether a batch may become a snapshot of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchDecision {
    /// Its start is where the table stands.
    Commit,
    /// The table already holds everything that the batch covers.
    AlreadyCommitted,
    /// The table stands elsewhere: another writer was here, or the table is another one.
    Conflict(String),
}

/// Compares the ranges that a batch covers with where the table stands now.
///
/// `planned_on_fresh`: the batch was planned while the table had no progress of the topic.
pub fn decide(ranges: &PartitionRanges, planned_on_fresh: bool, committed: &Progress) -> BatchDecision {
    let ends = match committed {
        Progress::Fresh if planned_on_fresh => return BatchDecision::Commit,
        Progress::Fresh => {
            return BatchDecision::Conflict(
                "the table has no offsets any more: it was emptied or made anew".to_owned(),
            );
        }
        Progress::At(ends) => ends,
    };
    let mut mismatch = None;
    let mut all_covered = true;
    let mut starts_match = true;
    for (partition, range) in ranges {
        match ends.get(partition) {
            // A partition that the table has never seen begins where the plan says, unless another writer has
            // committed since a plan that knew no progress at all: then its start is that writer's to say.
            None => {
                all_covered = false;
                if planned_on_fresh {
                    starts_match = false;
                    mismatch.get_or_insert_with(|| {
                        format!("partition {partition} was planned on a table without offsets, which it has now")
                    });
                }
            }
            Some(end) => {
                if *end != range.start {
                    starts_match = false;
                    mismatch.get_or_insert_with(|| {
                        format!("partition {partition} starts at {}, the table stands at {end}", range.start)
                    });
                }
                if *end < range.end {
                    all_covered = false;
                }
            }
        }
    }
    if starts_match {
        BatchDecision::Commit
    } else if all_covered {
        BatchDecision::AlreadyCommitted
    } else {
        BatchDecision::Conflict(mismatch.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::offsets::{OffsetRange, PartitionEnds};
    use super::*;

    fn ranges(list: &[(i32, i64, i64)]) -> PartitionRanges {
        list.iter().map(|(partition, start, end)| (*partition, OffsetRange::new(*start, *end))).collect()
    }

    fn at(list: &[(i32, i64)]) -> Progress {
        Progress::At(list.iter().copied().collect::<PartitionEnds>())
    }

    #[test]
    fn commits_only_from_where_the_table_stands() {
        let batch = ranges(&[(0, 10, 20), (1, 5, 5)]);
        assert_eq!(decide(&batch, false, &at(&[(0, 10), (1, 5)])), BatchDecision::Commit);
        assert!(matches!(decide(&batch, false, &at(&[(0, 11), (1, 5)])), BatchDecision::Conflict(_)));
        assert!(matches!(decide(&batch, false, &at(&[(0, 10), (1, 4)])), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_replay_finds_itself_done() {
        let batch = ranges(&[(0, 10, 20), (1, 5, 5)]);
        assert_eq!(decide(&batch, false, &at(&[(0, 20), (1, 5)])), BatchDecision::AlreadyCommitted);
        assert_eq!(decide(&batch, false, &at(&[(0, 35), (1, 6)])), BatchDecision::AlreadyCommitted);
    }

    #[test]
    fn half_of_a_batch_is_a_conflict() {
        let batch = ranges(&[(0, 10, 20), (1, 5, 8)]);
        assert!(matches!(decide(&batch, false, &at(&[(0, 20), (1, 5)])), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_first_batch_commits_on_a_fresh_table_only() {
        let batch = ranges(&[(0, 0, 20)]);
        assert_eq!(decide(&batch, true, &Progress::Fresh), BatchDecision::Commit);
        assert!(matches!(decide(&batch, false, &Progress::Fresh), BatchDecision::Conflict(_)));
        assert!(matches!(decide(&batch, true, &at(&[(0, 7)])), BatchDecision::Conflict(_)));
        assert_eq!(decide(&batch, true, &at(&[(0, 20)])), BatchDecision::AlreadyCommitted);
        assert!(matches!(decide(&batch, true, &at(&[(1, 7)])), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_partition_created_later_joins() {
        let batch = ranges(&[(0, 10, 20), (3, 0, 4)]);
        assert_eq!(decide(&batch, false, &at(&[(0, 10)])), BatchDecision::Commit);
    }
}
