//! `chainalytics`: every process and every command of the platform in one binary.
//!
//! `args` says what can be typed, `commands/` has one file per command, `context` holds what all of them need, `output` is the only place
//! that writes to stdout, and `error` decides the exit code.

mod args;
mod cluster;
mod commands;
mod context;
mod demo;
mod error;
mod heap;
mod output;
mod progress;
mod registry;
mod runs;
mod signals;
mod sql;
mod submit;
mod suggest;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::error::{CliError, EXIT_FAILED};

/// Plans nest deeply; the default of 2 MiB is too little for the widest of them.
const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    heap::bound();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(error::print_usage(&error)),
    };
    let json = cli.global.json();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(THREAD_STACK_BYTES).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start the runtime: {error}"));
            return ExitCode::from(EXIT_FAILED);
        }
    };
    heap::trim_in_background(&runtime);
    // A defect ends with the exit code of failed work, not with one of its own; the panic itself has been printed.
    let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(commands::run(cli))));
    // A prompt or a blocked read must not keep the process.
    runtime.shutdown_background();
    let result = result.unwrap_or_else(|_| Err(CliError::internal("the command died")));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(json);
            ExitCode::from(error.exit_code())
        }
    }
}
