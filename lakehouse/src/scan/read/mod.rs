//! Reading data files that need more than Parquet's own reader: rows deleted since they were written, positions of
//! rows, columns with defaults.
//!
//! The leaf is a memory scan whose rows are units of work (`spec`): a data file or a range of its row groups, with the
//! delete files that apply to it. `IcebergReadExec` (`exec`) above it reads them on executors; `open` opens a unit's file,
//! `predicate` lets it skip row groups and pages, `reshape` gives nested columns the table's form, `load` reads delete files,
//! `filter` takes deleted rows out of batches.

mod exec;
mod filter;
mod load;
mod open;
mod predicate;
mod reshape;
mod spec;
mod tally;
pub(crate) mod vector;

pub use exec::IcebergReadExec;
pub(crate) use spec::{Output, ReadSpec, ReadUnit, unit_source};
