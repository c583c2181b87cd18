//! Data files to snapshots. A `Transaction` holds one change per table; committing it loads the tables, validates,
//! writes manifests, manifest list and metadata file of each, and moves all of them in one SQL transaction. When another
//! commit was faster, it starts over from the loading: nothing is rebased blindly.

pub(crate) mod carry;
mod change;
mod edit;
mod layout_change;
mod manifests;
mod metadata;
mod name_mapping;
mod prepare;
pub(crate) mod rearrange;
mod ref_change;
mod removal;
mod retry;
mod schema_change;
mod summary;
mod transaction;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::ident::TableIdent;

pub use change::{ConflictCheck, Decision, FileFilter, TableChange, Validator};
pub use edit::{ReplaceTable, TableEdit};
pub use layout_change::{PartitionEdit, PartitionTarget, SortTerm, Term};
pub(crate) use manifests::target_bytes;
pub(crate) use metadata::redefined;
pub(crate) use name_mapping::{NAME_MAPPING, name_mapping_of};
pub use ref_change::{RefEdit, RefMode, RefRetention};
pub(crate) use schema_change::find_column;
pub use schema_change::{ColumnPath, Position, SchemaEdit};
pub use transaction::Transaction;

/// Summary key: run that wrote a snapshot.
pub const RUN_ID_KEY: &str = "chainalytics.run-id";
/// Summary key: step of the run; a (run, step) pair commits at most once per table.
pub const STEP_KEY: &str = "chainalytics.step";

/// Summary key: name of a staged change (write-audit-publish).
pub const STAGED_KEY: &str = "wap.id";

/// What a commit carries beside its changes.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Run on whose behalf this commits. With `step` it makes the commit idempotent.
    pub run_id: Option<String>,
    /// Step within the run.
    pub step: Option<String>,
    /// More summary entries, for every table of the transaction.
    pub summary: BTreeMap<String, String>,
}

impl CommitOptions {
    /// Options of an idempotent step.
    pub fn step(run_id: impl Into<String>, step: impl Into<String>) -> Self {
        Self { run_id: Some(run_id.into()), step: Some(step.into()), summary: BTreeMap::new() }
    }

    /// Adds a summary entry.
    #[must_use]
    pub fn with_summary(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.summary.insert(key.into(), value.into());
        self
    }
}

/// What a commit did to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOutcome {
    /// The table.
    pub ident: TableIdent,
    /// The step had been committed before; nothing was written now. The counters are those of that snapshot.
    pub already_committed: bool,
    /// Snapshot of the change; `None` if only metadata changed.
    pub snapshot_id: Option<i64>,
    /// Current metadata file after the commit.
    pub metadata_location: String,
    /// Rows in added files.
    pub added_rows: u64,
    /// Added data files.
    pub added_files: u64,
    /// Rows in removed files.
    pub removed_rows: u64,
    /// Removed data files.
    pub removed_files: u64,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOutcome {
    /// One entry per change, in the order they were added.
    pub tables: Vec<TableOutcome>,
    /// Times the tables were loaded and built; 1 without a conflict.
    pub attempts: u32,
}

impl CommitOutcome {
    /// Outcome for one table.
    pub fn table(&self, ident: &TableIdent) -> Option<&TableOutcome> {
        self.tables.iter().find(|table| &table.ident == ident)
    }

    /// Whether nothing was left to do for any table.
    pub fn already_committed(&self) -> bool {
        !self.tables.is_empty() && self.tables.iter().all(|table| table.already_committed)
    }
}
