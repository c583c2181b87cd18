//! Runs one statement after the other in one session and prints each result.

use std::time::{Duration, Instant};

use chainalytics_client::Session;
use chainalytics_lakehouse::sql::StatementResult;

use super::print;
use super::split::split;
use crate::error::{CliError, CliResult};
use crate::output::{self, Format};
use crate::signals::LastResort;

/// How long a statement may take to give way to Ctrl-C.
const INTERRUPT_GRACE: Duration = Duration::from_secs(3);

/// A session with the way its results are shown.
pub struct Runner {
    session: Session,
    format: Format,
    /// Row counts and times on stderr.
    timing: bool,
}

impl Runner {
    pub fn new(session: Session, format: Format, timing: bool) -> Self {
        Self { session, format, timing }
    }

    /// Waits until queries that were let go are cancelled on the cluster.
    pub async fn close(&self) {
        self.session.close().await;
    }

    /// Switches row counts and times; whether they are on now.
    pub fn toggle_timing(&mut self) -> bool {
        self.timing = !self.timing;
        self.timing
    }

    /// Runs all statements of a script, up to the first error.
    pub async fn script(&mut self, script: &str) -> CliResult<()> {
        let cut = split(script);
        for sql in cut.statements.iter().chain(Some(&cut.rest).filter(|rest| !rest.is_empty())) {
            self.statement(sql).await?;
        }
        Ok(())
    }

    /// Runs one statement. Ctrl-C cancels it: the query goes with its stream.
    pub async fn statement(&mut self, sql: &str) -> CliResult<()> {
        let started = Instant::now();
        let _last_resort = LastResort::after(INTERRUPT_GRACE);
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
            done = self.execute(sql) => {
                let told = done?;
                if self.timing {
                    output::note(&format!("{told} in {:.3} s", started.elapsed().as_secs_f64()));
                }
                Ok(())
            }
        }
    }

    /// What happened, for people.
    async fn execute(&self, sql: &str) -> CliResult<String> {
        match self.session.sql(sql).await? {
            StatementResult::Rows(rows) => {
                let count = print::print(rows, self.format).await?;
                Ok(if count == 1 { "1 row".to_owned() } else { format!("{} rows", output::thousands(count)) })
            }
            _ => Ok("OK".to_owned()),
        }
    }
}
