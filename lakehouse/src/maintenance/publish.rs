//! Cherry-pick: the change of one snapshot, which is not in the main branch's history, applied to the main branch. With
//! write-audit-publish the snapshot is found by its WAP id.

use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::{ManifestContentType, ManifestStatus, Operation, SnapshotRef};

use super::branches::{known, point, reaches};
use crate::commit::{STAGED_KEY as WAP_ID, CommitOptions, ConflictCheck, FileFilter, TableChange, Transaction};
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::table::{MAIN_BRANCH, Table};
use crate::write::DataFileInfo;

/// Summary key: the staged change that a snapshot published.
const PUBLISHED_WAP_ID: &str = "published-wap-id";
/// Summary key: the snapshot whose change a snapshot repeats.
const SOURCE_SNAPSHOT: &str = "source-snapshot-id";
const REPLACE_PARTITIONS: &str = "replace-partitions";

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub source_snapshot_id: i64,
    pub current_snapshot_id: i64,
}

/// Applies the change of a snapshot to the main branch: by moving the branch if the snapshot was made on its head, else
/// by making a new snapshot with the same change. Appends and dynamic overwrites can be repeated, nothing else.
///
/// # Errors
/// `SnapshotNotFound`; `CommitConflict` for a change that cannot be repeated, is already part of the branch, or whose
/// WAP id is published.
pub async fn cherrypick_snapshot(lakehouse: &Lakehouse, ident: &TableIdent, snapshot_id: i64) -> Result<Published> {
    let table = lakehouse.catalog().load_table(ident).await?;
    known(&table, snapshot_id)?;
    let Some(source) = table.metadata().snapshot_by_id(snapshot_id).cloned() else {
        return Err(err::internal("a snapshot vanished from unchanging metadata"));
    };
    refuse_repeats(&table, &source)?;
    let change = if source.parent_snapshot_id() == table.current_snapshot_id() {
        TableChange::metadata(ident.clone())
            .expect_snapshot(table.current_snapshot_id())
            .edit_builder(move |table, builder| point(table, builder, MAIN_BRANCH, snapshot_id))
    } else {
        let again = source.clone();
        repeated(&table, &source).await?.validate(move |now| {
            refuse_repeats(now, &again)?;
            Ok(crate::commit::Decision::Commit)
        })
    };
    let outcome = Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    let made = outcome.table(ident).and_then(|table| table.snapshot_id).unwrap_or(snapshot_id);
    Ok(Published { source_snapshot_id: snapshot_id, current_snapshot_id: made })
}

/// Publishes the snapshot that was staged under `wap_id`.
///
/// # Errors
/// `SnapshotNotFound` if there is none; as [`cherrypick_snapshot`].
pub async fn publish_changes(lakehouse: &Lakehouse, ident: &TableIdent, wap_id: &str) -> Result<Published> {
    let table = lakehouse.catalog().load_table(ident).await?;
    let staged: Vec<i64> =
        table.metadata().snapshots().filter(|snapshot| entry(snapshot, WAP_ID) == Some(wap_id)).map(|snapshot| snapshot.snapshot_id()).collect();
    match staged.as_slice() {
        [one] => cherrypick_snapshot(lakehouse, ident, *one).await,
        [] => Err(Error::new(ErrorCode::SnapshotNotFound, format!("table {ident} has no snapshot staged under the WAP id '{wap_id}'"))),
        several => Err(err::invalid(format!(
            "table {ident} has {} snapshots staged under the WAP id '{wap_id}'; cherrypick_snapshot names one",
            several.len()
        ))),
    }
}

fn entry<'a>(snapshot: &'a SnapshotRef, key: &str) -> Option<&'a str> {
    snapshot.summary().additional_properties.get(key).map(String::as_str)
}

fn refuse_repeats(table: &Table, source: &SnapshotRef) -> Result<()> {
    let id = source.snapshot_id();
    let conflict = |what: String| Err(err::conflict(format!("table {}: {what}", table.ident())));
    if table.current_snapshot_id().is_some_and(|head| reaches(table.metadata(), head, id)) {
        return conflict(format!("snapshot {id} is an ancestor of the current one already"));
    }
    let text = id.to_string();
    if let Some(done) = table.ancestors().find(|ancestor| entry(ancestor, SOURCE_SNAPSHOT) == Some(&text)) {
        return conflict(format!("snapshot {id} was cherry-picked already, as snapshot {}", done.snapshot_id()));
    }
    if let Some(wap_id) = entry(source, WAP_ID)
        && table.ancestors().any(|ancestor| [WAP_ID, PUBLISHED_WAP_ID].iter().any(|key| entry(ancestor, key) == Some(wap_id)))
    {
        return conflict(format!("the WAP id '{wap_id}' was published already"));
    }
    Ok(())
}

/// The change of a snapshot, to be made again.
async fn repeated(table: &Table, source: &SnapshotRef) -> Result<TableChange> {
    let (added, removed) = changed_files(table, source).await?;
    let ident = table.ident().clone();
    let change = match source.summary().operation {
        Operation::Append => TableChange::append(ident, added),
        Operation::Overwrite if entry(source, REPLACE_PARTITIONS) == Some("true") => {
            let partitions: Vec<_> = added.iter().map(|file| (file.partition_spec_id, file.partition.clone())).collect();
            let touched: FileFilter = std::sync::Arc::new(move |file: &DataFileInfo| {
                partitions.iter().any(|(spec, values)| *spec == file.partition_spec_id && *values == file.partition)
            });
            let check = ConflictCheck::Serializable(Some(touched));
            TableChange::overwrite(ident, source.parent_snapshot_id(), removed, added, check).with_summary(REPLACE_PARTITIONS, "true")
        }
        _ => {
            return Err(err::conflict(format!(
                "table {ident}: snapshot {} cannot be cherry-picked: it is neither an append nor a dynamic overwrite, and the \
                 main branch is not where it was made",
                source.snapshot_id()
            )));
        }
    };
    let change = change.with_summary(SOURCE_SNAPSHOT, source.snapshot_id().to_string());
    Ok(match entry(source, WAP_ID) {
        Some(wap_id) => change.with_summary(PUBLISHED_WAP_ID, wap_id),
        None => change,
    })
}

/// Data files that a snapshot added, and the paths of those that it took out.
async fn changed_files(table: &Table, source: &SnapshotRef) -> Result<(Vec<DataFileInfo>, Vec<String>)> {
    let id = source.snapshot_id();
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for file in table.manifests(id).await?.iter().filter(|file| file.added_snapshot_id == id) {
        if file.content == ManifestContentType::Deletes {
            return Err(err::conflict(format!("table {}: snapshot {id} cannot be cherry-picked: it has delete files", table.ident())));
        }
        let manifest = table.manifest(file).await?;
        let meta = manifest.metadata();
        let partition_type = meta.partition_spec.partition_type(&meta.schema).map_err(err::iceberg)?;
        for entry in manifest.entries().iter().filter(|entry| entry.snapshot_id() == Some(id)) {
            match entry.status() {
                ManifestStatus::Added => added.push(DataFileInfo::from_iceberg(entry.data_file(), file.partition_spec_id, &partition_type)?),
                ManifestStatus::Deleted => removed.push(entry.file_path().to_owned()),
                ManifestStatus::Existing => {}
            }
        }
    }
    Ok((added, removed))
}
