//! `chainalytics sql`: statements from the command line, files, a pipe, or a prompt.

use std::io::Read as _;
use std::path::PathBuf;

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode};
use clap::Args;

use crate::context::Context;
use crate::error::CliResult;
use crate::output;
use crate::sql::prompt;
use crate::sql::run::Runner;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  chainalytics sql -e 'SELECT event_type, count(*) FROM silver_user_events GROUP BY 1' --output json\n  \
                        chainalytics sql -f report.sql --output csv > report.csv\n  \
                        echo 'SHOW TABLES' | chainalytics sql --master 'local[2]'\n  \
                        chainalytics sql                     a prompt; \\? lists its commands\n\n\
                        With --output json every row is one JSON object on a line of its own. Row counts and times go to stderr.")]
pub struct SqlArgs {
    /// Run these statements; may be repeated
    #[arg(short = 'e', long = "execute", value_name = "SQL", conflicts_with = "file")]
    execute: Vec<String>,
    /// Run the statements of this file (- for stdin); may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Vec<PathBuf>,
}

pub async fn run(context: &Context, args: SqlArgs) -> CliResult<()> {
    let mut scripts = args.execute;
    for file in &args.file {
        scripts.push(read(file)?);
    }
    let interactive = scripts.is_empty() && output::stdin_is_terminal();
    if scripts.is_empty() && !interactive {
        scripts.push(read_stdin()?);
    }
    let session = Session::connect(context.config(), context.master()?).await?;
    let mut runner = Runner::new(session, context.format(), !context.quiet());
    let done =
        if interactive { prompt::run(&mut runner, context.data_dir().join("sql_history")).await } else { run_all(&mut runner, &scripts).await };
    runner.close().await;
    done
}

async fn run_all(runner: &mut Runner, scripts: &[String]) -> CliResult<()> {
    for script in scripts {
        runner.script(script).await?;
    }
    Ok(())
}

/// A file's text, or stdin's for `-`.
pub fn read(file: &std::path::Path) -> CliResult<String> {
    if file.as_os_str() == "-" {
        return read_stdin();
    }
    std::fs::read_to_string(file)
        .map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("cannot read the SQL file {}: {e}", file.display())).into())
}

fn read_stdin() -> CliResult<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| Error::new(ErrorCode::Io, format!("cannot read statements from stdin: {e}")))?;
    Ok(text)
}
