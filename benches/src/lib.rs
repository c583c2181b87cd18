//! Benchmarks that drive the release binary as its users do, each beside something else in the same run: single-process DataFusion, DuckDB, Spark.
//! `benches/README.md` has the commands and what they gave.

pub mod answers;
pub mod beside;
mod events;
pub mod freshness;
pub mod http;
mod kafka;
pub mod lakehouse;
pub(crate) mod live;
pub mod machine;
pub mod maintenance;
pub mod parts;
pub mod peers;
pub mod process;
pub mod results;
pub mod sampler;
pub mod soak;
mod spark;
pub mod streaming;
pub mod tpch;
pub mod wide_tables;

/// What a benchmark could not do, for the person who started it.
pub type Result<T> = std::result::Result<T, String>;

/// Tells the person on stderr how far things are.
pub fn note(text: &str) {
    eprintln!("bench: {text}");
}
