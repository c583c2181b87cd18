use super::offsets::{PartitionEnds, PartitionRanges};
use super::progress::{Progress, Standing};

/// What a plan was made on: the other half of the compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// The table had no progress of the topic.
    Fresh,
    /// Each range starts where the table stood.
    Ongoing,
    /// The table stood at these ends of a log that is no more (the topic was made anew, or cut off); the ranges start in the
    /// log that is there now.
    Restart(PartitionEnds),
}

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
/// `planned_id`: the topic's id that the table knew when the batch was planned; `batch_id`: the one that the batch read.
pub fn decide(ranges: &PartitionRanges, basis: &Basis, planned_id: Option<&str>, batch_id: Option<&str>, committed: &Standing) -> BatchDecision {
    let ends = match (&committed.progress, basis) {
        (Progress::Fresh, Basis::Fresh) => return BatchDecision::Commit,
        (Progress::Fresh, _) => {
            return BatchDecision::Conflict("the table has no offsets any more: it was emptied or made anew".to_owned());
        }
        (Progress::At(ends), _) => ends,
    };
    let now = committed.topic_id.as_deref();
    // Equal offsets of another incarnation of the topic are other records.
    let same_topic = now == planned_id;
    if let Basis::Restart(stood) = basis {
        return if same_topic && stood == ends {
            BatchDecision::Commit
        } else if now == batch_id && batch_id.is_some() && covers(ends, ranges) {
            BatchDecision::AlreadyCommitted
        } else {
            BatchDecision::Conflict("another writer has committed since the topic was found to be another".to_owned())
        };
    }
    if !same_topic && now.is_some() && now != batch_id {
        return BatchDecision::Conflict(format!("the table has gone on with another topic of the same name (id {})", now.unwrap_or_default()));
    }
    compare(ranges, matches!(basis, Basis::Fresh), ends)
}

fn compare(ranges: &PartitionRanges, planned_on_fresh: bool, ends: &PartitionEnds) -> BatchDecision {
    let mut mismatch = None;
    for (partition, range) in ranges {
        match ends.get(partition) {
            // A partition that the table has never seen begins where the plan says, unless another writer has
            // committed since a plan that knew no progress at all: then its start is that writer's to say.
            None if planned_on_fresh => {
                mismatch.get_or_insert_with(|| format!("partition {partition} was planned on a table without offsets, which it has now"));
            }
            Some(end) if *end != range.start => {
                mismatch.get_or_insert_with(|| format!("partition {partition} starts at {}, the table stands at {end}", range.start));
            }
            _ => {}
        }
    }
    // The commit's entry alone tells the topic's progress: a partition that it left out would be read again.
    if let Some((partition, end)) = ends.iter().find(|(partition, _)| !ranges.contains_key(partition)) {
        mismatch.get_or_insert_with(|| format!("partition {partition} is not in the batch, the table stands at {end} of it"));
    }
    match mismatch {
        None => BatchDecision::Commit,
        Some(_) if covers(ends, ranges) => BatchDecision::AlreadyCommitted,
        Some(reason) => BatchDecision::Conflict(reason),
    }
}

/// Whether everything in `ranges` lies before `ends`.
fn covers(ends: &PartitionEnds, ranges: &PartitionRanges) -> bool {
    ranges.iter().all(|(partition, range)| ends.get(partition).is_some_and(|end| *end >= range.end))
}

#[cfg(test)]
mod tests {
    use super::super::offsets::OffsetRange;
    use super::*;

    fn ranges(list: &[(i32, i64, i64)]) -> PartitionRanges {
        list.iter().map(|(partition, start, end)| (*partition, OffsetRange::new(*start, *end))).collect()
    }

    fn standing(list: &[(i32, i64)], id: Option<&str>) -> Standing {
        Standing { progress: Progress::At(list.iter().copied().collect()), topic_id: id.map(str::to_owned) }
    }

    fn ongoing(batch: &PartitionRanges, list: &[(i32, i64)]) -> BatchDecision {
        decide(batch, &Basis::Ongoing, Some("a"), Some("a"), &standing(list, Some("a")))
    }

    #[test]
    fn commits_only_from_where_the_table_stands() {
        let batch = ranges(&[(0, 10, 20), (1, 5, 5)]);
        assert_eq!(ongoing(&batch, &[(0, 10), (1, 5)]), BatchDecision::Commit);
        assert!(matches!(ongoing(&batch, &[(0, 11), (1, 5)]), BatchDecision::Conflict(_)));
        assert!(matches!(ongoing(&batch, &[(0, 10), (1, 4)]), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_replay_finds_itself_done() {
        let batch = ranges(&[(0, 10, 20), (1, 5, 5)]);
        assert_eq!(ongoing(&batch, &[(0, 20), (1, 5)]), BatchDecision::AlreadyCommitted);
        assert_eq!(ongoing(&batch, &[(0, 35), (1, 6)]), BatchDecision::AlreadyCommitted);
    }

    #[test]
    fn half_of_a_batch_is_a_conflict() {
        let batch = ranges(&[(0, 10, 20), (1, 5, 8)]);
        assert!(matches!(ongoing(&batch, &[(0, 20), (1, 5)]), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_first_batch_commits_on_a_fresh_table_only() {
        let batch = ranges(&[(0, 0, 20)]);
        let fresh = Standing { progress: Progress::Fresh, topic_id: None };
        let first = |committed: &Standing| decide(&batch, &Basis::Fresh, None, Some("a"), committed);
        assert_eq!(first(&fresh), BatchDecision::Commit);
        let later = decide(&batch, &Basis::Ongoing, None, Some("a"), &fresh);
        assert!(matches!(later, BatchDecision::Conflict(_)));
        assert!(matches!(first(&standing(&[(0, 7)], Some("a"))), BatchDecision::Conflict(_)));
        assert_eq!(first(&standing(&[(0, 20)], Some("a"))), BatchDecision::AlreadyCommitted);
        assert!(matches!(first(&standing(&[(1, 7)], Some("a"))), BatchDecision::Conflict(_)));
        assert!(matches!(first(&standing(&[(0, 20)], Some("b"))), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_partition_created_later_joins() {
        assert_eq!(ongoing(&ranges(&[(0, 10, 20), (3, 0, 4)]), &[(0, 10)]), BatchDecision::Commit);
    }

    #[test]
    fn a_batch_that_leaves_a_partition_out_would_make_the_table_forget_it() {
        let planned_before_it_came = ranges(&[(0, 10, 20)]);
        assert!(matches!(ongoing(&planned_before_it_came, &[(0, 10), (3, 4)]), BatchDecision::Conflict(_)));
        let first = ranges(&[(0, 3, 3)]);
        let decision = decide(&first, &Basis::Fresh, None, Some("a"), &standing(&[(0, 3), (2, 16)], Some("a")));
        assert_ne!(decision, BatchDecision::Commit);
    }

    #[test]
    fn an_id_learned_late_changes_nothing() {
        let batch = ranges(&[(0, 10, 20)]);
        let decision = |id| decide(&batch, &Basis::Ongoing, None, Some("a"), &standing(&[(0, 10)], id));
        assert_eq!(decision(None), BatchDecision::Commit);
        assert_eq!(decision(Some("a")), BatchDecision::Commit);
        assert!(matches!(decision(Some("b")), BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_zombie_of_the_old_topic_never_commits_at_equal_offsets() {
        let zombie = ranges(&[(0, 20, 30)]);
        let now = standing(&[(0, 20)], Some("new"));
        let decision = decide(&zombie, &Basis::Ongoing, Some("old"), Some("old"), &now);
        assert!(matches!(decision, BatchDecision::Conflict(_)));
    }

    #[test]
    fn a_restart_replaces_exactly_what_it_was_planned_on() {
        let batch = ranges(&[(0, 0, 20)]);
        let basis = Basis::Restart([(0, 500), (1, 3)].into());
        let decision = |list: &[(i32, i64)], id| decide(&batch, &basis, Some("old"), Some("new"), &standing(list, id));
        assert_eq!(decision(&[(0, 500), (1, 3)], Some("old")), BatchDecision::Commit);
        assert!(matches!(decision(&[(0, 501), (1, 3)], Some("old")), BatchDecision::Conflict(_)));
        assert_eq!(decision(&[(0, 20)], Some("new")), BatchDecision::AlreadyCommitted);
        assert!(matches!(decision(&[(0, 10)], Some("new")), BatchDecision::Conflict(_)));
        assert!(matches!(decision(&[(0, 500), (1, 3)], Some("third")), BatchDecision::Conflict(_)));
    }
}
