use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use chainalytics_common::Result;
use iceberg::spec::TableMetadataBuilder;

use super::STAGED_KEY;
use super::edit::TableEdit;
use crate::ident::TableIdent;
use crate::table::Table;
use crate::write::DataFileInfo;

/// Verdict of a validator about a freshly loaded table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Commit,
    /// The table already holds this change; leave it alone and report success.
    AlreadyCommitted,
    /// The table holds something that contradicts this change; fail for good, with this reason.
    Conflict(String),
}

/// Runs against every freshly loaded version of a table before the change is built on it.
pub type Validator = Arc<dyn Fn(&Table) -> Result<Decision> + Send + Sync>;

/// Says whether a file that someone else added could hold rows that this change should have seen.
pub type FileFilter = Arc<dyn Fn(&DataFileInfo) -> bool + Send + Sync>;

/// A change of the metadata alone, made anew on every freshly loaded version of the table.
pub(crate) type BuilderEdit = Arc<dyn Fn(&Table, TableMetadataBuilder) -> Result<TableMetadataBuilder> + Send + Sync>;

/// What an overwrite must not have missed.
#[derive(Clone)]
pub enum ConflictCheck {
    /// Files added since the base snapshot are kept unseen; only a removed file that is gone conflicts.
    Snapshot,
    /// Any file added since the base snapshot that the filter accepts (every file without a filter) conflicts.
    Serializable(Option<FileFilter>),
    /// Any change of rows since the base snapshot conflicts.
    Unchanged,
}

/// What happens to the table's data files.
#[derive(Clone)]
pub(super) enum FileChange {
    Append { added: Vec<DataFileInfo> },
    Overwrite { added: Vec<DataFileInfo>, removed: BTreeSet<String>, base: Option<i64>, check: ConflictCheck },
    ReplaceAll { added: Vec<DataFileInfo> },
    ReplacePartitions { added: Vec<DataFileInfo> },
    Rewrite { added: Vec<DataFileInfo>, removed: BTreeSet<String>, base: i64, keep_sequence: bool },
    RewriteManifests { spec_id: Option<i32> },
}

/// One table's part of a transaction.
#[derive(Clone)]
pub struct TableChange {
    pub(super) ident: TableIdent,
    pub(super) files: Option<FileChange>,
    pub(super) add_columns: Vec<FieldRef>,
    pub(super) set_properties: BTreeMap<String, String>,
    pub(super) remove_properties: Vec<String>,
    pub(super) expire_snapshots: Vec<i64>,
    pub(super) summary: BTreeMap<String, String>,
    pub(super) expected_snapshot: Option<Option<i64>>,
    pub(super) validate: Option<Validator>,
    /// Data files that added delete files refer to.
    pub(super) referenced: BTreeSet<String>,
    pub(super) builder_edits: Vec<BuilderEdit>,
    /// Changes of the definition that the files are already written by.
    pub(super) definition: Vec<TableEdit>,
    /// `None` for the main branch.
    pub(super) branch: Option<String>,
    /// The snapshot becomes no branch's head.
    pub(super) staged: bool,
}

impl fmt::Debug for TableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableChange").field("ident", &self.ident).finish_non_exhaustive()
    }
}

impl TableChange {
    fn new(ident: TableIdent, files: Option<FileChange>) -> Self {
        Self {
            ident,
            files,
            add_columns: Vec::new(),
            set_properties: BTreeMap::new(),
            remove_properties: Vec::new(),
            expire_snapshots: Vec::new(),
            summary: BTreeMap::new(),
            expected_snapshot: None,
            validate: None,
            referenced: BTreeSet::new(),
            builder_edits: Vec::new(),
            definition: Vec::new(),
            branch: None,
            staged: false,
        }
    }

    /// Adds files. Rebases onto whatever others committed. With no files it still makes a snapshot, so that progress
    /// (offsets, step) can be recorded.
    pub fn append(ident: TableIdent, added: Vec<DataFileInfo>) -> Self {
        Self::new(ident, Some(FileChange::Append { added }))
    }

    /// Takes out the files at `removed` (paths as the manifests spell them) and adds others, in one snapshot: delete,
    /// update, merge and overwrite by filter. `base` is the snapshot that the caller's scan saw.
    pub fn overwrite(
        ident: TableIdent,
        base: Option<i64>,
        removed: impl IntoIterator<Item = String>,
        added: Vec<DataFileInfo>,
        check: ConflictCheck,
    ) -> Self {
        let removed = removed.into_iter().collect();
        let referenced = added.iter().flat_map(|file| file.references.iter().cloned()).collect();
        let change = Self::new(ident, Some(FileChange::Overwrite { added, removed, base, check }));
        Self { referenced, ..change }
    }

    /// Takes out everything that is live at commit time and adds `added`.
    pub fn replace_all(ident: TableIdent, added: Vec<DataFileInfo>) -> Self {
        Self::new(ident, Some(FileChange::ReplaceAll { added }))
    }

    /// Takes out all files of the partitions that `added` touches (dynamic partition overwrite).
    pub fn replace_partitions(ident: TableIdent, added: Vec<DataFileInfo>) -> Self {
        Self::new(ident, Some(FileChange::ReplacePartitions { added }))
    }

    /// Replaces files by others with the same rows (compaction). Files that others add meanwhile are untouched.
    pub fn rewrite(ident: TableIdent, base: i64, removed: impl IntoIterator<Item = String>, added: Vec<DataFileInfo>) -> Self {
        Self::new(ident, Some(FileChange::Rewrite { added, removed: removed.into_iter().collect(), base, keep_sequence: true }))
    }

    /// Whether a compaction's files keep the sequence number of the snapshot it read, so that deletes which come
    /// meanwhile still apply to them (the default), or get the commit's own.
    #[must_use]
    pub fn keeping_sequence(mut self, keep: bool) -> Self {
        if let Some(FileChange::Rewrite { keep_sequence, .. }) = &mut self.files {
            *keep_sequence = keep;
        }
        self
    }

    /// Writes the manifests anew, entries sorted by partition, without touching a data file. `spec_id`: only manifests
    /// of this partition spec.
    pub fn rewrite_manifests(ident: TableIdent, spec_id: Option<i32>) -> Self {
        Self::new(ident, Some(FileChange::RewriteManifests { spec_id }))
    }

    /// Changes schema, properties or the list of snapshots only.
    pub fn metadata(ident: TableIdent) -> Self {
        Self::new(ident, None)
    }

    /// Adds optional columns at the end of the schema.
    #[must_use]
    pub fn add_columns(mut self, columns: impl IntoIterator<Item = FieldRef>) -> Self {
        self.add_columns.extend(columns);
        self
    }

    /// Sets a table property.
    #[must_use]
    pub fn set_property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set_properties.insert(key.into(), value.into());
        self
    }

    /// Removes a table property.
    #[must_use]
    pub fn remove_property(mut self, key: impl Into<String>) -> Self {
        self.remove_properties.push(key.into());
        self
    }

    /// Drops snapshots from the metadata. Their files stay: deleting what only they reached is the caller's part.
    #[must_use]
    pub fn expire_snapshots(mut self, snapshot_ids: impl IntoIterator<Item = i64>) -> Self {
        self.expire_snapshots.extend(snapshot_ids);
        self
    }

    /// Adds an entry to the snapshot's summary.
    #[must_use]
    pub fn with_summary(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.summary.insert(key.into(), value.into());
        self
    }

    /// Fails with a conflict unless this is the current snapshot at commit time (`None`: the table has none).
    #[must_use]
    pub fn expect_snapshot(mut self, snapshot_id: Option<i64>) -> Self {
        self.expected_snapshot = Some(snapshot_id);
        self
    }

    /// Leaves the snapshot out of every branch, under a name by which it can be published (write-audit-publish).
    #[must_use]
    pub fn staged(mut self, wap_id: &str) -> Self {
        self.staged = true;
        self.with_summary(STAGED_KEY, wap_id)
    }

    /// Runs `validator` against every freshly loaded version of the table.
    #[must_use]
    pub fn validate(mut self, validator: impl Fn(&Table) -> Result<Decision> + Send + Sync + 'static) -> Self {
        self.validate = Some(Arc::new(validator));
        self
    }

    /// Changes the metadata by the library's own builder, after everything else of this change was done.
    #[must_use]
    pub(crate) fn edit_builder(
        mut self,
        edit: impl Fn(&Table, TableMetadataBuilder) -> Result<TableMetadataBuilder> + Send + Sync + 'static,
    ) -> Self {
        self.builder_edits.push(Arc::new(edit));
        self
    }

    /// Table that this changes.
    pub fn ident(&self) -> &TableIdent {
        &self.ident
    }
}
