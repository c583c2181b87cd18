//! Event-time watermarks of a topic: each partition has its own, the topic's is the least of those that are not idle. Pure.

use std::collections::BTreeMap;

/// What is known of one partition. Moments in microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionTime {
    /// Offset after the newest row seen.
    pub next_offset: i64,
    /// Greatest event time seen.
    pub max_event: i64,
    /// Arrival of the newest row.
    pub last_arrival: i64,
}

/// A partition's watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionWatermark {
    pub time: PartitionTime,
    pub watermark: i64,
    /// It has been silent for longer than the time-out while others went on, so it does not hold the topic back.
    pub idle: bool,
}

/// The watermarks of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicWatermark {
    pub partitions: BTreeMap<i32, PartitionWatermark>,
    /// Never falls. `None` before the first row.
    pub watermark: Option<i64>,
}

impl TopicWatermark {
    /// The state after news. `delay` is how far the watermark stays behind the newest event; a partition is idle when its last row
    /// arrived more than `idle_after` before the topic's newest one. Arrival times decide, not the clock of whoever runs this, so that a
    /// repeated run comes to the same.
    pub fn advance(&self, news: &BTreeMap<i32, PartitionTime>, delay: i64, idle_after: i64) -> Self {
        let mut times: BTreeMap<i32, PartitionTime> = self.partitions.iter().map(|(p, known)| (*p, known.time)).collect();
        for (partition, new) in news {
            let known = times.entry(*partition).or_insert(*new);
            known.next_offset = known.next_offset.max(new.next_offset);
            known.max_event = known.max_event.max(new.max_event);
            known.last_arrival = known.last_arrival.max(new.last_arrival);
        }
        let newest = times.values().map(|t| t.last_arrival).max().unwrap_or(i64::MIN);
        let partitions: BTreeMap<i32, PartitionWatermark> = times
            .into_iter()
            .map(|(partition, time)| {
                let before = self.partitions.get(&partition).map_or(i64::MIN, |known| known.watermark);
                let watermark = time.max_event.saturating_sub(delay).max(before);
                (partition, PartitionWatermark { time, watermark, idle: newest.saturating_sub(time.last_arrival) > idle_after })
            })
            .collect();
        // The partition with the newest arrival is never idle, so there is always one to ask.
        let least = partitions.values().filter(|p| !p.idle).map(|p| p.watermark).min();
        let watermark = match (self.watermark, least) {
            (Some(before), Some(now)) => Some(before.max(now)),
            (before, now) => before.or(now),
        };
        Self { partitions, watermark }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn news(entries: &[(i32, i64, i64)]) -> BTreeMap<i32, PartitionTime> {
        entries.iter().map(|(p, event, arrival)| (*p, PartitionTime { next_offset: 1, max_event: *event, last_arrival: *arrival })).collect()
    }

    #[test]
    fn the_slowest_active_partition_decides() {
        let topic = TopicWatermark::default().advance(&news(&[(0, 100, 100), (1, 60, 99)]), 10, 5);
        assert_eq!(topic.watermark, Some(50));
        assert!(!topic.partitions[&1].idle);
    }

    #[test]
    fn an_idle_partition_holds_nothing_back_and_comes_back() {
        let topic = TopicWatermark::default().advance(&news(&[(0, 100, 100), (1, 60, 60)]), 10, 5);
        assert!(topic.partitions[&1].idle);
        assert_eq!(topic.watermark, Some(90));
        // It wakes up with old rows: the topic's watermark does not fall.
        let topic = topic.advance(&news(&[(1, 70, 101)]), 10, 5);
        assert!(!topic.partitions[&1].idle);
        assert_eq!((topic.watermark, topic.partitions[&1].watermark), (Some(90), 60));
    }

    #[test]
    fn no_news_change_nothing() {
        let topic = TopicWatermark::default().advance(&news(&[(0, 5, 5), (1, 9, 9)]), 1, 100);
        assert_eq!(topic.advance(&BTreeMap::new(), 1, 100), topic);
        assert_eq!(TopicWatermark::default().advance(&BTreeMap::new(), 1, 100).watermark, None);
    }

    #[test]
    fn watermarks_never_fall() {
        // All orders of a few batches, the same partitions again and again.
        let batches = [news(&[(0, 50, 1)]), news(&[(0, 20, 2), (1, 90, 2)]), news(&[(1, 10, 30)]), news(&[(0, 99, 31), (2, 3, 31)])];
        for first in 0..4 {
            let mut topic = TopicWatermark::default();
            let mut last = i64::MIN;
            for i in 0..4 {
                topic = topic.advance(&batches[(first + i) % 4], 5, 10);
                assert!(topic.watermark.unwrap() >= last);
                last = topic.watermark.unwrap();
            }
        }
    }
}
