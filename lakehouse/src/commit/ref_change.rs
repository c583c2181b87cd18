//! Changes of branches and tags. Source: Iceberg spec, "Snapshot References".

use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::{FormatVersion, SnapshotReference, SnapshotRetention, TableMetadata, TableMetadataBuilder};

use crate::err;
use crate::table::{MAIN_BRANCH, Refs};

/// How long a ref and its snapshots are kept; what is not given stays with the table's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RefRetention {
    pub max_ref_age_ms: Option<i64>,
    pub min_snapshots_to_keep: Option<i32>,
    pub max_snapshot_age_ms: Option<i64>,
}

/// Whether a ref of that name must, may or must not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefMode {
    /// Fails if it exists.
    Create,
    /// Leaves one that exists alone.
    CreateIfNotExists,
    /// Moves one that exists.
    CreateOrReplace,
    /// Fails if it does not exist.
    Replace,
}

/// One change of the table's refs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefEdit {
    /// Points a branch or tag at a snapshot, by default the main branch's head.
    Set {
        name: String,
        is_branch: bool,
        snapshot_id: Option<i64>,
        mode: RefMode,
        retention: RefRetention,
    },
    Drop {
        name: String,
        is_branch: bool,
        if_exists: bool,
    },
}

/// Adds one change to the builder; `metadata`, with its `refs`, is what the builder was made from.
///
/// # Errors
/// `RefExists`; `SnapshotNotFound` for a ref or snapshot that does not exist; `InvalidArgument` for a ref of the other
/// kind or a change of `main`.
pub(super) fn apply(builder: TableMetadataBuilder, metadata: &TableMetadata, refs: &Refs, edit: &RefEdit) -> Result<TableMetadataBuilder> {
    let kind = |is_branch: bool| if is_branch { "branch" } else { "tag" };
    match edit {
        // The specification gives them to format v2. Those that Spark has written into v1 all the same are kept.
        RefEdit::Set { name, is_branch, .. } if metadata.format_version() == FormatVersion::V1 => Err(err::unsupported(format!(
            "{} '{name}': a table of format v1 keeps no branches and tags; set its property format-version to 2",
            kind(*is_branch)
        ))),
        RefEdit::Set { name, is_branch, snapshot_id, mode, retention } => {
            let existing = refs.get(name);
            match (existing, mode) {
                (Some(_), RefMode::Create) => {
                    return Err(Error::new(ErrorCode::RefExists, format!("branch or tag '{name}' exists already")));
                }
                (Some(_), RefMode::CreateIfNotExists) => return Ok(builder),
                (None, RefMode::Replace) => return Err(missing(kind(*is_branch), name)),
                _ => {}
            }
            if let Some(existing) = existing
                && existing.is_branch() != *is_branch
            {
                return Err(err::invalid(format!("'{name}' is a {}", kind(existing.is_branch()))));
            }
            let snapshot_id = match snapshot_id {
                Some(id) if metadata.snapshot_by_id(*id).is_none() => {
                    return Err(Error::new(ErrorCode::SnapshotNotFound, format!("there is no snapshot {id}; it may have expired")));
                }
                Some(id) => *id,
                None => metadata.current_snapshot_id().ok_or_else(|| {
                    Error::new(ErrorCode::SnapshotNotFound, format!("the table has no snapshot yet that {} '{name}' could name", kind(*is_branch)))
                })?,
            };
            let retention = merged(existing, *is_branch, *retention);
            builder.set_ref(name, SnapshotReference::new(snapshot_id, retention)).map_err(err::iceberg_input)
        }
        RefEdit::Drop { name, .. } if name == MAIN_BRANCH => Err(err::invalid("the main branch cannot be dropped")),
        RefEdit::Drop { name, is_branch, if_exists } => match refs.get(name) {
            Some(existing) if existing.is_branch() != *is_branch => Err(err::invalid(format!("'{name}' is a {}", kind(existing.is_branch())))),
            Some(_) => Ok(builder.remove_ref(name)),
            None if *if_exists => Ok(builder),
            None => Err(missing(kind(*is_branch), name)),
        },
    }
}

/// What is not given anew stays as it was.
fn merged(existing: Option<&SnapshotReference>, is_branch: bool, new: RefRetention) -> SnapshotRetention {
    let old = match existing.map(|existing| &existing.retention) {
        Some(SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, max_ref_age_ms }) => {
            RefRetention { max_ref_age_ms: *max_ref_age_ms, min_snapshots_to_keep: *min_snapshots_to_keep, max_snapshot_age_ms: *max_snapshot_age_ms }
        }
        Some(SnapshotRetention::Tag { max_ref_age_ms }) => RefRetention { max_ref_age_ms: *max_ref_age_ms, ..RefRetention::default() },
        None => RefRetention::default(),
    };
    let max_ref_age_ms = new.max_ref_age_ms.or(old.max_ref_age_ms);
    if is_branch {
        let min_snapshots_to_keep = new.min_snapshots_to_keep.or(old.min_snapshots_to_keep);
        let max_snapshot_age_ms = new.max_snapshot_age_ms.or(old.max_snapshot_age_ms);
        SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, max_ref_age_ms }
    } else {
        SnapshotRetention::Tag { max_ref_age_ms }
    }
}

fn missing(kind: &str, name: &str) -> Error {
    Error::new(ErrorCode::SnapshotNotFound, format!("there is no {kind} '{name}'; the table's metadata table refs lists those that exist"))
}
