//! The history server: replays event logs into the REST bodies of `/api/v1` and serves the same page as the scheduler, also when the
//! scheduler is gone.
//!
//! The data's way: log directory -> [`scan`](mod@scan) (finds what changed, reads it) -> [`catalog::Catalog`] (small entries of every run and
//! query, bounded) -> [`http`] (lists from the catalog, details replayed from their file through a small cache).
//!
//! Memory is bounded by the number of index entries and cached details, both limited, and not by the size or number of logs.

mod catalog;
mod config;
mod driver_log;
mod error;
mod http;
mod options;
mod replayed;
mod scan;
mod server;

pub use config::run;
pub use error::HistoryError;
pub use options::HistoryOptions;
pub use server::serve;
