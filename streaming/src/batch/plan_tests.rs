#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;

fn state(progress: Progress, marks: &[(i32, i64, i64)]) -> TopicState {
    TopicState {
        topic: "t".into(),
        standing: Standing { progress, topic_id: Some("id-1".into()) },
        topic_id: Some("id-1".into()),
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
    assert!(matches!(plan_batch(std::slice::from_ref(&topic), &limits(100)), Err(PlanError::DataLoss { from: 5, to: 8, .. })));
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
    assert!(matches!(plan_batch(&[state(at(&[(0, 50)]), &[(0, 0, 10)])], &limits(100)), Err(PlanError::BeyondEnd { committed: 50, high: 10, .. })));
    assert!(matches!(plan_batch(&[state(at(&[(0, 5), (1, 5)]), &[(0, 0, 10)])], &limits(100)), Err(PlanError::PartitionGone { partition: 1, .. })));
}

#[test]
fn a_fresh_table_starts_where_the_policy_says() {
    let mut topic = state(Progress::Fresh, &[(0, 3, 10), (1, 4, 6)]);
    topic.first_offsets = PartitionEnds::from([(0, 10)]);
    let plan = plan_batch(&[topic], &limits(100)).unwrap();
    assert_eq!(plan.topics[0].commit, PartitionRanges::from([(0, OffsetRange::new(10, 10)), (1, OffsetRange::new(4, 6))]));
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

#[test]
fn a_topic_made_anew_stops_the_stream_or_is_read_from_its_beginning() {
    // The new log is longer than what was read of the old one: only the id tells.
    let mut topic = state(at(&[(0, 5), (1, 7)]), &[(0, 0, 10)]);
    topic.topic_id = Some("id-2".into());
    assert!(matches!(
        plan_batch(std::slice::from_ref(&topic), &limits(100)),
        Err(PlanError::Recreated { known, found, .. }) if known == "id-1" && found == "id-2"
    ));
    let plan = plan_batch(&[topic], &BatchLimits { fail_on_data_loss: false, ..limits(100) }).unwrap();
    let topic = &plan.topics[0];
    assert_eq!(topic.commit, PartitionRanges::from([(0, OffsetRange::new(0, 10))]));
    assert_eq!(topic.basis, Basis::Restart([(0, 5), (1, 7)].into()));
    assert_eq!((topic.planned_id.as_deref(), topic.topic_id.as_deref()), (Some("id-1"), Some("id-2")));
}

#[test]
fn a_log_that_was_cut_off_goes_on_at_its_end() {
    let topic = state(at(&[(0, 50), (1, 3)]), &[(0, 0, 10), (1, 0, 9)]);
    let lenient = BatchLimits { fail_on_data_loss: false, ..limits(100) };
    let plan = plan_batch(&[topic], &lenient).unwrap();
    assert_eq!(plan.topics[0].commit, PartitionRanges::from([(0, OffsetRange::new(10, 10)), (1, OffsetRange::new(3, 9))]));
    assert!(plan.needs_commit());
}

#[test]
fn without_ids_a_shorter_log_counts_as_another_topic() {
    let mut topic = state(at(&[(0, 50)]), &[(0, 2, 10)]);
    topic.topic_id = None;
    let lenient = BatchLimits { fail_on_data_loss: false, ..limits(100) };
    let plan = plan_batch(&[topic], &lenient).unwrap();
    assert_eq!(plan.topics[0].read, PartitionRanges::from([(0, OffsetRange::new(2, 10))]));
}
