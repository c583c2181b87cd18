//! Moving branches between snapshots that exist: roll-back, set-current, fast-forward. Nothing is written but metadata.

use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::{SnapshotReference, SnapshotRetention, TableMetadata, TableMetadataBuilder};
use parking_lot::Mutex;

use crate::commit::carry::{END_OFFSETS_PROPERTY, end_offsets};
use crate::commit::{CommitOptions, TableChange, Transaction};
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::table::{MAIN_BRANCH, Table, ref_not_found};

/// Where the main branch was and is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub previous_snapshot_id: Option<i64>,
    pub current_snapshot_id: i64,
}

/// Where a branch was and is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastForwarded {
    pub branch: String,
    pub previous_snapshot_id: Option<i64>,
    pub updated_snapshot_id: i64,
}

/// Makes an ancestor of the current snapshot current again.
///
/// # Errors
/// `SnapshotNotFound`; `InvalidArgument` if it is no ancestor.
pub async fn rollback_to_snapshot(lakehouse: &Lakehouse, ident: &TableIdent, snapshot_id: i64) -> Result<Moved> {
    move_main(lakehouse, ident, move |table| {
        known(table, snapshot_id)?;
        if table.ancestors().any(|ancestor| ancestor.snapshot_id() == snapshot_id) {
            return Ok(snapshot_id);
        }
        Err(err::invalid(format!(
            "table {}: snapshot {snapshot_id} is no ancestor of the current one; set_current_snapshot can go there",
            table.ident()
        )))
    })
    .await
}

/// Makes the newest ancestor from before `timestamp_ms` current again.
///
/// # Errors
/// `SnapshotNotFound` if there is none.
pub async fn rollback_to_timestamp(lakehouse: &Lakehouse, ident: &TableIdent, timestamp_ms: i64) -> Result<Moved> {
    move_main(lakehouse, ident, move |table| {
        let before = table.ancestors().find(|ancestor| ancestor.timestamp_ms() < timestamp_ms);
        before.map(|snapshot| snapshot.snapshot_id()).ok_or_else(|| {
            Error::new(
                ErrorCode::SnapshotNotFound,
                format!("table {}: no snapshot among the current one's ancestors is older than that", table.ident()),
            )
        })
    })
    .await
}

/// Makes any snapshot current, ancestor or not. `target`: an id, a branch or a tag.
///
/// # Errors
/// `SnapshotNotFound`.
pub async fn set_current_snapshot(lakehouse: &Lakehouse, ident: &TableIdent, target: std::result::Result<i64, String>) -> Result<Moved> {
    move_main(lakehouse, ident, move |table| match &target {
        Ok(id) => known(table, *id).map(|()| *id),
        Err(name) => ref_target(table, name),
    })
    .await
}

/// Moves `branch` to where `to` (a branch or tag) points, if that is ahead of it. A branch that does not exist is made.
///
/// # Errors
/// `SnapshotNotFound` for an unknown `to`; `InvalidArgument` if `branch` is a tag or not an ancestor.
pub async fn fast_forward(lakehouse: &Lakehouse, ident: &TableIdent, branch: &str, to: &str) -> Result<FastForwarded> {
    let seen: Arc<Mutex<Option<FastForwarded>>> = Arc::default();
    let (told, branch, to) = (Arc::clone(&seen), branch.to_owned(), to.to_owned());
    let change = TableChange::metadata(ident.clone()).edit_builder(move |table, builder| {
        let target = ref_target(table, &to)?;
        let head = table.metadata().snapshot_for_ref(&branch).map(|snapshot| snapshot.snapshot_id());
        if let Some(head) = head
            && !reaches(table.metadata(), target, head)
        {
            return Err(err::invalid(format!(
                "table {}: cannot fast-forward '{branch}' to '{to}': '{branch}' is not an ancestor of '{to}'",
                table.ident()
            )));
        }
        *told.lock() = Some(FastForwarded { branch: branch.clone(), previous_snapshot_id: head, updated_snapshot_id: target });
        point(table, builder, &branch, target)
    });
    Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    let done = seen.lock().take();
    done.ok_or_else(|| err::internal("a fast-forward left no trace"))
}

/// Snapshots from `from` (the current one if not given) back to the oldest that is known: id and commit time in
/// milliseconds since 1970 UTC.
pub fn ancestors_of(table: &Table, from: Option<i64>) -> Result<Vec<(i64, i64)>> {
    let metadata = table.metadata();
    if let Some(id) = from {
        known(table, id)?;
    }
    let first = from.or(table.current_snapshot_id()).and_then(|id| metadata.snapshot_by_id(id));
    let chain = std::iter::successors(first, |snapshot| snapshot.parent_snapshot_id().and_then(|parent| metadata.snapshot_by_id(parent)));
    Ok(chain.map(|snapshot| (snapshot.snapshot_id(), snapshot.timestamp_ms())).collect())
}

async fn move_main(lakehouse: &Lakehouse, ident: &TableIdent, choose: impl Fn(&Table) -> Result<i64> + Send + Sync + 'static) -> Result<Moved> {
    let table = lakehouse.catalog().load_table(ident).await?;
    let target = choose(&table)?;
    if table.current_snapshot_id() == Some(target) {
        return Ok(Moved { previous_snapshot_id: Some(target), current_snapshot_id: target });
    }
    let seen: Arc<Mutex<Option<Moved>>> = Arc::default();
    let told = Arc::clone(&seen);
    let change = TableChange::metadata(ident.clone()).edit_builder(move |table, builder| {
        let target = choose(table)?;
        *told.lock() = Some(Moved { previous_snapshot_id: table.current_snapshot_id(), current_snapshot_id: target });
        point(table, builder, MAIN_BRANCH, target)
    });
    Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    let done = seen.lock().take();
    done.ok_or_else(|| err::internal("a move of the main branch left no trace"))
}

/// Points `branch` at a snapshot, its retention kept. When the main branch moves, the progress of streams moves with it.
pub(super) fn point(table: &Table, builder: TableMetadataBuilder, branch: &str, target: i64) -> Result<TableMetadataBuilder> {
    let retention = match table.references()?.get(branch) {
        Some(reference) if reference.is_branch() => reference.retention.clone(),
        Some(_) => {
            return Err(err::invalid(format!("'{branch}' of table {} is a tag, tags never move", table.ident())));
        }
        None => SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None },
    };
    let mut builder = builder.set_ref(branch, SnapshotReference::new(target, retention)).map_err(err::iceberg)?;
    if branch == MAIN_BRANCH && table.property(END_OFFSETS_PROPERTY).is_some() {
        builder = match end_offsets(table, Some(target), false) {
            Some(ends) => builder.set_properties([(END_OFFSETS_PROPERTY.to_owned(), ends)].into()),
            None => builder.remove_properties(&[END_OFFSETS_PROPERTY.to_owned()]),
        }
        .map_err(err::iceberg_input)?;
    }
    Ok(builder)
}

pub(super) fn known(table: &Table, snapshot_id: i64) -> Result<()> {
    match table.metadata().snapshot_by_id(snapshot_id) {
        Some(_) => Ok(()),
        None => Err(Error::new(
            ErrorCode::SnapshotNotFound,
            format!(
                "table {0} has no snapshot {snapshot_id}; it may have expired. SELECT * FROM {0}.snapshots lists those that exist",
                table.ident()
            ),
        )),
    }
}

fn ref_target(table: &Table, name: &str) -> Result<i64> {
    match table.find_ref(name)? {
        Some(found) => Ok(found.snapshot_id),
        None => Err(ref_not_found(table, name)),
    }
}

/// Whether `ancestor` is `from` or one of its ancestors.
pub(super) fn reaches(metadata: &TableMetadata, from: i64, ancestor: i64) -> bool {
    let mut at = Some(from);
    while let Some(id) = at {
        if id == ancestor {
            return true;
        }
        at = metadata.snapshot_by_id(id).and_then(|snapshot| snapshot.parent_snapshot_id());
    }
    false
}
