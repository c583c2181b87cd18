//! Rows to data files: `WriteSpec` says how, `DataFileWriter` does it on an executor, `IcebergWriteExec` puts it into a
//! plan. Nothing here commits: the files are invisible until `commit` makes them a snapshot.

mod data_file;
mod delta;
mod exec;
mod footer;
mod function;
mod metrics;
mod partition;
mod plan;
mod puffin;
mod spec;
pub mod transform;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use data_file::partition_json;
pub use data_file::{DataFileInfo, FileContent};
pub use delta::{DELETE, DeltaTarget, INSERT, OPERATION_COLUMN, RowDelta, UPDATE};
pub use exec::{IcebergWriteExec, data_file_schema};
pub(crate) use footer::fill_from_footer;
pub use function::transform_function;
pub(crate) use function::transformed;
pub use plan::{IcebergWriteNode, IcebergWritePlanner};
pub use spec::{COMPRESSION_CODEC, COMPRESSION_LEVEL, DATA_PATH, FANOUT_MAX, ROW_GROUP_LIMIT, ROW_GROUP_SIZE, SortKey, TARGET_FILE_SIZE, WriteSpec};
pub use writer::DataFileWriter;
