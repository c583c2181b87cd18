use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use chainalytics_common::Result;
use chrono::Utc;
use iceberg::spec::{DataContentType, DataFile, FormatVersion, ManifestFile, Operation, Snapshot, TableMetadata};
use uuid::Uuid;

use super::carry::carried_summary;
use super::change::{FileChange, TableChange};
use super::manifests::ManifestFactory;
use super::metadata::{defined, next_location};
use super::removal::{Liveness, Removal, remove, vector_target};
use super::summary::Changes;
use super::validate::{Verdict, validate};
use super::{CommitOptions, RUN_ID_KEY, STEP_KEY, TableOutcome};
use crate::catalog::TableCommit;
use crate::err;
use crate::table::{MAIN_BRANCH, SnapshotInfo, Table, references_after};
use crate::write::DataFileInfo;

/// One table's new version: written, not yet current.
pub(super) struct Prepared {
    pub commit: TableCommit,
    pub outcome: TableOutcome,
    /// Metadata files that fell out of the log and may go once the commit stands.
    pub expired_metadata: Vec<String>,
}

pub(super) enum Step {
    Ready(Box<Prepared>),
    Done(TableOutcome),
}

/// Validates one change against a freshly loaded table and writes its new version. Every file begun is pushed to
/// `written` first.
pub(super) async fn prepare(table: &Table, change: &TableChange, options: &CommitOptions, attempt: u32, written: &mut Vec<String>) -> Result<Step> {
    if let Verdict::AlreadyCommitted(snapshot) = validate(table, change, options).await? {
        return Ok(Step::Done(already_committed(table, snapshot)));
    }
    let (metadata, mut changes) = defined(table, change)?;
    let mut outcome = TableOutcome {
        ident: table.ident().clone(),
        already_committed: false,
        snapshot_id: None,
        metadata_location: next_location(table),
        added_rows: 0,
        added_files: 0,
        removed_rows: 0,
        removed_files: 0,
    };
    let snapshot = match &change.files {
        Some(files) => {
            let extra = summary_entries(change, options);
            let build = SnapshotBuild { table, metadata: &metadata, files, attempt };
            Some(build.run(extra, &mut outcome, written).await?)
        }
        None => None,
    };

    let mut builder = metadata.as_ref().clone().into_builder(Some(table.metadata_location().to_owned()));
    if !change.set_properties.is_empty() {
        let properties = change.set_properties.clone().into_iter().collect();
        builder = builder.set_properties(properties).map_err(err::iceberg_input)?;
    }
    if !change.remove_properties.is_empty() {
        builder = builder.remove_properties(&change.remove_properties).map_err(err::iceberg_input)?;
    }
    if let Some(snapshot) = snapshot {
        builder = match change.staged {
            true => builder.add_snapshot(snapshot),
            false => builder.set_branch_snapshot(snapshot, table.branch().unwrap_or(MAIN_BRANCH)),
        }
        .map_err(err::iceberg)?;
    }
    if !change.expire_snapshots.is_empty() {
        let current = metadata.current_snapshot_id();
        if change.expire_snapshots.iter().any(|id| Some(*id) == current) {
            return Err(err::conflict(format!("table {}: the current snapshot cannot expire", table.ident())));
        }
        builder = builder.remove_snapshots(&change.expire_snapshots);
    }
    for edit in &change.builder_edits {
        builder = edit(table, builder)?;
    }
    let built = builder.build().map_err(err::iceberg)?;
    changes.extend(built.changes);
    let refs = references_after(&*table.references()?, &built.metadata, changes.iter())?;
    let metadata = Arc::new(built.metadata);
    let cache = table.store().metadata_cache();
    let text = cache.encode(&metadata, &refs)?;
    written.push(outcome.metadata_location.clone());
    table.store().write(&outcome.metadata_location, text).await?;
    cache.put_metadata_with(&outcome.metadata_location, Arc::clone(&metadata), Arc::new(refs));

    let deletes_expired = metadata.properties().get("write.metadata.delete-after-commit.enabled").is_some_and(|value| value == "true");
    Ok(Step::Ready(Box::new(Prepared {
        commit: TableCommit {
            ident: table.ident().clone(),
            old_location: table.metadata_location().to_owned(),
            new_location: outcome.metadata_location.clone(),
        },
        outcome,
        expired_metadata: match deletes_expired {
            true => built.expired_metadata_logs.into_iter().map(|log| log.metadata_file).collect(),
            false => Vec::new(),
        },
    })))
}

fn already_committed(table: &Table, snapshot: Option<SnapshotInfo>) -> TableOutcome {
    let count = |key: &str| snapshot.as_ref().map_or(0, |snapshot| snapshot.count(key));
    TableOutcome {
        ident: table.ident().clone(),
        already_committed: true,
        snapshot_id: snapshot.as_ref().map(|snapshot| snapshot.snapshot_id),
        metadata_location: table.metadata_location().to_owned(),
        added_rows: count("added-records"),
        added_files: count("added-data-files"),
        removed_rows: count("deleted-records"),
        removed_files: count("deleted-data-files"),
    }
}

fn summary_entries(change: &TableChange, options: &CommitOptions) -> std::collections::BTreeMap<String, String> {
    let mut entries = options.summary.clone();
    entries.extend(change.summary.clone());
    if let Some(run_id) = &options.run_id {
        entries.insert(RUN_ID_KEY.to_owned(), run_id.clone());
    }
    if let Some(step) = &options.step {
        entries.insert(STEP_KEY.to_owned(), step.clone());
    }
    entries
}

fn is_data((_, file): &(i32, DataFile)) -> bool {
    file.content_type() == DataContentType::Data
}

struct SnapshotBuild<'a> {
    table: &'a Table,
    /// The table's metadata, new columns included.
    metadata: &'a TableMetadata,
    files: &'a FileChange,
    attempt: u32,
}

impl SnapshotBuild<'_> {
    async fn run(
        &self,
        mut extra: std::collections::BTreeMap<String, String>,
        outcome: &mut TableOutcome,
        written: &mut Vec<String>,
    ) -> Result<Snapshot> {
        let snapshot_id = self.new_snapshot_id();
        let mut changes = Changes::default();
        let mut factory = ManifestFactory::new(self.table, self.metadata, snapshot_id, Uuid::new_v4(), written);
        let parent = self.table.head_in(self.metadata);
        let existing: Vec<ManifestFile> = match parent {
            Some(parent) => {
                let manifests = self.table.manifests(parent.snapshot_id()).await?;
                manifests.iter().filter(|file| file.has_live_files()).cloned().collect()
            }
            None => Vec::new(),
        };

        let added = self.added_files()?;
        for (spec_id, file) in &added {
            changes.add(file, *spec_id);
        }
        let (kept, operation, sequence_number) = match (self.files, self.removal(&added)?) {
            (FileChange::RewriteManifests { spec_id }, _) => {
                let (manifests, done) = factory.rearranged(existing, *spec_id).await?;
                extra.extend(done.summary());
                (manifests, Operation::Replace, None)
            }
            (_, None) if added.iter().all(is_data) => (existing, Operation::Append, None),
            (_, None) if added.iter().any(is_data) => (existing, Operation::Overwrite, None),
            (_, None) => (existing, Operation::Delete, None),
            (_, Some(removal)) => {
                let kept = remove(&mut factory, existing, &removal, &mut changes).await?;
                match self.files {
                    FileChange::Rewrite { base, keep_sequence, .. } => {
                        let sequence = self.sequence_of(*base).filter(|_| *keep_sequence);
                        (kept, Operation::Replace, sequence)
                    }
                    _ if !added.iter().any(is_data) => (kept, Operation::Delete, None),
                    _ => (kept, Operation::Overwrite, None),
                }
            }
        };
        if operation == Operation::Replace {
            extra.extend(carried_summary(self.table));
        }
        if matches!(self.files, FileChange::ReplacePartitions { .. }) {
            extra.insert("replace-partitions".to_owned(), "true".to_owned());
        }
        let mut manifests = factory.added(added, sequence_number).await?;
        manifests.extend(factory.merge_small(kept).await?);
        let (manifest_list, assigned_rows) = factory.manifest_list(manifests, self.attempt).await?;

        outcome.snapshot_id = Some(snapshot_id);
        outcome.added_rows = changes.added_rows();
        outcome.added_files = changes.added_files();
        outcome.removed_rows = changes.removed_rows();
        outcome.removed_files = changes.removed_files();
        let snapshot = Snapshot::builder()
            .with_manifest_list(manifest_list)
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(parent.map(|snapshot| snapshot.snapshot_id()))
            .with_sequence_number(self.metadata.next_sequence_number())
            .with_summary(changes.summary(operation, parent.map(|snapshot| snapshot.summary()), extra))
            .with_schema_id(self.metadata.current_schema_id())
            .with_timestamp_ms(self.timestamp_ms());
        Ok(match assigned_rows {
            Some(rows) => snapshot.with_row_range(self.metadata.next_row_id(), rows).build(),
            None => snapshot.build(),
        })
    }

    fn added(&self) -> &[DataFileInfo] {
        match self.files {
            FileChange::Append { added }
            | FileChange::Overwrite { added, .. }
            | FileChange::ReplaceAll { added }
            | FileChange::ReplacePartitions { added }
            | FileChange::Rewrite { added, .. } => added,
            FileChange::RewriteManifests { .. } => &[],
        }
    }

    fn added_files(&self) -> Result<Vec<(i32, DataFile)>> {
        let mut paths = HashSet::new();
        let mut files = Vec::with_capacity(self.added().len());
        for info in self.added() {
            // Deletion vectors may share a file.
            if !paths.insert((info.path.as_str(), info.content_offset)) {
                return Err(err::invalid(format!("{} is added twice", info.path)));
            }
            let spec = self
                .metadata
                .partition_spec_by_id(info.partition_spec_id)
                .ok_or_else(|| err::invalid(format!("{} has partition spec {}, unknown to the table", info.path, info.partition_spec_id)))?;
            let schema = self.metadata.current_schema();
            let partition_type = spec.partition_type(schema).map_err(err::iceberg)?;
            files.push((info.partition_spec_id, info.to_iceberg(schema, &partition_type)?));
        }
        Ok(files)
    }

    fn removal(&self, added: &[(i32, DataFile)]) -> Result<Option<Removal>> {
        Ok(match self.files {
            FileChange::Append { .. } | FileChange::RewriteManifests { .. } => None,
            FileChange::Overwrite { removed, .. } | FileChange::Rewrite { removed, .. } => {
                let mut vectors_of: BTreeSet<String> = added.iter().filter_map(|(_, file)| vector_target(file)).collect();
                if self.metadata.format_version() == FormatVersion::V3 {
                    vectors_of.extend(removed.iter().cloned());
                }
                let removes = !removed.is_empty() || !vectors_of.is_empty();
                removes.then(|| Removal::Paths { paths: removed.clone(), vectors_of })
            }
            FileChange::ReplaceAll { .. } => Some(Removal::All),
            FileChange::ReplacePartitions { .. } => {
                let spec_id = self.metadata.default_partition_spec_id();
                if added.iter().any(|(id, _)| *id != spec_id) {
                    return Err(err::conflict("the partition spec changed while partitions were being overwritten"));
                }
                let values = added.iter().map(|(_, file)| file.partition().clone()).collect();
                Some(Removal::Partitions { spec_id, values })
            }
        })
    }

    fn sequence_of(&self, snapshot_id: i64) -> Option<i64> {
        self.metadata.snapshot_by_id(snapshot_id).map(|snapshot| snapshot.sequence_number())
    }

    fn new_snapshot_id(&self) -> i64 {
        loop {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            // Positive, as Java's generator makes them.
            let id = i64::try_from((high ^ low) >> 1).unwrap_or(i64::MAX);
            if id > 0 && self.metadata.snapshot_by_id(id).is_none() {
                return id;
            }
        }
    }

    /// Now, but never before the parent: clocks of different drivers differ, time travel must not.
    fn timestamp_ms(&self) -> i64 {
        let after_parent = self.table.head_in(self.metadata).map_or(i64::MIN, |parent| parent.timestamp_ms() + 1);
        Utc::now().timestamp_millis().max(after_parent)
    }
}
