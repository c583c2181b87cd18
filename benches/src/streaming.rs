//! Under construction in the next commit: options of the benchmark.

use crate::Result;

#[derive(Debug, clap::Args)]
pub struct Options {}

/// # Errors
/// Always.
pub fn run(_options: &Options) -> Result<()> {
    Err("this benchmark is not written yet".to_owned())
}
