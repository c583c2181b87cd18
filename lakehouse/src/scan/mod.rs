//! Reading tables: a table provider pinned to one snapshot.
//!
//! Path of the data: snapshot → `files` (manifests, pruned by `pruning`) → `evolution` (names by field id) →
//! `build` (`DataSourceExec` over balanced file groups, with `statistics`), or `read` where rows were deleted (`deletes`).

mod build;
pub(crate) mod changes;
mod damage;
pub(crate) mod deletes;
mod evolution;
pub(crate) mod files;
mod groups;
mod judge;
mod lent;
mod metadata_columns;
mod partition_column;
mod provider;
mod pruning;
pub(crate) mod read;
mod selector;
mod statistics;
pub(crate) mod values;

pub use changes::{Incremental, SnapshotRange};
pub use damage::{name_damaged_file, naming_damaged_files};
pub(crate) use judge::is_total;
pub(crate) use lent::{LentCredentialsExec, with_lent};
pub use metadata_columns::{FILE_COLUMN, LAST_UPDATED_COLUMN, MetadataColumn, POSITION_COLUMN, ROW_ID_COLUMN};
pub use partition_column::PartitionColumn;
pub use provider::{IcebergTableProvider, ScanOptions};
pub(crate) use provider::{is_plain, plain_type};
pub use read::IcebergReadExec;
pub use selector::SnapshotSelector;
