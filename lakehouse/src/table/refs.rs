//! Branches and tags (Iceberg spec, "Snapshot References").

use std::collections::BTreeMap;

use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::{SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};
use serde::Deserialize;

use super::Table;
use crate::err;

/// The branch that a table's name alone means.
pub const MAIN_BRANCH: &str = "main";

/// A branch or a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefInfo {
    /// Its name.
    pub name: String,
    /// A branch moves with commits, a tag stays.
    pub is_branch: bool,
    /// Snapshot it points at.
    pub snapshot_id: i64,
    /// Age in milliseconds after which expiry drops the ref itself.
    pub max_ref_age_ms: Option<i64>,
    /// Snapshots that expiry keeps on a branch at least.
    pub min_snapshots_to_keep: Option<i32>,
    /// Age in milliseconds after which a branch's snapshots may expire.
    pub max_snapshot_age_ms: Option<i64>,
}

/// Every ref of a table by name. The library offers no accessor, its JSON form does.
pub(crate) fn references(metadata: &TableMetadata) -> Result<BTreeMap<String, SnapshotReference>> {
    let json = serde_json::to_value(metadata).map_err(|e| err::internal(format!("cannot encode table metadata: {e}")))?;
    match json.get("refs") {
        Some(refs) => BTreeMap::deserialize(refs).map_err(|e| err::metadata(format!("refs of a table: {e}"))),
        None => Ok(BTreeMap::new()),
    }
}

impl Table {
    /// Every branch and tag, by name.
    pub fn refs(&self) -> Result<Vec<RefInfo>> {
        let refs = references(self.metadata())?;
        Ok(refs
            .into_iter()
            .map(|(name, reference)| {
                let (max_ref_age_ms, min_snapshots_to_keep, max_snapshot_age_ms) = match reference.retention {
                    SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, max_ref_age_ms } => {
                        (max_ref_age_ms, min_snapshots_to_keep, max_snapshot_age_ms)
                    }
                    SnapshotRetention::Tag { max_ref_age_ms } => (max_ref_age_ms, None, None),
                };
                RefInfo {
                    is_branch: reference.is_branch(),
                    name,
                    snapshot_id: reference.snapshot_id,
                    max_ref_age_ms,
                    min_snapshots_to_keep,
                    max_snapshot_age_ms,
                }
            })
            .collect())
    }

    /// The ref of that name; letter case is ignored if no ref has exactly that name.
    pub fn find_ref(&self, name: &str) -> Result<Option<RefInfo>> {
        let mut refs = self.refs()?;
        let exact = refs.iter().position(|r| r.name == name);
        let at = exact.or_else(|| refs.iter().position(|r| r.name.eq_ignore_ascii_case(name)));
        Ok(at.map(|at| refs.swap_remove(at)))
    }

    /// The table as `branch` sees it: its head is the current snapshot, and changes go there.
    ///
    /// # Errors
    /// `SnapshotNotFound` if there is no such branch; `InvalidArgument` if it is a tag.
    pub fn on_branch(&self, branch: &str) -> Result<Self> {
        if branch == MAIN_BRANCH {
            return Ok(Self { branch: None, ..self.clone() });
        }
        match self.find_ref(branch)? {
            Some(found) if found.is_branch => Ok(self.for_writes_to(&found.name)),
            Some(found) => Err(err::invalid(format!("'{}' of table {} is a tag, tags never change", found.name, self.ident()))),
            None => Err(ref_not_found(self, branch)),
        }
    }

    /// As [`Self::on_branch`], for a branch that the next commit may create (from the main branch's head).
    pub(crate) fn for_writes_to(&self, branch: &str) -> Self {
        Self { branch: (branch != MAIN_BRANCH).then(|| branch.to_owned()), ..self.clone() }
    }

    /// Branch that this value stands for, if not the main one.
    pub fn branch(&self) -> Option<&str> {
        self.branch.as_deref()
    }

    /// The head of this value's branch in `metadata`, another version of the same table.
    pub(crate) fn head_in<'m>(&self, metadata: &'m TableMetadata) -> Option<&'m SnapshotRef> {
        match &self.branch {
            None => metadata.current_snapshot(),
            Some(branch) => metadata.snapshot_for_ref(branch).or_else(|| metadata.current_snapshot()),
        }
    }
}

/// The error for a branch or tag that does not exist.
pub(crate) fn ref_not_found(table: &Table, name: &str) -> Error {
    Error::new(
        ErrorCode::SnapshotNotFound,
        format!("table {0} has no branch or tag '{name}'; SELECT * FROM {0}.refs lists those that exist", table.ident()),
    )
}
