//! The commit protocol as a model, driven by proptest: three drivers that look, plan, read, check and commit, each of them
//! crashed, frozen and woken up at any step, over one table and a log that grows, loses its beginning, gets partitions and
//! is deleted and made anew, while others compact the table and expire its snapshots.
//!
//! Whatever happens in whatever order, no record is in the table twice; and once the dust has settled every record that the
//! log still has is there exactly once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What can happen next. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Event {
    /// A driver does its next step.
    Step(usize),
    /// A driver dies: what it held in memory is gone.
    Crash(usize),
    /// A driver's commit takes effect, but the answer is lost: the driver keeps its batch and will commit it again.
    CommitUnanswered(usize),
    Produce {
        partition: usize,
        count: u8,
    },
    /// The broker removes records at the beginning of a partition.
    Retention {
        partition: usize,
        count: u8,
    },
    AddPartition,
    /// The topic is deleted and made anew.
    Recreate {
        partitions: usize,
    },
    /// A snapshot of somebody else (compaction): without our key.
    ForeignSnapshot,
    /// Expiry: only the newest snapshot stays.
    Expire,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0..3_usize).prop_map(Event::Step),
        2 => (0..3_usize).prop_map(Event::Crash),
        2 => (0..3_usize).prop_map(Event::CommitUnanswered),
        5 => (0..4_usize, 1..12_u8).prop_map(|(partition, count)| Event::Produce { partition, count }),
        1 => (0..4_usize, 1..9_u8).prop_map(|(partition, count)| Event::Retention { partition, count }),
        1 => Just(Event::AddPartition),
        1 => (1..4_usize).prop_map(|partitions| Event::Recreate { partitions }),
        1 => Just(Event::ForeignSnapshot),
        1 => Just(Event::Expire),
    ]
}

/// One incarnation of the topic. Records are numbered over all incarnations.
#[derive(Debug, Clone, Default)]
struct Log {
    id: u32,
    partitions: Vec<Partition>,
}

#[derive(Debug, Clone, Default)]
struct Partition {
    low: i64,
    records: Vec<u64>,
}

impl Log {
    fn new(id: u32, partitions: usize) -> Self {
        Self { id, partitions: vec![Partition::default(); partitions] }
    }

    fn marks(&self) -> BTreeMap<i32, Watermarks> {
        let marks = |partition: &Partition| Watermarks { low: partition.low, high: partition.records.len() as i64 };
        self.partitions.iter().enumerate().map(|(index, partition)| (index as i32, marks(partition))).collect()
    }

    /// What a reader gets of the ranges, from whatever incarnation is there now; `None` where offsets are gone.
    fn read(&self, ranges: &PartitionRanges) -> Option<Vec<u64>> {
        let mut records = Vec::new();
        for (partition, range) in ranges {
            let partition = self.partitions.get(*partition as usize)?;
            if range.start < partition.low || range.end > partition.records.len() as i64 {
                return None;
            }
            records.extend_from_slice(&partition.records[range.start as usize..range.end as usize]);
        }
        Some(records)
    }
}

/// The table, as far as a stream sees it.
#[derive(Default)]
struct Table {
    rows: BTreeMap<u64, u32>,
    summaries: Vec<Option<String>>,
    ends: Option<String>,
    ids: Option<String>,
}

impl Table {
    fn standing(&self) -> Standing {
        let summaries = self.summaries.iter().rev().flatten().cloned();
        let progress = progress_of("t", summaries, self.ends.as_deref(), !self.rows.is_empty()).unwrap();
        Standing { progress, topic_id: topic_id_of(self.ids.as_deref(), "t").unwrap() }
    }

    /// Compare and swap: the catalog's part.
    fn commit(&mut self, batch: &Batch) -> BatchDecision {
        let plan = &batch.plan;
        let (planned, read) = (plan.planned_id.as_deref(), plan.topic_id.as_deref());
        let decision = decide(&plan.commit, &plan.basis, planned, read, &self.standing());
        if decision == BatchDecision::Commit {
            for record in &batch.records {
                *self.rows.entry(*record).or_insert(0) += 1;
            }
            self.summaries.push(Some(BatchOffsets([("t".to_owned(), plan.commit.clone())].into()).to_json()));
            self.ends = Some(merge_property(self.ends.as_deref(), "t", plan.ends()).unwrap());
            if let Some(id) = read {
                self.ids = Some(merge_topic_id(self.ids.as_deref(), "t", id).unwrap());
            }
        }
        decision
    }
}

#[derive(Debug, Clone)]
struct Batch {
    plan: TopicPlan,
    records: Vec<u64>,
}

/// Where a driver is in its batch.
#[derive(Debug, Clone, Default)]
enum Driver {
    #[default]
    Idle,
    Looked(TopicState),
    Planned(TopicPlan),
    Read(Batch),
    /// The topic's id was asked again and is the one that was planned.
    Checked(Batch),
}

struct World {
    log: Log,
    table: Table,
    drivers: [Driver; 3],
    next_record: u64,
    next_id: u32,
    rows_max: u64,
}

impl World {
    fn new(rows_max: u64) -> Self {
        let mut world = Self { log: Log::new(1, 2), table: Table::default(), drivers: Default::default(), next_record: 0, next_id: 2, rows_max };
        world.produce(0, 20);
        world
    }

    fn produce(&mut self, partition: usize, count: u8) {
        let partitions = self.log.partitions.len();
        let partition = &mut self.log.partitions[partition % partitions];
        for _ in 0..count {
            partition.records.push(self.next_record);
            self.next_record += 1;
        }
    }

    fn look(&self) -> TopicState {
        TopicState {
            topic: "t".into(),
            standing: self.table.standing(),
            topic_id: Some(self.log.id.to_string()),
            first_offsets: PartitionEnds::new(),
            watermarks: self.log.marks(),
            ceilings: None,
            record_bytes_avg: 10,
        }
    }

    fn limits(&self, rows_max: u64) -> BatchLimits {
        BatchLimits { rows_max, bytes_max: u64::MAX, fail_on_data_loss: false }
    }

    fn step(&mut self, driver: usize) {
        let next = match std::mem::take(&mut self.drivers[driver]) {
            Driver::Idle => Driver::Looked(self.look()),
            Driver::Looked(state) => {
                let plan = plan_batch(&[state], &self.limits(self.rows_max)).unwrap().topics.remove(0);
                if plan.needs_commit() { Driver::Planned(plan) } else { Driver::Idle }
            }
            Driver::Planned(plan) => match self.log.read(&plan.read) {
                Some(records) => Driver::Read(Batch { plan, records }),
                None => Driver::Idle,
            },
            Driver::Read(batch) if batch.plan.topic_id == Some(self.log.id.to_string()) => Driver::Checked(batch),
            Driver::Read(_) => Driver::Idle,
            Driver::Checked(batch) => {
                self.table.commit(&batch);
                Driver::Idle
            }
        };
        self.drivers[driver] = next;
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Step(driver) => self.step(driver),
            Event::Crash(driver) => self.drivers[driver] = Driver::Idle,
            Event::CommitUnanswered(driver) => {
                if let Driver::Checked(batch) = self.drivers[driver].clone() {
                    self.table.commit(&batch);
                }
            }
            Event::Produce { partition, count } => self.produce(partition, count),
            Event::Retention { partition, count } => {
                let partitions = self.log.partitions.len();
                let partition = &mut self.log.partitions[partition % partitions];
                partition.low = (partition.low + i64::from(count)).min(partition.records.len() as i64);
            }
            Event::AddPartition if self.log.partitions.len() < 4 => self.log.partitions.push(Partition::default()),
            Event::AddPartition => {}
            Event::Recreate { partitions } => {
                self.log = Log::new(self.next_id, partitions);
                self.next_id += 1;
            }
            Event::ForeignSnapshot => self.table.summaries.push(None),
            Event::Expire => {
                let newest = self.table.summaries.pop();
                self.table.summaries.clear();
                self.table.summaries.extend(newest);
            }
        }
        let doubled = self.table.rows.iter().find(|(_, count)| **count > 1);
        assert_eq!(doubled, None, "after {event:?}");
    }

    /// A last driver on a quiet log.
    fn settle(&mut self) {
        self.rows_max = u64::MAX;
        self.drivers = Default::default();
        for _ in 0..12 {
            self.step(0);
        }
        for partition in &self.log.partitions {
            for record in &partition.records[partition.low as usize..] {
                assert_eq!(self.table.rows.get(record), Some(&1), "record {record}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_crashes_zombies_and_replays_doubles_or_loses_a_record(
        rows_max in 1..40_u64,
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new(rows_max);
        for event in &events {
            world.happen(event);
        }
        world.settle();
    }

    /// A driver that dies after any number of steps, again and again, while a second one wakes up from every point of an
    /// older batch: the exhaustive form of the short scenario that matters most.
    #[test]
    fn a_crash_at_every_step_is_as_if_it_never_was(steps in proptest::collection::vec(0..7_usize, 1..30), frozen_at in 0..5_usize) {
        let mut world = World::new(7);
        for _ in 0..frozen_at {
            world.step(1);
        }
        for (round, alive) in steps.iter().enumerate() {
            world.happen(&Event::Produce { partition: round, count: 3 });
            for _ in 0..*alive {
                world.happen(&Event::Step(0));
            }
            world.happen(&Event::Crash(0));
            if round % 3 == 2 {
                world.happen(&Event::CommitUnanswered(1));
                world.happen(&Event::Step(1));
            }
        }
        world.settle();
    }
}

/// Strict streams stop exactly when something is gone that they had not read.
#[test]
fn a_strict_stream_stops_at_loss_and_only_then() {
    let strict = BatchLimits { rows_max: u64::MAX, bytes_max: u64::MAX, fail_on_data_loss: true };
    let mut world = World::new(u64::MAX);
    for _ in 0..5 {
        world.step(0);
    }
    world.happen(&Event::Retention { partition: 0, count: 20 });
    assert!(plan_batch(&[world.look()], &strict).is_ok());
    world.produce(0, 5);
    world.happen(&Event::Retention { partition: 0, count: 2 });
    assert!(matches!(plan_batch(&[world.look()], &strict), Err(PlanError::DataLoss { from: 20, to: 22, .. })));
    world.happen(&Event::Recreate { partitions: 1 });
    assert!(matches!(plan_batch(&[world.look()], &strict), Err(PlanError::Recreated { .. })));
}
