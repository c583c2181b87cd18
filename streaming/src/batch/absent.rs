//! Positions of a committed range that hold no row: control records, aborted and compacted ones, and records that were skipped as the
//! stream was told to. Completeness must not wait for them. Pure.
//!
//! Each batch says how many there are in its snapshot's summary, beside its offsets; their sum over the table's life is a property, for
//! when snapshots have expired.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::offsets::{BatchOffsets, OffsetRange, PartitionEnds};

/// Summary key: JSON `{"topic":{"0":n}}`, positions of the batch that hold no row. Partitions without any are left out.
pub const ABSENT_KEY: &str = "chainalytics.kafka.absent-offsets";
/// Table property: the same, summed up over all batches.
pub const ABSENT_PROPERTY: &str = "chainalytics.kafka.absent-offsets";
/// Summary key: the moment that the batch's rows have as `ingested_at`, microseconds since the epoch.
pub const BATCH_TIME_KEY: &str = "chainalytics.batch-time-us";

/// Positions without a row by topic and partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AbsentOffsets(pub BTreeMap<String, BTreeMap<i32, u64>>);

impl AbsentOffsets {
    /// The summary's or property's value.
    pub fn to_json(&self) -> String {
        // Maps of integers: serialising cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads such a value. One that cannot be read counts as none: nothing is committed by it.
    pub fn from_json(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Adds positions of a partition.
    pub fn add(&mut self, topic: &str, partition: i32, count: u64) {
        if count > 0 {
            *self.0.entry(topic.to_owned()).or_default().entry(partition).or_insert(0) += count;
        }
    }

    /// Positions of one topic by partition.
    pub fn of(&self, topic: &str) -> BTreeMap<i32, u64> {
        self.0.get(topic).cloned().unwrap_or_default()
    }
}

/// The property's next value.
pub fn merge_absent(current: Option<&str>, batch: &AbsentOffsets) -> String {
    let mut all = AbsentOffsets::from_json(current);
    for (topic, partitions) in &batch.0 {
        for (partition, count) in partitions {
            all.add(topic, *partition, *count);
        }
    }
    all.to_json()
}

/// What one batch committed of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedRange {
    /// Partition.
    pub partition: i32,
    /// Positions.
    pub range: OffsetRange,
    /// Of them those without a row.
    pub absent: u64,
    /// `ingested_at` of the batch's rows, microseconds since the epoch.
    pub stored_at_us: i64,
}

/// What the batches of `topic` committed since `start`, by partition; only of partitions whose batches follow each other without a gap
/// from there (a partition that `start` does not know: from wherever it began). `summaries` gives the three summary values of each
/// ancestor, newest first: offsets, absent positions, moment.
pub fn chain_of<'a>(
    topic: &str,
    start: &PartitionEnds,
    summaries: impl IntoIterator<Item = (Option<&'a str>, Option<&'a str>, Option<&'a str>)>,
) -> BTreeMap<i32, Vec<CommittedRange>> {
    let mut chains: BTreeMap<i32, Vec<CommittedRange>> = BTreeMap::new();
    let mut broken: Vec<i32> = Vec::new();
    for (offsets, absent, moment) in summaries {
        let Some(offsets) = offsets.and_then(|text| BatchOffsets::from_json(text).ok()) else { continue };
        let Some(ranges) = offsets.0.get(topic) else { continue };
        let absent = AbsentOffsets::from_json(absent).of(topic);
        let moment = moment.and_then(|text| text.parse::<i64>().ok());
        for (&partition, &range) in ranges {
            let chain = chains.entry(partition).or_default();
            let from = start.get(&partition).copied();
            let reached = chain.last().map(|last| last.range.start);
            if range.is_empty() || broken.contains(&partition) || reached.is_some_and(|reached| from.is_some_and(|from| reached <= from)) {
                continue;
            }
            if from.is_some_and(|from| range.end <= from) {
                continue;
            }
            match moment {
                // A topic that was made anew begins again; a batch of before these keys says too little.
                Some(stored_at_us) if reached.is_none_or(|reached| reached == range.end) => {
                    chain.push(CommittedRange { partition, range, absent: absent.get(&partition).copied().unwrap_or(0), stored_at_us });
                }
                _ => broken.push(partition),
            }
        }
    }
    chains.retain(|partition, chain| chain.last().is_some_and(|last| start.get(partition).is_none_or(|from| last.range.start <= *from)));
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    type Summary<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

    fn lengths(chains: &BTreeMap<i32, Vec<CommittedRange>>) -> Vec<(i32, Vec<(i64, i64, u64)>)> {
        chains.iter().map(|(p, chain)| (*p, chain.iter().map(|c| (c.range.start, c.range.end, c.absent)).collect())).collect()
    }

    const NEWEST: Summary<'static> = (Some(r#"{"t":{"0":[8,12],"1":[3,3]}}"#), Some(r#"{"t":{"0":2}}"#), Some("20"));
    const OLDER: Summary<'static> = (Some(r#"{"t":{"0":[5,8],"1":[0,3]},"u":{"0":[0,9]}}"#), None, Some("10"));

    #[test]
    fn batches_follow_each_other_back_to_the_start() {
        let chains = chain_of("t", &PartitionEnds::from([(0, 5), (1, 0)]), [NEWEST, (None, None, None), OLDER]);
        assert_eq!(lengths(&chains), [(0, vec![(8, 12, 2), (5, 8, 0)]), (1, vec![(0, 3, 0)])]);
        let chains = chain_of("t", &PartitionEnds::from([(0, 8), (1, 3)]), [NEWEST, OLDER]);
        assert_eq!(lengths(&chains), [(0, vec![(8, 12, 2)])]);
    }

    #[test]
    fn a_chain_that_does_not_reach_the_start_is_none() {
        assert!(chain_of("t", &PartitionEnds::from([(0, 2)]), [NEWEST, OLDER]).contains_key(&1));
        assert!(!chain_of("t", &PartitionEnds::from([(0, 2)]), [NEWEST, OLDER]).contains_key(&0));
        // A snapshot between them has expired.
        assert!(!chain_of("t", &PartitionEnds::from([(0, 3)]), [NEWEST, (Some(r#"{"t":{"0":[3,7]}}"#), None, Some("5"))]).contains_key(&0));
        // Written before batches told the moment.
        assert!(chain_of("t", &PartitionEnds::from([(0, 8)]), [(NEWEST.0, NEWEST.1, None)]).is_empty());
    }

    #[test]
    fn sums_go_on_from_the_property() {
        let mut batch = AbsentOffsets::default();
        batch.add("t", 0, 3);
        batch.add("t", 1, 0);
        let first = merge_absent(None, &batch);
        assert_eq!(first, r#"{"t":{"0":3}}"#);
        assert_eq!(merge_absent(Some(&first), &batch), r#"{"t":{"0":6}}"#);
        assert_eq!(AbsentOffsets::from_json(Some("[")), AbsentOffsets::default());
    }
}
