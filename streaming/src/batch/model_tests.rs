//! The commit protocol as a model: drivers that plan, stall, crash and wake up in any order over one table and one log,
//! 2,000 seeds. Whatever happens, every offset is in the table at most once, and in the end exactly once.

use std::collections::BTreeMap;

use super::*;

/// A small seeded generator: the model needs chance that replays, not quality.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The table: committed ranges, summaries newest last, the property.
#[derive(Default)]
struct ModelTable {
    rows: BTreeMap<(i32, i64), u32>,
    summaries: Vec<Option<BatchOffsets>>,
    property: Option<String>,
}

impl ModelTable {
    fn progress(&self) -> Progress {
        let summaries = self.summaries.iter().rev().flatten().map(BatchOffsets::to_json);
        match progress_of("t", summaries, self.property.as_deref(), !self.rows.is_empty()) {
            Ok(progress) => progress,
            Err(error) => unreachable!("{error}"),
        }
    }

    /// Compare and swap: the catalog's part.
    fn commit(&mut self, plan: &TopicPlan) -> BatchDecision {
        let decision = decide(&plan.commit, plan.fresh, &self.progress());
        if decision == BatchDecision::Commit {
            for (partition, range) in &plan.read {
                for offset in range.start..range.end {
                    *self.rows.entry((*partition, offset)).or_insert(0) += 1;
                }
            }
            self.summaries.push(Some(BatchOffsets(BTreeMap::from([("t".to_owned(), plan.commit.clone())]))));
            self.property = merge_property(self.property.as_deref(), "t", plan.ends()).ok();
        }
        decision
    }
}

fn state(table: &ModelTable, log: &BTreeMap<i32, i64>) -> TopicState {
    TopicState {
        topic: "t".into(),
        progress: table.progress(),
        first_offsets: PartitionEnds::new(),
        watermarks: log.iter().map(|(p, high)| (*p, Watermarks { low: 0, high: *high })).collect(),
        ceilings: None,
        record_bytes_avg: 10,
    }
}

#[test]
fn no_order_of_crashes_zombies_and_replays_doubles_or_loses_a_row() {
    for seed in 0..2_000 {
        let mut chance = Chance(seed);
        let mut table = ModelTable::default();
        let mut log = BTreeMap::from([(0, 20_i64), (1, 5)]);
        // Plans that drivers hold: any of them may be committed late, twice, or never.
        let mut held: Vec<TopicPlan> = Vec::new();
        for _ in 0..60 {
            match chance.below(8) {
                0 => {
                    let partition = i32::try_from(chance.below(3)).unwrap_or(0);
                    *log.entry(partition).or_insert(0) += i64::try_from(chance.below(12)).unwrap_or(0);
                }
                1..=3 => {
                    let limits =
                        BatchLimits { rows_max: chance.below(30) + 1, bytes_max: u64::MAX, fail_on_data_loss: true };
                    match plan_batch(&[state(&table, &log)], &limits) {
                        Ok(plan) => held.extend(plan.topics.into_iter().filter(TopicPlan::needs_commit)),
                        Err(error) => unreachable!("seed {seed}: {error}"),
                    }
                }
                4 | 5 if !held.is_empty() => {
                    // Commit and keep: the outcome was unknown, so that the driver may try again later.
                    let index = usize::try_from(chance.below(held.len() as u64)).unwrap_or(0);
                    table.commit(&held[index]);
                }
                6 if !held.is_empty() => {
                    // Commit twice in a row: the second finds itself done.
                    let plan = held.swap_remove(0);
                    if table.commit(&plan) == BatchDecision::Commit && plan.commit.values().any(|r| !r.is_empty()) {
                        assert_eq!(table.commit(&plan), BatchDecision::AlreadyCommitted, "seed {seed}");
                    }
                }
                7 => match chance.below(3) {
                    // Crash: everything in memory is gone.
                    0 => held.clear(),
                    // Someone else's compaction: a snapshot without our key.
                    1 => table.summaries.push(None),
                    // Someone else's expiry: only the newest snapshot stays.
                    _ => {
                        let newest = table.summaries.pop();
                        table.summaries.clear();
                        table.summaries.extend(newest);
                    }
                },
                _ => {}
            }
        }
        let limits = BatchLimits { rows_max: u64::MAX, bytes_max: u64::MAX, fail_on_data_loss: true };
        if let Ok(plan) = plan_batch(&[state(&table, &log)], &limits) {
            for topic in &plan.topics {
                table.commit(topic);
            }
        }
        for (partition, high) in &log {
            for offset in 0..*high {
                assert_eq!(table.rows.get(&(*partition, offset)), Some(&1), "seed {seed}: {partition}/{offset}");
            }
        }
    }
}
