use std::collections::BTreeMap;

use super::offsets::{OffsetRange, PartitionEnds, PartitionRanges};
use super::progress::Progress;

/// Ends of one partition's log: `low` the first offset kept, `high` the first one after the last that may be read
/// (under `read_committed` the last stable offset).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset that the broker still has.
    pub low: i64,
    /// End of what may be read.
    pub high: i64,
}

/// One topic as a batch's planner sees it.
#[derive(Debug, Clone)]
pub struct TopicState {
    /// Its name.
    pub topic: String,
    /// Where the table stands.
    pub progress: Progress,
    /// Where a fresh table starts, by partition; its low watermark where missing. Ignored once there is progress.
    pub first_offsets: PartitionEnds,
    /// Watermarks of each partition that exists.
    pub watermarks: BTreeMap<i32, Watermarks>,
    /// Offsets not to pass (available-now: the high watermarks at start). A partition that is missing is not read.
    pub ceilings: Option<PartitionEnds>,
    /// Average size of a record, bytes, as the last batches showed it.
    pub record_bytes_avg: u64,
}

/// What one batch may take.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Log positions.
    pub rows_max: u64,
    /// Estimated bytes of keys and values.
    pub bytes_max: u64,
    /// Whether offsets that retention removed before they were read stop the stream.
    pub fail_on_data_loss: bool,
}

/// One topic's part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub topic: String,
    /// Whether the table had no progress when this was planned.
    pub fresh: bool,
    /// What the commit records: every known partition, from where the table stands.
    pub commit: PartitionRanges,
    /// What is read: `commit` without empty ranges and without what the broker has lost.
    pub read: PartitionRanges,
    /// Offsets that retention removed before they were read.
    pub lost: PartitionRanges,
    /// Positions left in the log after this batch, by partition.
    pub lag: BTreeMap<i32, u64>,
}

impl TopicPlan {
    /// Log positions to read.
    pub fn len(&self) -> u64 {
        self.read.values().map(OffsetRange::len).sum()
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    /// Whether the table needs a commit: there are rows, loss to step over, or a first position to hold on to.
    pub fn needs_commit(&self) -> bool {
        let moves = self.commit.values().any(|range| !range.is_empty());
        let first_position = self.fresh && self.commit.values().any(|range| range.start > 0);
        moves || first_position
    }

    /// Where the table stands after the commit.
    pub fn ends(&self) -> PartitionEnds {
        self.commit.iter().map(|(partition, range)| (*partition, range.end)).collect()
    }
}

/// One batch over all topics of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchPlan {
    /// One entry per topic, in the order given.
    pub topics: Vec<TopicPlan>,
}

impl BatchPlan {
    /// Log positions to read.
    pub fn len(&self) -> u64 {
        self.topics.iter().map(TopicPlan::len).sum()
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.topics.iter().all(TopicPlan::is_empty)
    }

    /// Whether any table needs a commit.
    pub fn needs_commit(&self) -> bool {
        self.topics.iter().any(TopicPlan::needs_commit)
    }
}

/// Why no batch can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Retention was faster than the stream.
    #[error(
        "topic '{topic}' partition {partition}: offsets {from} to {to} (excluded) were removed by the broker's retention \
         before they were read"
    )]
    DataLoss {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// First offset that is lost.
        from: i64,
        /// First offset that is still there.
        to: i64,
    },
    /// The log is shorter than what was read of it.
    #[error(
        "topic '{topic}' partition {partition}: the table stands at offset {committed}, the log ends at {high}: the topic \
         was deleted and made anew, or truncated"
    )]
    BeyondEnd {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where the table stands.
        committed: i64,
        /// End of the log.
        high: i64,
    },
    /// A partition that the table has read of is gone.
    #[error("topic '{topic}' has no partition {partition} any more, the table stands at offset {committed} of it")]
    PartitionGone {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where the table stands.
        committed: i64,
    },
}

/// Chooses the offsets of the next batch: everything up to the watermarks, cut down in proportion to each partition's
/// backlog where the limits are lower.
///
/// # Errors
/// See [`PlanError`].
pub fn plan_batch(topics: &[TopicState], limits: &BatchLimits) -> Result<BatchPlan, PlanError> {
    let mut wanted = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        for want in wanted_of(topic, limits.fail_on_data_loss)? {
            wanted.push((index, want));
        }
    }
    let backlog: Vec<(u64, u64)> =
        wanted.iter().map(|(index, want)| (want.backlog(), topics[*index].record_bytes_avg.max(1))).collect();
    let takes = allot(&backlog, limits);

    let mut plan = BatchPlan {
        topics: topics
            .iter()
            .map(|topic| TopicPlan {
                topic: topic.topic.clone(),
                fresh: topic.progress == Progress::Fresh,
                commit: PartitionRanges::new(),
                read: PartitionRanges::new(),
                lost: PartitionRanges::new(),
                lag: BTreeMap::new(),
            })
            .collect(),
    };
    for ((index, want), take) in wanted.into_iter().zip(takes) {
        let topic = &mut plan.topics[index];
        let end = want.first.saturating_add(i64::try_from(take).unwrap_or(i64::MAX)).min(want.end.max(want.first));
        topic.commit.insert(want.partition, OffsetRange::new(want.committed, end));
        if end > want.first {
            topic.read.insert(want.partition, OffsetRange::new(want.first, end));
        }
        if want.first > want.committed {
            topic.lost.insert(want.partition, OffsetRange::new(want.committed, want.first));
        }
        topic.lag.insert(want.partition, OffsetRange::new(end, want.high).len());
    }
    Ok(plan)
}

/// What one partition has to offer.
struct Want {
    partition: i32,
    /// Where the table stands.
    committed: i64,
    /// First offset to read; later than `committed` only after loss.
    first: i64,
    /// First offset not to read.
    end: i64,
    high: i64,
}

impl Want {
    fn backlog(&self) -> u64 {
        OffsetRange::new(self.first, self.end).len()
    }
}

fn wanted_of(topic: &TopicState, fail_on_data_loss: bool) -> Result<Vec<Want>, PlanError> {
    if let Progress::At(ends) = &topic.progress {
        for (partition, committed) in ends {
            if !topic.watermarks.contains_key(partition) {
                return Err(PlanError::PartitionGone {
                    topic: topic.topic.clone(),
                    partition: *partition,
                    committed: *committed,
                });
            }
        }
    }
    let mut wanted = Vec::with_capacity(topic.watermarks.len());
    for (&partition, marks) in &topic.watermarks {
        let fresh = topic.progress == Progress::Fresh;
        let committed = match topic.progress.end(partition) {
            Some(end) => end,
            None if fresh => topic.first_offsets.get(&partition).copied().unwrap_or(marks.low),
            // Created after the stream began: all of it is news.
            None => 0,
        };
        if committed > marks.high {
            return Err(PlanError::BeyondEnd { topic: topic.topic.clone(), partition, committed, high: marks.high });
        }
        let first = committed.max(marks.low);
        if first > committed && fail_on_data_loss {
            return Err(PlanError::DataLoss { topic: topic.topic.clone(), partition, from: committed, to: first });
        }
        let end = match &topic.ceilings {
            None => marks.high,
            Some(ceilings) => ceilings.get(&partition).copied().unwrap_or(first).min(marks.high),
        };
        wanted.push(Want { partition, committed, first, end, high: marks.high });
    }
    Ok(wanted)
}

/// Positions to take of each backlog: all, or a share in proportion to it. `backlog`: positions and bytes per record.
fn allot(backlog: &[(u64, u64)], limits: &BatchLimits) -> Vec<u64> {
    let rows: u128 = backlog.iter().map(|(rows, _)| u128::from(*rows)).sum();
    let bytes: u128 = backlog.iter().map(|(rows, each)| u128::from(*rows) * u128::from(*each)).sum();
    if rows == 0 {
        return vec![0; backlog.len()];
    }
    let mut allowed = rows.min(u128::from(limits.rows_max.max(1)));
    if bytes > u128::from(limits.bytes_max) {
        allowed = allowed.min((rows * u128::from(limits.bytes_max) / bytes).max(1));
    }
    if allowed >= rows {
        return backlog.iter().map(|(rows, _)| *rows).collect();
    }
    let share = |own: u64| u64::try_from(u128::from(own) * allowed / rows).unwrap_or(u64::MAX);
    let mut takes: Vec<u64> = backlog.iter().map(|(own, _)| share(*own)).collect();
    // Rounding leaves fewer positions than there are partitions.
    let mut rest = allowed - takes.iter().map(|take| u128::from(*take)).sum::<u128>();
    for (take, (own, _)) in takes.iter_mut().zip(backlog) {
        if rest == 0 {
            break;
        }
        if *take < *own {
            *take += 1;
            rest -= 1;
        }
    }
    takes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(progress: Progress, marks: &[(i32, i64, i64)]) -> TopicState {
        TopicState {
            topic: "t".into(),
            progress,
            first_offsets: PartitionEnds::new(),
            watermarks: marks.iter().map(|(p, low, high)| (*p, Watermarks { low: *low, high: *high })).collect(),
            ceilings: None,
            record_bytes_avg: 100,
        }
    }

    fn at(list: &[(i32, i64)]) -> Progress {
        Progress::At(list.iter().copied().collect())
    }

    fn limits(rows_max: u64) -> BatchLimits {
        BatchLimits { rows_max, bytes_max: u64::MAX, fail_on_data_loss: true }
    }

    #[test]
    fn takes_everything_within_the_limits() {
        let plan = plan_batch(&[state(at(&[(0, 5), (1, 9)]), &[(0, 0, 10), (1, 2, 9)])], &limits(100)).unwrap();
        let topic = &plan.topics[0];
        assert_eq!(topic.commit, PartitionRanges::from([(0, OffsetRange::new(5, 10)), (1, OffsetRange::new(9, 9))]));
        assert_eq!(topic.read, PartitionRanges::from([(0, OffsetRange::new(5, 10))]));
        assert!(plan.needs_commit());
        assert_eq!(topic.lag, BTreeMap::from([(0, 0), (1, 0)]));
    }

    #[test]
    fn the_row_limit_is_shared_in_proportion_and_met_exactly() {
        let plan = plan_batch(&[state(Progress::Fresh, &[(0, 0, 1000), (1, 0, 100), (2, 0, 1)])], &limits(10)).unwrap();
        assert_eq!(plan.len(), 10);
        let read = &plan.topics[0].read;
        assert!(read[&0].len() >= 9, "{read:?}");
    }

    #[test]
    fn the_byte_limit_counts_with_the_average_record() {
        let mut topic = state(Progress::Fresh, &[(0, 0, 1000)]);
        topic.record_bytes_avg = 300;
        let limits = BatchLimits { rows_max: 1_000_000, bytes_max: 3000, fail_on_data_loss: true };
        assert_eq!(plan_batch(&[topic], &limits).unwrap().len(), 10);
    }

    #[test]
    fn limits_never_stop_a_stream() {
        let limits = BatchLimits { rows_max: 0, bytes_max: 0, fail_on_data_loss: true };
        assert_eq!(plan_batch(&[state(Progress::Fresh, &[(0, 0, 1000)])], &limits).unwrap().len(), 1);
    }

    #[test]
    fn lost_offsets_fail_or_are_recorded() {
        let topic = state(at(&[(0, 5)]), &[(0, 8, 10)]);
        assert!(matches!(
            plan_batch(std::slice::from_ref(&topic), &limits(100)),
            Err(PlanError::DataLoss { from: 5, to: 8, .. })
        ));
        let lenient = BatchLimits { fail_on_data_loss: false, ..limits(100) };
        let plan = plan_batch(&[topic], &lenient).unwrap();
        assert_eq!(plan.topics[0].commit[&0], OffsetRange::new(5, 10));
        assert_eq!(plan.topics[0].read[&0], OffsetRange::new(8, 10));
        assert_eq!(plan.topics[0].lost[&0], OffsetRange::new(5, 8));
    }

    #[test]
    fn loss_with_nothing_left_still_moves_the_table() {
        let lenient = BatchLimits { fail_on_data_loss: false, ..limits(100) };
        let plan = plan_batch(&[state(at(&[(0, 5)]), &[(0, 8, 8)])], &lenient).unwrap();
        assert!(plan.is_empty());
        assert!(plan.needs_commit());
        assert_eq!(plan.topics[0].commit[&0], OffsetRange::new(5, 8));
    }

    #[test]
    fn a_shorter_log_is_never_skipped_over() {
        assert!(matches!(
            plan_batch(&[state(at(&[(0, 50)]), &[(0, 0, 10)])], &limits(100)),
            Err(PlanError::BeyondEnd { committed: 50, high: 10, .. })
        ));
        assert!(matches!(
            plan_batch(&[state(at(&[(0, 5), (1, 5)]), &[(0, 0, 10)])], &limits(100)),
            Err(PlanError::PartitionGone { partition: 1, .. })
        ));
    }

    #[test]
    fn a_fresh_table_starts_where_the_policy_says() {
        let mut topic = state(Progress::Fresh, &[(0, 3, 10), (1, 4, 6)]);
        topic.first_offsets = PartitionEnds::from([(0, 10)]);
        let plan = plan_batch(&[topic], &limits(100)).unwrap();
        assert_eq!(
            plan.topics[0].commit,
            PartitionRanges::from([(0, OffsetRange::new(10, 10)), (1, OffsetRange::new(4, 6))])
        );
    }

    #[test]
    fn a_start_at_the_end_is_held_by_a_commit() {
        let mut topic = state(Progress::Fresh, &[(0, 3, 10)]);
        topic.first_offsets = PartitionEnds::from([(0, 10)]);
        let plan = plan_batch(&[topic], &limits(100)).unwrap();
        assert!(plan.is_empty());
        assert!(plan.needs_commit());
    }

    #[test]
    fn a_new_partition_is_read_from_its_beginning() {
        let plan = plan_batch(&[state(at(&[(0, 10)]), &[(0, 0, 10), (1, 0, 4)])], &limits(100)).unwrap();
        assert_eq!(plan.topics[0].read, PartitionRanges::from([(1, OffsetRange::new(0, 4))]));
    }

    #[test]
    fn ceilings_bound_a_batch_and_leave_new_partitions_alone() {
        let mut topic = state(at(&[(0, 2)]), &[(0, 0, 10), (1, 0, 4)]);
        topic.ceilings = Some(PartitionEnds::from([(0, 6)]));
        let plan = plan_batch(&[topic], &limits(100)).unwrap();
        assert_eq!(plan.topics[0].read, PartitionRanges::from([(0, OffsetRange::new(2, 6))]));
        assert_eq!(plan.topics[0].lag[&0], 4);
    }
}
