//! `chainalytics completions`: a script that completes commands and options in a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::CliResult;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  chainalytics completions bash > ~/.local/share/bash-completion/completions/chainalytics")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> CliResult<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "chainalytics", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
