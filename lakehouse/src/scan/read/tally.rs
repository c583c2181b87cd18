//! What the readers of single files skipped, added up for the operator.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricValue};

/// Counters of one partition.
#[derive(Clone)]
pub(super) struct Tally {
    bytes_scanned: Count,
    /// By statistics, bloom filters or conditions that became known while the query ran.
    row_groups_pruned: Count,
    pages_pruned: Count,
}

impl Tally {
    pub fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            bytes_scanned: counter("bytes_scanned"),
            row_groups_pruned: counter("row_groups_pruned"),
            pages_pruned: counter("page_index_pages_pruned"),
        }
    }

    /// Adds what `plan`, the reader of one file, did once it is done or given up.
    pub fn of(&self, plan: Arc<dyn ExecutionPlan>) -> OneFile {
        OneFile { tally: self.clone(), plan }
    }
}

/// See [`Tally::of`].
pub(super) struct OneFile {
    tally: Tally,
    plan: Arc<dyn ExecutionPlan>,
}

impl Drop for OneFile {
    fn drop(&mut self) {
        let Some(metrics) = self.plan.metrics() else { return };
        for metric in metrics.iter() {
            match metric.value() {
                MetricValue::PruningMetrics { name, pruning_metrics } => match name.as_ref() {
                    "row_groups_pruned_statistics" | "row_groups_pruned_bloom_filter" => self.tally.row_groups_pruned.add(pruning_metrics.pruned()),
                    "page_index_pages_pruned" => self.tally.pages_pruned.add(pruning_metrics.pruned()),
                    _ => {}
                },
                MetricValue::Count { name, count } => match name.as_ref() {
                    "row_groups_pruned_dynamic_filter" => self.tally.row_groups_pruned.add(count.value()),
                    "bytes_scanned" => self.tally.bytes_scanned.add(count.value()),
                    _ => {}
                },
                _ => {}
            }
        }
    }
}
