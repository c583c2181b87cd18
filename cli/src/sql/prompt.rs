//! The interactive prompt: reads statements line by line until `;`, understands a few backslash commands, keeps a history file.

use std::path::{Path, PathBuf};

use chainalytics_common::{Error, ErrorCode};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use super::run::Runner;
use super::split::split;
use crate::error::{CliError, CliResult};
use crate::output;

/// Statements kept in the history file.
const HISTORY_ENTRIES: usize = 2000;

const HELP: &str = "Statements end with ';' and may span lines.\n\
  \\d             list tables\n  \
  \\d TABLE       columns of a table\n  \
  \\timing        switch row counts and times on or off\n  \
  \\?             this help\n  \
  \\q             leave (also Ctrl-D)";

/// What a line that begins with a backslash asks for.
#[derive(Debug, PartialEq, Eq)]
enum Meta {
    Quit,
    Help,
    Timing,
    /// A statement that answers it.
    Sql(String),
    Unknown(String),
}

fn meta(line: &str) -> Option<Meta> {
    let command = line.trim().strip_prefix('\\')?;
    let command = command.trim_end_matches(';').trim();
    let (name, argument) = command.split_once(char::is_whitespace).map_or((command, ""), |(n, a)| (n, a.trim()));
    Some(match (name, argument) {
        ("q" | "quit", "") => Meta::Quit,
        ("?" | "h" | "help", "") => Meta::Help,
        ("timing", "") => Meta::Timing,
        ("d" | "dt", "") => Meta::Sql("SHOW TABLES".to_owned()),
        ("d", table) => Meta::Sql(format!("DESCRIBE {table}")),
        _ => Meta::Unknown(line.trim().to_owned()),
    })
}

/// Runs until the user leaves. An error is printed and the prompt comes back.
pub async fn run(runner: &mut Runner, history: PathBuf) -> CliResult<()> {
    let mut editor = open(&history)?;
    output::note("ChainAnalytics SQL; \\? for help, \\q to leave");
    let mut pending = String::new();
    loop {
        let prompt = if pending.is_empty() { "chainalytics> " } else { "          ...> " };
        // The editor blocks its thread, so it goes to one that may block and comes back with the line.
        let (returned, line) = tokio::task::spawn_blocking(move || {
            let line = editor.readline(prompt);
            (editor, line)
        })
        .await
        .map_err(|e| CliError::internal(format!("the prompt failed: {e}")))?;
        editor = returned;
        match line {
            Ok(line) if pending.is_empty() && line.trim().is_empty() => {}
            Ok(line) => {
                if pending.is_empty()
                    && let Some(meta) = meta(&line)
                {
                    let _ = editor.add_history_entry(line.trim());
                    match meta {
                        Meta::Quit => break,
                        Meta::Help => output::note(HELP),
                        Meta::Timing => output::note(if runner.toggle_timing() { "timing is on" } else { "timing is off" }),
                        Meta::Sql(sql) => statement(runner, &sql).await?,
                        Meta::Unknown(text) => output::note(&format!("{text}: unknown command; \\? lists them")),
                    }
                    continue;
                }
                pending.push_str(&line);
                pending.push('\n');
                let cut = split(&pending);
                if cut.statements.is_empty() && !cut.open && cut.rest.is_empty() {
                    // Only comments or lone semicolons.
                    pending.clear();
                } else if !cut.statements.is_empty() {
                    let done = if cut.rest.is_empty() { pending.trim() } else { pending.trim_end_matches(&cut.rest).trim() };
                    let _ = editor.add_history_entry(done);
                    for sql in &cut.statements {
                        statement(runner, sql).await?;
                    }
                    pending = if cut.rest.is_empty() { String::new() } else { format!("{}\n", cut.rest) };
                }
            }
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(Error::new(ErrorCode::Io, format!("cannot read from the terminal: {error}")).into()),
        }
        let _ = editor.save_history(&history);
    }
    let _ = editor.save_history(&history);
    Ok(())
}

/// Only a closed stdout ends the session.
async fn statement(runner: &mut Runner, sql: &str) -> CliResult<()> {
    match runner.statement(sql).await {
        Err(CliError::BrokenPipe) => Err(CliError::BrokenPipe),
        Err(error) => {
            error.print(false);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn open(history: &Path) -> CliResult<Editor<(), FileHistory>> {
    let failed = |e: ReadlineError| CliError::from(Error::new(ErrorCode::Io, format!("cannot use the terminal: {e}")));
    let config = Config::builder().max_history_size(HISTORY_ENTRIES).map_err(failed)?.auto_add_history(false).build();
    let mut editor = Editor::with_config(config).map_err(failed)?;
    if let Some(dir) = history.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    // The first time there is none.
    let _ = editor.load_history(history);
    Ok(editor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn backslash_commands() {
        assert_eq!(meta("select 1"), None);
        assert_eq!(meta(" \\q "), Some(Meta::Quit));
        assert_eq!(meta("\\d;"), Some(Meta::Sql("SHOW TABLES".into())));
        assert_eq!(meta("\\d silver_products;"), Some(Meta::Sql("DESCRIBE silver_products".into())));
        assert_eq!(meta("\\timing"), Some(Meta::Timing));
        assert_eq!(meta("\\x"), Some(Meta::Unknown("\\x".into())));
    }
}
