use std::collections::HashMap;

use iceberg::spec::Snapshot;

use super::Table;
use crate::commit::STAGED_KEY;

/// One snapshot of a table, with the summary its writer left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Identity of the snapshot within its table.
    pub snapshot_id: i64,
    /// Snapshot it was built on.
    pub parent_id: Option<i64>,
    /// Position in the table's order of commits.
    pub sequence_number: i64,
    /// Commit time, milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// `append`, `overwrite`, `delete` or `replace`.
    pub operation: String,
    /// URI of the manifest list.
    pub manifest_list: String,
    /// Schema it was written with.
    pub schema_id: Option<i32>,
    /// Iceberg's counters and our own keys (`chainalytics.run-id`, `kafka.offsets`...).
    pub summary: HashMap<String, String>,
}

impl SnapshotInfo {
    /// A counter of the summary, such as `added-records`; zero when the writer left it out.
    pub fn count(&self, key: &str) -> u64 {
        self.summary.get(key).and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

impl From<&Snapshot> for SnapshotInfo {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            snapshot_id: snapshot.snapshot_id(),
            parent_id: snapshot.parent_snapshot_id(),
            sequence_number: snapshot.sequence_number(),
            timestamp_ms: snapshot.timestamp_ms(),
            operation: snapshot.summary().operation.as_str().to_owned(),
            manifest_list: snapshot.manifest_list().to_owned(),
            schema_id: snapshot.schema_id(),
            summary: snapshot.summary().additional_properties.clone(),
        }
    }
}

impl Table {
    /// Snapshots from the current one back to the oldest that metadata still knows.
    pub fn ancestry(&self) -> impl Iterator<Item = SnapshotInfo> + '_ {
        self.ancestors().map(|snapshot| SnapshotInfo::from(snapshot.as_ref()))
    }

    /// Every snapshot that metadata knows, oldest first, ancestors or not.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let mut all: Vec<SnapshotInfo> = self.metadata.snapshots().map(|s| SnapshotInfo::from(s.as_ref())).collect();
        all.sort_by_key(|snapshot| (snapshot.sequence_number, snapshot.timestamp_ms));
        all
    }

    /// The current snapshot.
    pub fn current_snapshot(&self) -> Option<SnapshotInfo> {
        self.head_in(&self.metadata).map(|snapshot| SnapshotInfo::from(snapshot.as_ref()))
    }

    /// Value of `key` in the newest ancestor whose summary has it. `None` if no known ancestor does.
    pub fn latest_summary_value(&self, key: &str) -> Option<String> {
        self.ancestors().find_map(|snapshot| snapshot.summary().additional_properties.get(key).cloned())
    }

    /// Snapshot that was current at `timestamp_ms`, for time travel.
    pub fn snapshot_id_at(&self, timestamp_ms: i64) -> Option<i64> {
        self.metadata.history().iter().rev().find(|entry| entry.timestamp_ms <= timestamp_ms).map(|entry| entry.snapshot_id)
    }

    /// Snapshot that the branch or tag `name` points at.
    pub fn snapshot_id_of_ref(&self, name: &str) -> Option<i64> {
        self.metadata.snapshot_for_ref(name).map(|snapshot| snapshot.snapshot_id())
    }

    /// The newest ancestor whose summary is as wanted, else such a snapshot among those that are staged.
    pub(crate) fn committed_or_staged(&self, wanted: impl Fn(&HashMap<String, String>) -> bool) -> Option<SnapshotInfo> {
        let summary = |snapshot: &iceberg::spec::SnapshotRef| wanted(&snapshot.summary().additional_properties);
        let committed = self.ancestors().find(|snapshot| summary(snapshot));
        let is_staged = |snapshot: &iceberg::spec::SnapshotRef| snapshot.summary().additional_properties.contains_key(STAGED_KEY);
        let found = committed.or_else(|| self.metadata.snapshots().find(|snapshot| is_staged(snapshot) && summary(snapshot)));
        found.map(|snapshot| SnapshotInfo::from(snapshot.as_ref()))
    }

    /// The chain of parents; ends at the first snapshot that metadata no longer knows.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &iceberg::spec::SnapshotRef> + '_ {
        std::iter::successors(self.head_in(&self.metadata), |snapshot| {
            snapshot.parent_snapshot_id().and_then(|parent| self.metadata.snapshot_by_id(parent))
        })
    }
}
