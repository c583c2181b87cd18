use std::collections::BTreeMap;

use super::decide::Basis;
use super::offsets::{OffsetRange, PartitionEnds, PartitionRanges};
use super::progress::{Progress, Standing};

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
    pub standing: Standing,
    /// The topic's id by the brokers' word; `None` if they tell none.
    pub topic_id: Option<String>,
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
    /// Whether offsets that were removed before they were read (by retention, or with their whole topic) stop the stream.
    pub fail_on_data_loss: bool,
}

/// One topic's part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub topic: String,
    /// What the ranges start from.
    pub basis: Basis,
    /// Id of the topic that the table knew when this was planned.
    pub planned_id: Option<String>,
    /// Id of the topic that is read.
    pub topic_id: Option<String>,
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

    /// Whether the table needs a commit: there are rows, loss to step over, a first position to hold on to, or a new
    /// beginning.
    pub fn needs_commit(&self) -> bool {
        let moves = self.commit.values().any(|range| !range.is_empty());
        moves
            || match &self.basis {
                Basis::Fresh => self.commit.values().any(|range| range.start > 0),
                Basis::Ongoing => false,
                Basis::Restart(_) => true,
            }
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
    /// Another topic has the name.
    #[error("topic '{topic}' was deleted and made anew: the table was fed from the topic with id {known}, the brokers have {found}")]
    Recreated {
        /// Topic.
        topic: String,
        /// Id that the table knows.
        known: String,
        /// Id that the brokers tell.
        found: String,
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
    let mut bases = Vec::with_capacity(topics.len());
    for (index, topic) in topics.iter().enumerate() {
        let begin = beginning_of(topic, limits.fail_on_data_loss)?;
        for want in wanted_of(topic, &begin, limits.fail_on_data_loss)? {
            wanted.push((index, want));
        }
        bases.push(begin.basis);
    }
    let backlog: Vec<(u64, u64)> = wanted.iter().map(|(index, want)| (want.backlog(), topics[*index].record_bytes_avg.max(1))).collect();
    let takes = allot(&backlog, limits);

    let mut plan = BatchPlan {
        topics: topics
            .iter()
            .zip(bases)
            .map(|(topic, basis)| TopicPlan {
                topic: topic.topic.clone(),
                basis,
                planned_id: topic.standing.topic_id.clone(),
                topic_id: topic.topic_id.clone(),
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

/// Where each partition of a topic begins, as far as the table says so.
struct Beginning {
    basis: Basis,
    starts: PartitionEnds,
}

/// Compares what the table knows of the topic with what is there.
fn beginning_of(topic: &TopicState, fail_on_data_loss: bool) -> Result<Beginning, PlanError> {
    let ends = match &topic.standing.progress {
        Progress::Fresh => return Ok(Beginning { basis: Basis::Fresh, starts: topic.first_offsets.clone() }),
        Progress::At(ends) => ends,
    };
    let ids = topic.standing.topic_id.as_ref().zip(topic.topic_id.as_ref());
    let trouble = trouble_of(topic, ends, ids);
    match trouble {
        None => Ok(Beginning { basis: Basis::Ongoing, starts: ends.clone() }),
        Some(error) if fail_on_data_loss => Err(error),
        Some(_) => {
            let mut starts = PartitionEnds::new();
            // The same topic with a shorter log was cut off (an unclean election): what is behind the end has been read.
            // Another topic, or one that may be another, is read from its beginning.
            if ids.is_some_and(|(known, found)| known == found) {
                let cut = |(partition, end): (&i32, &i64)| topic.watermarks.get(partition).map(|marks| (*partition, (*end).min(marks.high)));
                starts = ends.iter().filter_map(cut).collect();
            } else {
                starts.extend(topic.watermarks.iter().map(|(partition, marks)| (*partition, marks.low)));
            }
            Ok(Beginning { basis: Basis::Restart(ends.clone()), starts })
        }
    }
}

/// Why the table's offsets cannot be those of the log that is there.
fn trouble_of(topic: &TopicState, ends: &PartitionEnds, ids: Option<(&String, &String)>) -> Option<PlanError> {
    let name = || topic.topic.clone();
    if let Some((known, found)) = ids.filter(|(known, found)| known != found) {
        return Some(PlanError::Recreated { topic: name(), known: known.clone(), found: found.clone() });
    }
    for (&partition, &committed) in ends {
        match topic.watermarks.get(&partition) {
            None => return Some(PlanError::PartitionGone { topic: name(), partition, committed }),
            Some(marks) if committed > marks.high => {
                return Some(PlanError::BeyondEnd { topic: name(), partition, committed, high: marks.high });
            }
            Some(_) => {}
        }
    }
    None
}

fn wanted_of(topic: &TopicState, begin: &Beginning, fail_on_data_loss: bool) -> Result<Vec<Want>, PlanError> {
    let mut wanted = Vec::with_capacity(topic.watermarks.len());
    for (&partition, marks) in &topic.watermarks {
        let committed = match begin.starts.get(&partition) {
            Some(start) => *start,
            // Created after the stream began: all of it is news.
            None if begin.basis == Basis::Ongoing => 0,
            None => marks.low,
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
