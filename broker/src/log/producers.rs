//! What a partition remembers of its idempotent producers, to drop repeated batches and refuse gaps.
//!
//! Nothing of it is stored apart: every batch carries producer id, epoch and sequence, so the state is rebuilt from the
//! log at start.

use std::collections::{HashMap, VecDeque};

use super::batch::{BatchHeader, add_sequence};

/// Batches kept per producer: an idempotent client has at most five requests in flight.
const BATCHES_PER_PRODUCER: usize = 5;
/// Producers kept per partition; the one unused for longest goes first.
const PRODUCERS_MAX: usize = 10_000;

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// New: append it.
    Append,
    /// Already stored at this base offset: acknowledge, store nothing.
    Duplicate {
        /// Where the batch was stored the first time.
        base_offset: i64,
    },
    /// A batch before this one is missing.
    OutOfOrder,
    /// A newer instance of the producer took over.
    StaleEpoch,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    batches: VecDeque<Stored>,
    /// Last offset written, orders producers by use.
    last_offset: i64,
}

/// All producers of one partition.
#[derive(Debug, Default)]
pub struct ProducerStates {
    producers: HashMap<i64, Producer>,
}

impl ProducerStates {
    /// Decides what a batch from a client is. Batches without a producer id always append.
    pub fn check(&self, header: &BatchHeader) -> Sequence {
        if header.producer_id < 0 {
            return Sequence::Append;
        }
        // an unknown producer may start anywhere: retention may have removed what it wrote before
        let Some(producer) = self.producers.get(&header.producer_id) else {
            return Sequence::Append;
        };
        if header.producer_epoch < producer.epoch {
            return Sequence::StaleEpoch;
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 { Sequence::Append } else { Sequence::OutOfOrder };
        }
        let repeated = producer.batches.iter().find(|b| b.base_sequence == header.base_sequence && b.last_sequence == header.last_sequence());
        if let Some(stored) = repeated {
            return Sequence::Duplicate { base_offset: stored.base_offset };
        }
        match producer.batches.back() {
            Some(last) if header.base_sequence != add_sequence(last.last_sequence, 1) => Sequence::OutOfOrder,
            _ => Sequence::Append,
        }
    }

    /// Notes a stored batch; `header.base_offset` is the one it was stored at.
    pub fn record(&mut self, header: &BatchHeader) {
        if header.producer_id < 0 {
            return;
        }
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&header.producer_id) {
            let oldest = self.producers.iter().min_by_key(|(_, p)| p.last_offset).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.producers.remove(&oldest);
            }
        }
        let producer = self.producers.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            batches: VecDeque::with_capacity(BATCHES_PER_PRODUCER),
            last_offset: 0,
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_PER_PRODUCER {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Stored {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
        });
        producer.last_offset = header.last_offset();
    }

    /// The largest producer id seen, so that a new one is never handed out twice.
    pub fn largest_id(&self) -> Option<i64> {
        self.producers.keys().copied().max()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::batch::tests::client_batch;
    use super::*;

    fn header(n: usize, id: i64, epoch: i16, sequence: i32) -> BatchHeader {
        BatchHeader::parse(&client_batch(n, Some((id, epoch, sequence)), 0)).unwrap()
    }

    #[test]
    fn repeats_gaps_and_epochs() {
        let mut states = ProducerStates::default();
        for i in 0..7 {
            let mut h = header(10, 1, 0, i * 10);
            assert_eq!(states.check(&h), Sequence::Append);
            h.base_offset = i64::from(i) * 10;
            states.record(&h);
        }
        assert_eq!(states.check(&header(10, 1, 0, 60)), Sequence::Duplicate { base_offset: 60 });
        assert_eq!(states.check(&header(10, 1, 0, 20)), Sequence::Duplicate { base_offset: 20 });
        // older than the last five: no longer known, and surely not the next one
        assert_eq!(states.check(&header(10, 1, 0, 10)), Sequence::OutOfOrder);
        assert_eq!(states.check(&header(10, 1, 0, 80)), Sequence::OutOfOrder);
        assert_eq!(states.check(&header(10, 1, 0, 70)), Sequence::Append);
        assert_eq!(states.check(&header(10, 1, 1, 0)), Sequence::Append);
        assert_eq!(states.check(&header(10, 1, 1, 5)), Sequence::OutOfOrder);
        states.record(&header(10, 1, 1, 0));
        assert_eq!(states.check(&header(10, 1, 0, 70)), Sequence::StaleEpoch);
        assert_eq!(states.largest_id(), Some(1));
    }

    #[test]
    fn producers_are_bounded() {
        let mut states = ProducerStates::default();
        for id in 0..(PRODUCERS_MAX as i64 + 5) {
            let mut h = header(1, id, 0, 0);
            h.base_offset = id;
            states.record(&h);
        }
        assert_eq!(states.producers.len(), PRODUCERS_MAX);
        assert!(!states.producers.contains_key(&0));
    }
}
