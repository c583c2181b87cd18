//! Branches and tags (Iceberg spec, "Snapshot References").

use std::collections::BTreeMap;
use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::TableUpdate;
use iceberg::spec::{FormatVersion, SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};
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

/// Branches and tags by name.
pub(crate) type Refs = BTreeMap<String, SnapshotReference>;

/// Every ref of a table by name. The library offers no accessor, its JSON form does; that takes the longer the more
/// snapshots there are, so ask [`Table::references`] where there is a table.
pub(crate) fn references(metadata: &TableMetadata) -> Result<Refs> {
    if metadata.format_version() == FormatVersion::V1 {
        // That form has no refs. Those that it would have are known from where the metadata came from.
        return Ok(main_alone(metadata));
    }
    let json = serde_json::to_value(metadata).map_err(|e| err::internal(format!("cannot encode table metadata: {e}")))?;
    match json.get("refs") {
        Some(refs) => BTreeMap::deserialize(refs).map_err(|e| err::metadata(format!("refs of a table: {e}"))),
        None => Ok(BTreeMap::new()),
    }
}

/// The main branch as a table has it that names none.
pub(super) fn main_alone(metadata: &TableMetadata) -> Refs {
    let retention = SnapshotRetention::branch(None, None, None);
    let main = metadata.current_snapshot_id().map(|id| (MAIN_BRANCH.to_owned(), SnapshotReference::new(id, retention)));
    main.into_iter().collect()
}

/// The refs of the metadata that `changes` led to from metadata with the refs `old`.
///
/// # Errors
/// `Internal` if that is not what the library made of them.
pub(crate) fn references_after<'a>(old: &Refs, metadata: &TableMetadata, changes: impl Iterator<Item = &'a TableUpdate>) -> Result<Refs> {
    let mut refs = old.clone();
    for change in changes {
        match change {
            TableUpdate::SetSnapshotRef { ref_name, reference } => {
                let mut reference = reference.clone();
                // No change takes a branch's retention away; but the library has not read that of the main branch of format v1.
                if reference.retention == SnapshotRetention::branch(None, None, None)
                    && let Some(old) = refs.get(ref_name).filter(|old| old.is_branch())
                {
                    reference.retention = old.retention.clone();
                }
                refs.insert(ref_name.clone(), reference);
            }
            TableUpdate::RemoveSnapshotRef { ref_name } => {
                refs.remove(ref_name);
            }
            _ => {}
        }
    }
    // Those of a snapshot that goes go with it.
    refs.retain(|_, reference| metadata.snapshot_by_id(reference.snapshot_id).is_some());
    for (name, reference) in main_alone(metadata) {
        refs.entry(name).or_insert(reference);
    }
    for (name, reference) in &refs {
        let made = metadata.snapshot_for_ref(name).map(|snapshot| snapshot.snapshot_id());
        if made != Some(reference.snapshot_id) {
            return Err(err::internal(format!("ref '{name}' should point at snapshot {}, not {made:?}", reference.snapshot_id)));
        }
    }
    Ok(refs)
}

impl Table {
    /// Every branch and tag, by name, in the library's own terms.
    pub(crate) fn references(&self) -> Result<Arc<Refs>> {
        self.store.metadata_cache().references(&self.metadata_location, &self.metadata)
    }

    /// Every branch and tag, by name.
    pub fn refs(&self) -> Result<Vec<RefInfo>> {
        let refs = self.references()?;
        Ok(refs
            .iter()
            .map(|(name, reference)| {
                let (max_ref_age_ms, min_snapshots_to_keep, max_snapshot_age_ms) = match &reference.retention {
                    SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, max_ref_age_ms } => {
                        (*max_ref_age_ms, *min_snapshots_to_keep, *max_snapshot_age_ms)
                    }
                    SnapshotRetention::Tag { max_ref_age_ms } => (*max_ref_age_ms, None, None),
                };
                RefInfo {
                    is_branch: reference.is_branch(),
                    name: name.clone(),
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
