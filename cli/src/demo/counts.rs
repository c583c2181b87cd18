//! What the demo counted, and whether the sums add up. Pure: the numbers come from `measure`.

use std::collections::BTreeMap;

use serde::Serialize;

/// Totals over everything that ever went through the topics and tables of this catalog. Kafka records only; file loads have tables of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records in each topic.
    pub produced: BTreeMap<String, u64>,
    /// Rows of each bronze table.
    pub bronze: BTreeMap<String, u64>,
    /// Rows of `bronze_dead_letters`.
    pub dead_letters: BTreeMap<String, u64>,
    /// Rows of each silver table.
    pub silver: BTreeMap<String, u64>,
    /// Rows of `silver_quarantine`.
    pub quarantined: BTreeMap<String, u64>,
    /// Rows of `silver_duplicates`: what silver left out because an equal row is in it.
    pub duplicates: BTreeMap<String, u64>,
    /// Rows of each gold table.
    pub gold: BTreeMap<String, u64>,
    /// Why records became dead letters: by topic, then error code.
    pub dead_letters_by_reason: BTreeMap<String, BTreeMap<String, u64>>,
    /// Why rows were quarantined: by bronze table, then rule.
    pub quarantined_by_rule: BTreeMap<String, BTreeMap<String, u64>>,
    /// Repeated rows by bronze table.
    pub duplicates_by_source: BTreeMap<String, u64>,
}

/// One equation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// In words.
    pub equation: String,
    pub left: u64,
    pub right: u64,
}

impl Check {
    pub fn holds(&self) -> bool {
        self.left == self.right
    }
}

impl Counts {
    /// Both equations, over all topics and for each of them.
    pub fn checks(&self, topics: &[TopicTables]) -> Vec<Check> {
        let of = |map: &BTreeMap<String, u64>, name: &str| map.get(name).copied().unwrap_or(0);
        let nested = |map: &BTreeMap<String, BTreeMap<String, u64>>, name: &str| map.get(name).map_or(0, sum);
        let mut checks = vec![
            Check {
                equation: "produced = bronze + dead letters".to_owned(),
                left: sum(&self.produced),
                right: sum(&self.bronze) + sum(&self.dead_letters),
            },
            Check {
                equation: "bronze = silver + quarantined + duplicates".to_owned(),
                left: sum(&self.bronze),
                right: sum(&self.silver) + sum(&self.quarantined) + sum(&self.duplicates),
            },
        ];
        for t in topics {
            checks.push(Check {
                equation: format!("{}: produced = bronze + dead letters", t.topic),
                left: of(&self.produced, &t.topic),
                right: of(&self.bronze, &t.bronze) + nested(&self.dead_letters_by_reason, &t.topic),
            });
            checks.push(Check {
                equation: format!("{}: bronze = silver + quarantined + duplicates", t.topic),
                left: of(&self.bronze, &t.bronze),
                right: of(&self.silver, &t.silver) + nested(&self.quarantined_by_rule, &t.bronze) + of(&self.duplicates_by_source, &t.bronze),
            });
        }
        checks
    }
}

pub fn sum(map: &BTreeMap<String, u64>) -> u64 {
    map.values().sum()
}

/// A topic and where its records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTables {
    pub topic: String,
    pub bronze: String,
    pub silver: String,
}

impl TopicTables {
    pub fn of(topic: &str) -> Self {
        let name = topic.replace('-', "_");
        Self { topic: topic.to_owned(), bronze: format!("bronze_{name}"), silver: format!("silver_{name}") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn map(entries: &[(&str, u64)]) -> BTreeMap<String, u64> {
        entries.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    fn counts() -> Counts {
        Counts {
            produced: map(&[("a-b", 100), ("c", 10)]),
            bronze: map(&[("bronze_a_b", 97), ("bronze_c", 10)]),
            dead_letters: map(&[("bronze_dead_letters", 3)]),
            silver: map(&[("silver_a_b", 90), ("silver_c", 8)]),
            quarantined: map(&[("silver_quarantine", 6)]),
            duplicates: map(&[("silver_duplicates", 3)]),
            duplicates_by_source: map(&[("bronze_a_b", 3)]),
            dead_letters_by_reason: [("a-b".to_owned(), map(&[("not_json", 2), ("bad_type", 1)]))].into(),
            quarantined_by_rule: [("bronze_a_b".to_owned(), map(&[("r1", 4)])), ("bronze_c".to_owned(), map(&[("r2", 2)]))].into(),
            ..Counts::default()
        }
    }

    fn topics() -> Vec<TopicTables> {
        ["a-b", "c"].map(TopicTables::of).to_vec()
    }

    #[test]
    fn sums_that_add_up() {
        let checks = counts().checks(&topics());
        assert_eq!(checks.len(), 6);
        assert!(checks.iter().all(Check::holds), "{checks:?}");
    }

    #[test]
    fn one_lost_row_is_seen_in_the_sum_and_in_its_topic() {
        let mut counts = counts();
        *counts.bronze.get_mut("bronze_c").unwrap() -= 1;
        let broken: Vec<_> = counts.checks(&topics()).into_iter().filter(|c| !c.holds()).map(|c| c.equation).collect();
        assert_eq!(
            broken,
            [
                "produced = bronze + dead letters",
                "bronze = silver + quarantined + duplicates",
                "c: produced = bronze + dead letters",
                "c: bronze = silver + quarantined + duplicates"
            ]
        );
    }

    #[test]
    fn a_row_in_the_wrong_topic_is_seen_though_the_sum_holds() {
        let mut counts = counts();
        *counts.bronze.get_mut("bronze_c").unwrap() -= 1;
        *counts.bronze.get_mut("bronze_a_b").unwrap() += 1;
        let broken = counts.checks(&topics()).into_iter().filter(|c| !c.holds()).count();
        assert_eq!(broken, 4);
    }
}
