//! Expiry: takes old snapshots out of the metadata, then deletes the files that only they reached.

use std::collections::BTreeSet;
use std::sync::Arc;

use chainalytics_common::Result;
use chrono::Utc;
use iceberg::spec::{DataContentType, TableMetadata};
use parking_lot::Mutex;

use super::files::delete_all;
use super::reach::{Reach, live_files, reach, statistics};
use super::refuse_without_gc;
use super::retention::{Verdict, judge};
use crate::commit::carry::{END_OFFSETS_PROPERTY, end_offsets};
use crate::commit::{CommitOptions, TableChange, Transaction};
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::table::Table;

/// What expires. What is not given is up to the table's `history.expire.*` properties and its refs' own retention.
#[derive(Debug, Clone, Default)]
pub struct ExpireOptions {
    /// Snapshots made before this time may expire, milliseconds since 1970 UTC.
    pub older_than_ms: Option<i64>,
    /// Snapshots that every branch keeps whatever their age.
    pub retain_last: Option<u32>,
    /// These snapshots expire whatever their age; given alone, no others do.
    pub snapshot_ids: Vec<i64>,
    /// Deletions in flight.
    pub max_concurrent_deletes: Option<usize>,
    /// Also drops schemas and partition specs that no remaining snapshot uses.
    pub clean_expired_metadata: bool,
}

/// What went: snapshots from the metadata, files from the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub snapshots: u64,
    pub data_files: u64,
    pub position_delete_files: u64,
    pub equality_delete_files: u64,
    pub manifests: u64,
    pub manifest_lists: u64,
    pub statistics_files: u64,
}

/// Expires snapshots of a table and deletes the files that nothing reaches any more.
///
/// The metadata is committed first: a crash in between leaves orphans, never a snapshot without its files.
///
/// # Errors
/// `InvalidArgument` if the table forbids it (`gc.enabled`) or a ref points at an id given; `SnapshotNotFound`; those of
/// commits and storage.
pub async fn expire_snapshots(lakehouse: &Lakehouse, ident: &TableIdent, options: &ExpireOptions) -> Result<Expired> {
    let table = lakehouse.catalog().load_table(ident).await?;
    refuse_without_gc(&table, "expiry")?;
    let now_ms = Utc::now().timestamp_millis();
    let nothing_expires = judge(&table, options, now_ms)?.is_empty();
    let unused = if options.clean_expired_metadata { unused_metadata(&table, options, now_ms).await? } else { Unused::default() };
    if nothing_expires && unused.is_empty() {
        return Ok(Expired::default());
    }

    let judged: Arc<Mutex<Option<Arc<TableMetadata>>>> = Arc::default();
    let (told, options_of_edit) = (Arc::clone(&judged), options.clone());
    let change = TableChange::metadata(ident.clone()).edit_builder(move |table, mut builder| {
        refuse_without_gc(table, "expiry")?;
        let Verdict { snapshots, refs } = judge(table, &options_of_edit, now_ms)?;
        for name in &refs {
            builder = builder.remove_ref(name);
        }
        for id in &snapshots {
            builder = builder.remove_statistics(*id).remove_partition_statistics(*id);
        }
        let ids: Vec<i64> = snapshots.into_iter().collect();
        builder = builder.remove_snapshots(&ids);
        builder = unused.remove_from(table, builder)?;
        // The summaries that tell a stream's progress may go now; the property tells it then.
        if let Some(ends) = end_offsets(table, table.current_snapshot_id(), true) {
            let property = [(END_OFFSETS_PROPERTY.to_owned(), ends)].into();
            builder = builder.set_properties(property).map_err(err::iceberg_input)?;
        }
        *told.lock() = Some(Arc::clone(table.metadata()));
        Ok(builder)
    });
    Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    let before = judged.lock().take().ok_or_else(|| err::internal("an expiry left no trace"))?;
    // What others commit from now on builds on what is left.
    let after = lakehouse.catalog().load_table(ident).await?;
    let garbage = garbage(&before, &after).await?;
    Ok(garbage.delete(&after, options.max_concurrent_deletes).await)
}

/// Files that only expired snapshots reached.
#[derive(Debug, Default)]
struct Garbage {
    snapshots: u64,
    data_files: Vec<String>,
    position_deletes: Vec<String>,
    equality_deletes: Vec<String>,
    manifests: Vec<String>,
    manifest_lists: Vec<String>,
    statistics: Vec<String>,
}

async fn garbage(before: &TableMetadata, after: &Table) -> Result<Garbage> {
    let store = after.store();
    let remaining: BTreeSet<i64> = after.metadata().snapshots().map(|snapshot| snapshot.snapshot_id()).collect();
    let expired: Vec<i64> = before.snapshots().map(|snapshot| snapshot.snapshot_id()).filter(|id| !remaining.contains(id)).collect();
    if expired.is_empty() {
        return Ok(Garbage::default());
    }
    let gone = reach(store, before, expired.iter().copied(), true).await?;
    let kept = reach(store, after.metadata(), remaining.into_iter(), false).await?;
    let kept_statistics = statistics(after.metadata());
    let mut garbage = Garbage {
        snapshots: expired.len() as u64,
        manifest_lists: gone.lists.difference(&kept.lists).cloned().collect(),
        statistics: statistics(before).difference(&kept_statistics).cloned().collect(),
        ..Garbage::default()
    };
    let Reach { manifests, .. } = gone;
    let dead: Vec<_> = manifests.into_iter().filter(|(path, _)| !kept.manifests.contains_key(path)).map(|(_, file)| file).collect();
    garbage.manifests = dead.iter().map(|file| file.manifest_path.clone()).collect();
    let mut files = live_files(store, dead, true).await?;
    if !files.is_empty() {
        for path in live_files(store, kept.manifests.into_values().collect(), false).await?.keys() {
            files.remove(path);
        }
    }
    for (path, content) in files {
        match content {
            DataContentType::Data => garbage.data_files.push(path),
            DataContentType::PositionDeletes => garbage.position_deletes.push(path),
            DataContentType::EqualityDeletes => garbage.equality_deletes.push(path),
        }
    }
    Ok(garbage)
}

impl Garbage {
    /// Deletes from the leaves up: whatever a crash leaves is still named by something that is left.
    async fn delete(self, table: &Table, concurrency: Option<usize>) -> Expired {
        let store = table.store();
        Expired {
            snapshots: self.snapshots,
            data_files: delete_all(store, &self.data_files, concurrency).await,
            position_delete_files: delete_all(store, &self.position_deletes, concurrency).await,
            equality_delete_files: delete_all(store, &self.equality_deletes, concurrency).await,
            manifests: delete_all(store, &self.manifests, concurrency).await,
            manifest_lists: delete_all(store, &self.manifest_lists, concurrency).await,
            statistics_files: delete_all(store, &self.statistics, concurrency).await,
        }
    }
}

/// Schemas and partition specs that no snapshot will use.
#[derive(Debug, Clone, Default)]
struct Unused {
    schemas: Vec<i32>,
    specs: Vec<i32>,
}

async fn unused_metadata(table: &Table, options: &ExpireOptions, now_ms: i64) -> Result<Unused> {
    let metadata = table.metadata();
    let expired = judge(table, options, now_ms)?.snapshots;
    let remaining: Vec<_> = metadata.snapshots().filter(|snapshot| !expired.contains(&snapshot.snapshot_id())).cloned().collect();
    let mut schemas: BTreeSet<i32> = remaining.iter().filter_map(|snapshot| snapshot.schema_id()).collect();
    schemas.insert(metadata.current_schema_id());
    let kept = reach(table.store(), metadata, remaining.iter().map(|snapshot| snapshot.snapshot_id()), false).await?;
    let mut specs: BTreeSet<i32> = kept.manifests.values().map(|file| file.partition_spec_id).collect();
    specs.insert(metadata.default_partition_spec_id());
    Ok(Unused {
        schemas: metadata.schemas_iter().map(|schema| schema.schema_id()).filter(|id| !schemas.contains(id)).collect(),
        specs: metadata.partition_specs_iter().map(|spec| spec.spec_id()).filter(|id| !specs.contains(id)).collect(),
    })
}

impl Unused {
    fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.specs.is_empty()
    }

    /// Removes what the table as it is now does not use either.
    fn remove_from(&self, table: &Table, builder: iceberg::spec::TableMetadataBuilder) -> Result<iceberg::spec::TableMetadataBuilder> {
        let metadata = table.metadata();
        let used: BTreeSet<i32> = metadata.snapshots().filter_map(|snapshot| snapshot.schema_id()).collect();
        let newly_used = |id: &i32| *id == metadata.current_schema_id() || !self.schemas.contains(id) && used.contains(id);
        let schemas: Vec<i32> = self.schemas.iter().copied().filter(|id| !newly_used(id)).collect();
        let default = metadata.default_partition_spec_id();
        let specs: Vec<i32> = self.specs.iter().copied().filter(|id| *id != default).collect();
        let builder = builder.remove_schemas(&schemas).map_err(err::iceberg)?;
        builder.remove_partition_specs(&specs).map_err(err::iceberg)
    }
}
