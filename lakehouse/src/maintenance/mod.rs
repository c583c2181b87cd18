//! Keeping tables in shape: moving branches, expiring snapshots, removing orphans, compaction, import. Each operation is
//! a function over the lakehouse; `sql::procedures` and the command line are thin over them.
//!
//! Files are deleted only here (and when a table is purged), and only after asking what is referenced: `reach`.

mod auto;
mod branches;
mod compact;
mod deletes;
mod expire;
mod files;
mod import;
mod manifests;
mod orphans;
mod publish;
mod reach;
mod retention;

#[cfg(test)]
mod tests;

pub use auto::{Maintained, auto, maintain};
pub use branches::{FastForwarded, Moved, ancestors_of, fast_forward, rollback_to_snapshot, rollback_to_timestamp, set_current_snapshot};
pub use compact::{RewriteOptions, Rewritten, SortBy, Strategy, ZORDER_FUNCTION, rewrite_data_files, zorder_function};
pub use deletes::{RewriteDeletesOptions, RewrittenDeletes, rewrite_position_delete_files};
pub use expire::{ExpireOptions, Expired, expire_snapshots};
pub use import::{ImportOptions, ImportOutcome, Registered, SnapshotOptions, add_files, register_table, snapshot_files};
pub use manifests::{RewrittenManifests, rewrite_manifests};
pub use orphans::{OrphanOptions, PrefixMismatch, remove_orphan_files};
pub use publish::{Published, cherrypick_snapshot, publish_changes};

use std::collections::HashMap;

use chainalytics_common::Result;

use crate::err;
use crate::table::Table;

/// Property: `false` forbids deleting files of the table, because others refer to them too.
const GC_ENABLED: &str = "gc.enabled";

fn refuse_without_gc(table: &Table, what: &str) -> Result<()> {
    match table.property(GC_ENABLED) {
        Some(value) if value.eq_ignore_ascii_case("false") => Err(err::invalid(format!(
            "table {}: {what} deletes files, which the table's property {GC_ENABLED}=false forbids: others may refer to them",
            table.ident()
        ))),
        _ => Ok(()),
    }
}

/// A number among a table's properties.
///
/// # Errors
/// `InvalidArgument` for a value that is none: guessing could delete what should have been kept.
fn number(properties: &HashMap<String, String>, key: &str) -> Result<Option<i64>> {
    match properties.get(key) {
        None => Ok(None),
        Some(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(err::invalid(format!("table property {key} is '{text}', it must be a whole number"))),
        },
    }
}
