//! Maintenance by table property, for whoever commits often: a stream calls [`auto`] between its batches.
//!
//! | property | meaning | default |
//! |---|---|---|
//! | `chainalytics.maintenance.enabled` | whether [`auto`] does anything | `false` |
//! | `chainalytics.maintenance.every-commits` | commits after which it does | `20` |
//! | `chainalytics.maintenance.min-input-files` | small files of a partition that are worth compacting | `5` |
//! | `chainalytics.maintenance.min-file-size-bytes` | files of this size are left as they are | 32 MiB, or less for small target sizes |
//! | `chainalytics.maintenance.delete-file-threshold` | delete files of a data file from which on it is rewritten, whatever its size; delete files that apply to nothing any more go too | not by their number |
//! | `chainalytics.maintenance.max-snapshots` | snapshots of the main branch beyond which the oldest expire whatever their age | `3000` |
//!
//! A file is rewritten until it has that size and then never again: a table that is fed for days would otherwise be rewritten as a whole each time
//! until its files have their target size. `CALL system.rewrite_data_files` makes the large ones, at a quiet time.
//!
//! What else expires is up to `history.expire.*`: by age alone a commit every second would leave hundreds of thousands of snapshots in metadata that
//! each commit writes anew. The size of files is up to `write.target-file-size-bytes`.

use std::collections::BTreeMap;

use chainalytics_common::{ErrorCode, Result};
use chrono::Utc;
use datafusion::prelude::SessionConfig;
use iceberg::spec::Operation;

use super::compact::{RewriteOptions, Rewritten, rewrite_data_files};
use super::expire::{ExpireOptions, Expired, expire_snapshots};
use super::manifests::{RewrittenManifests, rewrite_manifests};
use super::number;
use super::retention::{MAX_SNAPSHOT_AGE, MAX_SNAPSHOT_AGE_DEFAULT_MS};
use crate::commit::CommitOptions;
use crate::dml::Write;
use crate::exec::{LocalExecutor, QueryExecutor};
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::table::Table;
use crate::write::TARGET_FILE_SIZE;

const ENABLED: &str = "chainalytics.maintenance.enabled";
const EVERY_COMMITS: &str = "chainalytics.maintenance.every-commits";
const MIN_INPUT_FILES: &str = "chainalytics.maintenance.min-input-files";
pub(super) const MAX_SNAPSHOTS: &str = "chainalytics.maintenance.max-snapshots";
const DELETE_FILE_THRESHOLD: &str = "chainalytics.maintenance.delete-file-threshold";
const MIN_FILE_SIZE: &str = "chainalytics.maintenance.min-file-size-bytes";

/// Large enough to read well, and reached within a few rounds.
const MIN_FILE_SIZE_DEFAULT: u64 = 32 << 20;
const EVERY_COMMITS_DEFAULT: i64 = 20;
/// A day of commits every 30 s, and a few MB of metadata.
const MAX_SNAPSHOTS_DEFAULT: i64 = 3_000;
/// Manifests above which they are joined; the merging of appends keeps them below where it is on.
const MANIFESTS_MAX: usize = 200;
/// What a task of a compaction buffers: it runs beside the work that it serves, which should keep its memory.
const BUFFER_BYTES_MAX: u64 = 32 << 20;

/// What maintenance did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    pub compacted: Rewritten,
    pub manifests: RewrittenManifests,
    pub expired: Expired,
}

/// Maintains a table if its properties ask for it and enough commits have come since; `None` if not.
///
/// # Errors
/// Those of compaction and expiry, except lost races: what another commit prevents is left for the next time.
pub async fn auto(lakehouse: &Lakehouse, executor: &dyn QueryExecutor, ident: &TableIdent) -> Result<Option<Maintained>> {
    let table = lakehouse.catalog().load_table(ident).await?;
    if !is_due(&table)? {
        return Ok(None);
    }
    // Plans are made here and run by the executor: any session that knows the stores will do.
    let session = LocalExecutor::open(lakehouse, lakehouse.catalog().name(), SessionConfig::new())?;
    let state = session.ctx().state();
    let options = CommitOptions::default();
    let write = Write { lakehouse, executor, state: &state, options: &options };
    maintain(&write, ident).await.map(Some)
}

/// Compacts, joins manifests and expires, now.
pub async fn maintain(write: &Write<'_>, ident: &TableIdent) -> Result<Maintained> {
    let lakehouse = write.lakehouse;
    let table = lakehouse.catalog().load_table(ident).await?;
    let mut settings = BTreeMap::from([("partial-progress.enabled".to_owned(), "true".to_owned())]);
    if let Some(files) = number(table.properties(), MIN_INPUT_FILES)? {
        settings.insert("min-input-files".to_owned(), files.to_string());
    }
    if let Some(deletes) = number(table.properties(), DELETE_FILE_THRESHOLD)? {
        settings.insert("delete-file-threshold".to_owned(), deletes.to_string());
        settings.insert("remove-dangling-deletes".to_owned(), "true".to_owned());
    }
    settings.insert("min-file-size-bytes".to_owned(), min_file_size(&table)?.to_string());
    let options = RewriteOptions { settings, buffer_bytes_max: Some(BUFFER_BYTES_MAX), ..RewriteOptions::default() };
    let mut done = Maintained::default();
    if let Some(compacted) = unless_lost(rewrite_data_files(write, ident, &options).await)? {
        done.compacted = compacted;
    }
    let table = lakehouse.catalog().load_table(ident).await?;
    let manifests = match table.current_snapshot_id() {
        Some(current) => table.manifests(current).await?.len(),
        None => 0,
    };
    if manifests > MANIFESTS_MAX
        && let Some(joined) = unless_lost(rewrite_manifests(lakehouse, ident, None).await)?
    {
        done.manifests = joined;
    }
    if let Some(expired) = unless_lost(expire_snapshots(lakehouse, ident, &expiry(&table, Utc::now().timestamp_millis())?).await)? {
        done.expired = expired;
    }
    Ok(done)
}

/// By the table's own rules, or earlier where there are too many snapshots.
pub(super) fn expiry(table: &Table, now_ms: i64) -> Result<ExpireOptions> {
    let most = number(table.properties(), MAX_SNAPSHOTS)?.unwrap_or(MAX_SNAPSHOTS_DEFAULT).max(1);
    let age_ms = number(table.properties(), MAX_SNAPSHOT_AGE)?.unwrap_or(MAX_SNAPSHOT_AGE_DEFAULT_MS);
    let oldest_kept = table.ancestors().nth(usize::try_from(most - 1).unwrap_or(usize::MAX));
    let older_than_ms = oldest_kept.map(|snapshot| snapshot.timestamp_ms()).filter(|at_ms| *at_ms > now_ms.saturating_sub(age_ms));
    Ok(ExpireOptions { older_than_ms, ..ExpireOptions::default() })
}

/// Files below it are worth rewriting; never above what a compaction by hand would take for small.
fn min_file_size(table: &Table) -> Result<u64> {
    let target = number(table.properties(), TARGET_FILE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok());
    let wanted = number(table.properties(), MIN_FILE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(MIN_FILE_SIZE_DEFAULT);
    Ok(target.map_or(wanted, |target| wanted.min(target / 4 * 3)))
}

fn is_due(table: &Table) -> Result<bool> {
    if !table.property(ENABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let every = number(table.properties(), EVERY_COMMITS)?.unwrap_or(EVERY_COMMITS_DEFAULT).max(1);
    let since = table.ancestors().take_while(|snapshot| snapshot.summary().operation != Operation::Replace).count();
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    // Where nothing was worth compacting, ask again only after as many commits.
    Ok(since > 0 && since % every == 0)
}

fn unless_lost<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if matches!(error.code(), ErrorCode::CommitConflict | ErrorCode::Unsupported | ErrorCode::CatalogBusy) => {
            tracing::info!(%error, "a part of a table's maintenance is left for later");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
