//! The table whose rows change: how its properties ask for it, its files judged by a condition, scans of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit, not, when};

use chainalytics_common::{Error, ErrorCode, Result};

use super::Write;
use crate::commit::{ConflictCheck, FileFilter};
use crate::scan::deletes::{DeleteContent, DeleteIndex};
use crate::scan::files::ScanFile;
use crate::scan::{IcebergTableProvider, LAST_UPDATED_COLUMN, MetadataColumn, ROW_ID_COLUMN, ScanOptions, SnapshotSelector, is_plain, is_total};
use crate::table::Table;
use crate::write::{DataFileInfo, DeltaTarget, RowDelta, partition_json};

/// A statement that changes rows; each has table properties of its own: `write.<operation>.mode` (`copy-on-write`, the
/// default, or `merge-on-read`) and `write.<operation>.isolation-level` (`serializable`, the default, or `snapshot`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOperation {
    Delete,
    Update,
    Merge,
}

/// What becomes of a data file that holds a changed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowMode {
    /// It is written anew.
    CopyOnWrite,
    /// It stays, and delete files name the rows that went.
    MergeOnRead {
        /// Deletion vectors (format v3) instead of position delete files (v2).
        vectors: bool,
    },
}

impl RowOperation {
    fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Update => "update",
            Self::Merge => "merge",
        }
    }

    fn property(self, table: &Table, what: &str, default: &'static str, other: &'static str) -> Result<bool> {
        let key = format!("write.{}.{what}", self.name());
        match table.property(&key).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(true),
            Some(value) if value == default => Ok(true),
            Some(value) if value == other => Ok(false),
            Some(value) => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("table {}: property {key} is '{value}', it must be {default} or {other}", table.ident()),
            )),
        }
    }

    /// How the table wants this done.
    pub fn mode(self, table: &Table) -> Result<RowMode> {
        if self.property(table, "mode", "copy-on-write", "merge-on-read")? {
            return Ok(RowMode::CopyOnWrite);
        }
        match table.format_version() {
            0 | 1 => Err(Error::new(ErrorCode::InvalidArgument, format!("table {} has format version 1, merge-on-read needs 2", table.ident()))),
            version => Ok(RowMode::MergeOnRead { vectors: version >= 3 }),
        }
    }

    /// What must not have happened between reading and commit. `terms`: conditions that every row which the statement
    /// depends on satisfies, columns unqualified. `reads_itself`: it depends on the rest of the table, too.
    pub(super) fn check(self, write: &Write<'_>, table: &Table, terms: Vec<Expr>, reads_itself: bool) -> Result<ConflictCheck> {
        if !self.property(table, "isolation-level", "serializable", "snapshot")? {
            return Ok(ConflictCheck::Snapshot);
        }
        if reads_itself {
            return Ok(ConflictCheck::Unchanged);
        }
        let provider = IcebergTableProvider::try_new(table, &SnapshotSelector::Current)?;
        let state = write.state.clone();
        // Files that others add meanwhile conflict only if they may hold such rows.
        let filter: FileFilter = Arc::new(move |info: &DataFileInfo| provider.info_may_match(&state, &terms, info).unwrap_or(true));
        Ok(ConflictCheck::Serializable(Some(filter)))
    }
}

/// A prepared change: commit it with `Write::commit_rows`.
pub struct RowChange {
    /// Paths of data files to take out.
    pub removed: BTreeSet<String>,
    /// Files that replace them, and delete files.
    pub added: Vec<DataFileInfo>,
    /// Rows deleted, updated or inserted.
    pub rows: u64,
    /// Snapshot that was read.
    pub base: Option<i64>,
    /// What must not have happened meanwhile.
    pub check: ConflictCheck,
}

impl RowChange {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// Files of a table by what their statistics say about a condition.
pub(super) struct Judged {
    /// May hold matching rows and others.
    pub open: Vec<ScanFile>,
    /// Hold matching rows only.
    pub whole: Vec<ScanFile>,
    pub deletes: DeleteIndex,
}

impl Judged {
    pub fn files(&self) -> impl Iterator<Item = &ScanFile> {
        self.open.iter().chain(&self.whole)
    }
}

/// Sorts the files that may hold rows of a condition by their statistics.
pub(super) async fn judge(write: &Write<'_>, table: &Table, condition: &Expr) -> Result<Judged> {
    let provider = IcebergTableProvider::try_new(table, &SnapshotSelector::Current)?;
    let planned = provider.plan_files(write.state, &plain_terms(condition)).await?;
    let deletes = DeleteIndex::build(&planned.deletes, table.metadata())?;
    if !is_total(condition) {
        return Ok(Judged { open: planned.data, whole: Vec::new(), deletes });
    }
    // A file where "not condition" is impossible and no column of the condition is NULL holds matching rows only.
    let condition = unnormalize_col(condition.clone());
    let columns: Vec<Column> = condition.column_refs().into_iter().cloned().collect();
    let maybe_not = provider.may_match(write.state, &[not(condition)], &planned.data)?;
    let (mut open, mut whole) = (Vec::new(), Vec::new());
    for (file, maybe_not) in planned.data.into_iter().zip(maybe_not) {
        // Rows that were deleted before must not be counted again: such files are read.
        let sure = !maybe_not && provider.without_nulls(&file, &columns)? && deletes.for_file(&file).is_empty();
        if sure { whole.push(file) } else { open.push(file) }
    }
    Ok(Judged { open, whole, deletes })
}

/// Columns of a scan behind the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    None,
    /// `_file`
    File,
    /// `_file`, `_pos`
    Row,
    /// What rows that move to another file take along: [`MetadataColumn::LINEAGE`] in format v3.
    Lineage,
    /// `_file`, `_pos` and what [`Places::Lineage`] gives.
    RowAndLineage,
}

impl Places {
    fn columns(self, table: &Table) -> Vec<MetadataColumn> {
        let place: &[MetadataColumn] = match self {
            Self::None | Self::Lineage => &[],
            Self::File => &[MetadataColumn::File],
            Self::Row | Self::RowAndLineage => &[MetadataColumn::File, MetadataColumn::Position],
        };
        let moves = matches!(self, Self::Lineage | Self::RowAndLineage);
        place.iter().chain(lineage_columns(table).iter().filter(|_| moves)).copied().collect()
    }
}

/// The columns of rows' lineage, if the table keeps one.
pub(crate) fn lineage_columns(table: &Table) -> &'static [MetadataColumn] {
    if table.format_version() >= 3 { &MetadataColumn::LINEAGE } else { &[] }
}

/// The lineage of rows that move to another file: they keep their id, and when they were changed last unless `changed`
/// holds (spec, "Row lineage assignment"). Nothing for a table without lineage.
pub(super) fn moved_lineage(table: &Table, alias: &TableReference, changed: Expr) -> Result<Vec<Expr>> {
    if lineage_columns(table).is_empty() {
        return Ok(Vec::new());
    }
    let old = |name: &str| Expr::Column(Column::new(Some(alias.clone()), name));
    let updated = when(changed, lit(ScalarValue::Int64(None))).otherwise(old(LAST_UPDATED_COLUMN)).map_err(Error::from_datafusion)?;
    Ok(vec![old(ROW_ID_COLUMN).alias(ROW_ID_COLUMN), updated.alias(LAST_UPDATED_COLUMN)])
}

/// A scan of the table's newest rows under the name `alias`, of the files named only if some are.
pub(super) fn scan(table: &Table, alias: &TableReference, only: Option<BTreeSet<String>>, places: Places) -> Result<LogicalPlanBuilder> {
    let options = ScanOptions { metadata_columns: places.columns(table), only_files: only.map(Arc::new), ..ScanOptions::default() };
    let provider = IcebergTableProvider::with_options(table, &SnapshotSelector::Current, options)?;
    let provider: Arc<dyn TableProvider> = Arc::new(provider);
    LogicalPlanBuilder::scan(alias.clone(), provider_as_source(provider), None).map_err(Error::from_datafusion)
}

/// The delta that deletes rows of these files.
pub(super) fn delta(table: &Table, files: &[&ScanFile], deletes: &DeleteIndex, vectors: bool) -> Result<RowDelta> {
    let metadata = table.metadata();
    let mut targets = BTreeMap::new();
    for file in files {
        let format = |e: &dyn std::fmt::Display| Error::new(ErrorCode::TableFormat, format!("{}: {e}", file.path()));
        let spec = metadata.partition_spec_by_id(file.spec_id).ok_or_else(|| format(&format!("unknown partition spec {}", file.spec_id)))?;
        let partition_type = spec.partition_type(metadata.current_schema()).map_err(|e| format(&e))?;
        let mut vector = None;
        for delete in deletes.for_file(file).into_iter().filter(|_| vectors) {
            match delete.content {
                DeleteContent::Vector { offset, length, rows } => vector = Some((delete.path, offset, length, rows)),
                DeleteContent::Equality { .. } => {}
                DeleteContent::Positions => {
                    return Err(Error::new(
                        ErrorCode::Unsupported,
                        format!(
                            "table {} of format v3 still has position delete files, which a deletion vector would hide: run rewrite_position_delete_files first (options => map('rewrite-all', 'true'))",
                            table.ident()
                        ),
                    ));
                }
            }
        }
        let partition = partition_json(file.data_file().partition(), &partition_type)?;
        targets.insert(file.path().to_owned(), DeltaTarget { spec_id: file.spec_id, partition, vector });
    }
    let targets_json = serde_json::to_string(&targets).map_err(|e| Error::new(ErrorCode::Internal, format!("the files of a delta: {e}")))?;
    Ok(RowDelta { targets_json, vectors })
}

/// The conjuncts that can be judged by statistics, their columns unqualified.
pub(super) fn plain_terms(condition: &Expr) -> Vec<Expr> {
    split_conjunction(condition).into_iter().filter(|t| is_plain(t)).map(|t| unnormalize_col(t.clone())).collect()
}
