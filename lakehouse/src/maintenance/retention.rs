//! Which snapshots and refs stay: the retention rules of Iceberg's spec ("Snapshot Retention Policy"), as a function of
//! metadata, time and options.

use std::collections::BTreeSet;

use chainalytics_common::Result;
use iceberg::spec::{SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};

use super::branches::known;
use super::expire::ExpireOptions;
use super::number;
use crate::err;
use crate::table::{MAIN_BRANCH, Table};

/// Property: age after which snapshots may expire, milliseconds (default 5 days).
pub(super) const MAX_SNAPSHOT_AGE: &str = "history.expire.max-snapshot-age-ms";
/// Property: snapshots that every branch keeps whatever their age (default 1).
const MIN_SNAPSHOTS: &str = "history.expire.min-snapshots-to-keep";
/// Property: age after which branches and tags expire, milliseconds (default: never).
const MAX_REF_AGE: &str = "history.expire.max-ref-age-ms";

pub(super) const MAX_SNAPSHOT_AGE_DEFAULT_MS: i64 = 5 * 24 * 60 * 60 * 1000;

/// What expiry takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub snapshots: BTreeSet<i64>,
    pub refs: Vec<String>,
}

impl Verdict {
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.refs.is_empty()
    }
}

/// Decides for the table as it is.
///
/// # Errors
/// `SnapshotNotFound`, `InvalidArgument` for ids given that do not exist or that a branch or tag points at.
pub(super) fn judge(table: &Table, options: &ExpireOptions, now_ms: i64) -> Result<Verdict> {
    let metadata = table.metadata();
    let properties = metadata.properties();
    let max_age = number(properties, MAX_SNAPSHOT_AGE)?.unwrap_or(MAX_SNAPSHOT_AGE_DEFAULT_MS);
    let older_than = options.older_than_ms.unwrap_or(now_ms.saturating_sub(max_age));
    let min_keep = match options.retain_last {
        Some(count) => i64::from(count),
        None => number(properties, MIN_SNAPSHOTS)?.unwrap_or(1),
    };
    let max_ref_age = number(properties, MAX_REF_AGE)?.unwrap_or(i64::MAX);

    let mut verdict = Verdict::default();
    let mut retained = Vec::new();
    for (name, reference) in table.references()?.iter() {
        let age = match (&reference.retention, metadata.snapshot_by_id(reference.snapshot_id)) {
            (_, None) => i64::MAX,
            (_, Some(_)) if name == MAIN_BRANCH => i64::MIN,
            (_, Some(snapshot)) => now_ms.saturating_sub(snapshot.timestamp_ms()),
        };
        let (SnapshotRetention::Branch { max_ref_age_ms, .. } | SnapshotRetention::Tag { max_ref_age_ms }) = &reference.retention;
        if age == i64::MAX || age > max_ref_age_ms.unwrap_or(max_ref_age) {
            verdict.refs.push(name.clone());
        } else {
            retained.push((name.clone(), reference.clone()));
        }
    }

    for id in &options.snapshot_ids {
        known(table, *id)?;
        if let Some((name, _)) = retained.iter().find(|(_, reference)| reference.snapshot_id == *id) {
            return Err(err::invalid(format!("table {}: snapshot {id} cannot expire, '{name}' points at it", table.ident())));
        }
        verdict.snapshots.insert(*id);
    }
    // Ids alone mean these and no others.
    if !options.snapshot_ids.is_empty() && options.older_than_ms.is_none() && options.retain_last.is_none() {
        verdict.refs.clear();
        return Ok(verdict);
    }

    // Whatever the refs say, the current snapshot stays.
    let mut kept: BTreeSet<i64> = metadata.current_snapshot_id().into_iter().collect();
    let mut reachable = BTreeSet::new();
    for (_, reference) in &retained {
        keep_of(metadata, reference, (older_than, min_keep, now_ms), &mut kept);
        reachable.extend(chain(metadata, reference.snapshot_id).map(|snapshot| snapshot.snapshot_id()));
    }
    // Staged and rolled-back snapshots have no ref: age alone decides.
    kept.extend(
        metadata
            .snapshots()
            .filter(|snapshot| !reachable.contains(&snapshot.snapshot_id()) && snapshot.timestamp_ms() >= older_than)
            .map(|snapshot| snapshot.snapshot_id()),
    );
    let expired = metadata.snapshots().map(|snapshot| snapshot.snapshot_id()).filter(|id| !kept.contains(id));
    verdict.snapshots.extend(expired);
    Ok(verdict)
}

fn keep_of(metadata: &TableMetadata, reference: &SnapshotReference, (older_than, min_keep, now_ms): (i64, i64, i64), kept: &mut BTreeSet<i64>) {
    let SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } = &reference.retention else {
        kept.insert(reference.snapshot_id);
        return;
    };
    let min_keep = min_snapshots_to_keep.map_or(min_keep, i64::from).max(1);
    let older_than = max_snapshot_age_ms.map_or(older_than, |age| now_ms.saturating_sub(age));
    for (count, snapshot) in (0_i64..).zip(chain(metadata, reference.snapshot_id)) {
        if count >= min_keep && snapshot.timestamp_ms() < older_than {
            return;
        }
        kept.insert(snapshot.snapshot_id());
    }
}

fn chain(metadata: &TableMetadata, from: i64) -> impl Iterator<Item = &SnapshotRef> {
    std::iter::successors(metadata.snapshot_by_id(from), |snapshot| snapshot.parent_snapshot_id().and_then(|parent| metadata.snapshot_by_id(parent)))
}
