//! What a command can end with, how it is told, and which exit code follows.

use std::io;

use chainalytics_common::{Error, ErrorCode};
use serde_json::json;

use crate::output;

/// The work failed.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 2;
/// Ended by Ctrl-C or SIGTERM, as shells have it.
pub const EXIT_INTERRUPTED: u8 = 130;

pub type CliResult<T> = Result<T, CliError>;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An error of the platform.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The failure has been shown as the command's result; only the exit code is left.
    #[error(transparent)]
    Reported(Error),
    /// A run ended with an error: whatever its code, the command line was right.
    #[error(transparent)]
    RunFailed(Error),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Nobody reads stdout any more (`| head`): not an error.
    #[error("stdout is closed")]
    BrokenPipe,
}

impl CliError {
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(ErrorCode::InvalidArgument, message.into()).into()
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorCode::Internal, message.into()).into()
    }

    pub fn reported(error: Error) -> Self {
        Self::Reported(error)
    }

    pub fn from_stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Error::new(ErrorCode::Io, format!("cannot write to stdout: {error}")).into(),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Interrupted => EXIT_INTERRUPTED,
            Self::Failed(error) | Self::Reported(error) if is_usage(error.code()) => EXIT_USAGE,
            Self::Failed(_) | Self::Reported(_) | Self::RunFailed(_) => EXIT_FAILED,
        }
    }

    /// Tells it on stderr: `error[CA-...]: what, where`, then `help: what to do`; as one JSON object with `json`.
    pub fn print(&self, json: bool) {
        match self {
            Self::BrokenPipe | Self::Reported(_) => {}
            Self::Interrupted => {
                if json {
                    output::note(&json!({ "error": { "code": "INTERRUPTED", "message": "interrupted" } }).to_string());
                } else {
                    output::note("interrupted");
                }
            }
            Self::Failed(error) | Self::RunFailed(error) => output::note(&render(error, json)),
        }
    }
}

/// Prints what clap found, or the help that was asked for; the exit code. Which output was wanted is not parsed yet, so the arguments are looked at.
pub fn print_usage(error: &clap::Error) -> u8 {
    let args: Vec<_> = std::env::args().take_while(|arg| arg != "--").collect();
    let json = args.iter().any(|arg| arg == "--output=json") || args.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    if !error.use_stderr() || !json {
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        let (message, help) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim_start_matches("error: ");
        let code = ErrorCode::InvalidArgument.as_str();
        output::note(&json!({ "error": { "code": code, "message": message, "help": help.trim() } }).to_string());
    }
    if error.use_stderr() { EXIT_USAGE } else { 0 }
}

/// Errors that the user mends at the command line or in the configuration.
fn is_usage(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Config | ErrorCode::InvalidArgument | ErrorCode::UnknownJob)
}

fn render(error: &Error, json: bool) -> String {
    if json {
        let help = error.help();
        return json!({ "error": { "code": error.code().as_str(), "message": error.message(), "help": help } }).to_string();
    }
    let mut text = format!("error[{}]: {}", error.code().as_str(), error.message());
    if let Some(help) = error.help() {
        text.push_str(&format!("\nhelp: {help}"));
    }
    text
}
