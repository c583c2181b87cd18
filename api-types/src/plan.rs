//! Operators of a stage and the edges between stages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One operator of a stage's physical plan; a tree, inputs below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PlanNode {
    /// Unique within the query: `<stage>.<number in pre-order>`.
    pub id: String,
    /// Operator name, such as `HashJoinExec`.
    pub name: String,
    /// The rest of the operator's line: expressions, files, partitioning.
    pub detail: String,
    pub metrics: OperatorMetrics,
    /// For an operator that reads another stage's shuffle output: that stage.
    pub reads_stage: Option<u32>,
    pub children: Vec<PlanNode>,
}

/// What an operator measured over all tasks of its stage. Absent = not reported (yet).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct OperatorMetrics {
    pub output_rows: Option<u64>,
    /// Computing time summed over tasks, so it may exceed the stage's wall time.
    pub elapsed_ns: Option<u64>,
    pub output_bytes: Option<u64>,
    pub spilled_bytes: Option<u64>,
    pub spilled_rows: Option<u64>,
    /// The figures were taken from a rendered plan, which rounds to two decimals of K, M, B.
    pub approximate: bool,
    /// Every other metric, as the engine prints it.
    pub other: BTreeMap<String, String>,
}

/// Stage `from` writes what stage `to` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PlanEdge {
    pub from: u32,
    pub to: u32,
    pub rows: Option<u64>,
}
