//! Compaction: data files of a table are read, and their live rows written to fewer, larger, perhaps sorted files. Each
//! file group is one plan, which the executor runs; the driver commits the replacement.

mod options;
mod plan;
mod run;
mod zorder;

use std::collections::{BTreeMap, BTreeSet};

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::logical_expr::Expr;
use futures::{StreamExt, stream};

use super::deletes::remove_dangling_deletes;
use crate::commit::{CommitOptions, TableChange, Transaction};
use crate::dml::Write;
use crate::err;
use crate::ident::TableIdent;
use crate::scan::{IcebergTableProvider, SnapshotSelector, is_plain};
use crate::table::Table;
use crate::write::DataFileInfo;
use options::Settings;
pub use options::{SortBy, Strategy};
pub use zorder::{ZORDER_FUNCTION, zorder_function};
use plan::{FileGroup, plan};
use run::GroupWriter;

/// What to compact and how.
#[derive(Debug, Clone, Default)]
pub struct RewriteOptions {
    pub strategy: Strategy,
    /// Only files that may hold rows of all these conditions, over the table's columns, names unqualified.
    pub filters: Vec<Expr>,
    /// By Iceberg's names: `target-file-size-bytes`, `min-input-files`, …
    pub settings: BTreeMap<String, String>,
    /// Encoded bytes that one task buffers at most, and so the largest row group; the writer's own bound if `None`.
    pub buffer_bytes_max: Option<u64>,
}

/// What was compacted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    pub rewritten_files: u64,
    pub added_files: u64,
    pub rewritten_bytes: u64,
    /// With partial progress: files of groups that failed and stay as they are.
    pub failed_files: u64,
    pub removed_delete_files: u64,
}

/// Compacts a table.
///
/// All file groups are committed together; with `partial-progress.enabled` in several commits, so that what is done
/// stays done when a later group fails.
///
/// # Errors
/// `ProcedureArgument` for options; `CommitConflict` if files were replaced or rows deleted meanwhile; those of queries
/// and storage. The table is unchanged then, except for partial progress.
pub async fn rewrite_data_files(write: &Write<'_>, ident: &TableIdent, options: &RewriteOptions) -> Result<Rewritten> {
    let table = write.lakehouse.catalog().load_table(ident).await?;
    let settings = Settings::new(&options.settings, &options.strategy, &table)?;
    if let Some(filter) = options.filters.iter().find(|filter| !is_plain(filter)) {
        return Err(Error::new(
            ErrorCode::SqlUnsupported,
            format!("the filter {filter} cannot be judged by the files' statistics: subqueries and random functions cannot choose files"),
        ));
    }
    let writer = GroupWriter::new(write, &table, &settings, options)?;
    let Some(base) = table.current_snapshot_id() else { return Ok(Rewritten::default()) };
    let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current)?;
    let planned = provider.plan_files(write.state, &options.filters).await?;
    let groups = plan(&planned, table.metadata(), &settings)?;
    drop(planned);
    if groups.is_empty() {
        return Ok(Rewritten::default());
    }
    tracing::info!(table = %ident, groups = groups.len(), "compacting");
    let job = Job { write, table: &table, settings: &settings, writer: &writer, base };
    let mut done = if settings.partial_progress { job.in_parts(groups).await? } else { job.at_once(groups).await? };
    if settings.remove_dangling_deletes {
        done.removed_delete_files = remove_dangling_deletes(write, ident).await?;
    }
    Ok(done)
}

struct Job<'a> {
    write: &'a Write<'a>,
    table: &'a Table,
    settings: &'a Settings,
    writer: &'a GroupWriter<'a>,
    base: i64,
}

impl Job<'_> {
    async fn at_once(&self, groups: Vec<FileGroup>) -> Result<Rewritten> {
        let mut added = Vec::new();
        let mut runs =
            stream::iter(groups.clone()).map(|group| async move { self.writer.run(&group).await }).buffer_unordered(self.settings.concurrency);
        let mut failure = None;
        while let Some(result) = runs.next().await {
            match result {
                Ok(files) => added.extend(files),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        // Groups that are still running end with the stream; files that they have closed are orphans.
        drop(runs);
        if let Some(error) = failure {
            self.write.discard(&added).await;
            return Err(error);
        }
        self.commit(&groups, added).await
    }

    async fn in_parts(&self, groups: Vec<FileGroup>) -> Result<Rewritten> {
        let per_commit = groups.len().div_ceil(self.settings.commits_max).max(1);
        let mut total = Rewritten::default();
        let (mut done, mut added): (Vec<FileGroup>, Vec<DataFileInfo>) = Default::default();
        let mut failed_commits = 0;
        let mut runs = stream::iter(groups)
            .map(|group| async move {
                let result = self.writer.run(&group).await;
                (group, result)
            })
            .buffer_unordered(self.settings.concurrency);
        loop {
            let next = runs.next().await;
            let ended = next.is_none();
            match next {
                Some((group, Ok(files))) => {
                    done.push(group);
                    added.extend(files);
                }
                Some((group, Err(error))) => {
                    tracing::warn!(table = %self.table.ident(), %error, "a file group could not be compacted");
                    total.failed_files += group.files.len() as u64;
                }
                None => {}
            }
            if !done.is_empty() && (ended || done.len() >= per_commit) {
                let part = std::mem::take(&mut done);
                match self.commit(&part, std::mem::take(&mut added)).await {
                    Ok(part) => {
                        total.rewritten_files += part.rewritten_files;
                        total.added_files += part.added_files;
                        total.rewritten_bytes += part.rewritten_bytes;
                    }
                    Err(error) => {
                        tracing::warn!(table = %self.table.ident(), %error, "a part of a compaction could not be committed");
                        failed_commits += 1;
                        total.failed_files += part.iter().map(|group| group.files.len() as u64).sum::<u64>();
                        if failed_commits > self.settings.failed_commits_max {
                            return Err(error);
                        }
                    }
                }
            }
            if ended {
                return Ok(total);
            }
        }
    }

    /// Replaces the files of `groups`. What was added is discarded if that fails.
    async fn commit(&self, groups: &[FileGroup], added: Vec<DataFileInfo>) -> Result<Rewritten> {
        let removed: BTreeSet<String> = groups.iter().flat_map(|group| group.files.iter().map(|file| file.path.clone())).collect();
        let done = Rewritten {
            rewritten_files: removed.len() as u64,
            added_files: added.len() as u64,
            rewritten_bytes: groups.iter().map(FileGroup::bytes).sum(),
            ..Rewritten::default()
        };
        if let Err(error) = self.check_rows(groups, &added) {
            self.write.discard(&added).await;
            return Err(error);
        }
        let change = TableChange::rewrite(self.table.ident().clone(), self.base, removed, added.clone())
            .keeping_sequence(self.settings.starting_sequence_number);
        // No step: rewriting again is harmless, and a step can make one commit only.
        let options = CommitOptions { run_id: self.write.options.run_id.clone(), step: None, summary: self.write.options.summary.clone() };
        match Transaction::new(self.write.lakehouse).add(change).commit(options).await {
            Ok(_) => Ok(done),
            Err(error) => {
                if error.code() != ErrorCode::CommitUnknown {
                    self.write.discard(&added).await;
                }
                Err(error)
            }
        }
    }

    /// A compaction that lost or made up a row must not be committed.
    fn check_rows(&self, groups: &[FileGroup], added: &[DataFileInfo]) -> Result<()> {
        let before: u64 = groups.iter().map(FileGroup::rows).sum();
        let after: u64 = added.iter().map(|file| file.record_count).sum();
        let may_shrink = groups.iter().any(FileGroup::has_deletes);
        if after == before || (may_shrink && after < before) {
            return Ok(());
        }
        Err(err::internal(format!(
            "table {}: the files to compact have {before} rows, what was written has {after}; nothing is replaced",
            self.table.ident()
        )))
    }
}
