//! The lakehouse: Iceberg tables read and written by DataFusion plans.
//!
//! Data's way through the crate: `catalog` finds a table, `scan` plans its files, `write` turns rows into Parquet data
//! files on executors, `commit` makes those files a snapshot. `sql` drives the four from statements.
//!
//! Only this crate names `iceberg`; its arrow 58 types never leave it.

pub mod catalog;
pub mod codec;
pub mod commit;
pub mod dml;
pub mod exec;
pub mod maintenance;
pub mod scan;
pub mod sql;
pub mod store;
pub mod table;
pub mod write;

mod err;
mod ident;
mod lakehouse;
mod settings;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod test_support;

pub use catalog::{Catalog, CreateTable, PartitionFieldDef};
pub use commit::{CommitOptions, CommitOutcome, Decision, TableChange, Transaction};
pub use ident::TableIdent;
pub use lakehouse::Lakehouse;
pub use settings::SessionSettings;
pub use store::StoreRegistry;
pub use table::{SnapshotInfo, Table};
pub use write::{DataFileInfo, DataFileWriter, WriteSpec};
