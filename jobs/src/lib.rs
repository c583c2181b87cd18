//! The platform's jobs. A job is a definition; a run of it is driven by `submit` or by an executor, with the same code.
//!
//! Every step of a job is idempotent: its commit carries the run's id and the step's name, so a repeated step finds itself done.
//! Schemas and transformations stand as SQL under `sql/`, one file per table.

mod batch;
mod files;
mod layers;
mod setup;
mod streaming;

use async_trait::async_trait;
use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::TableIdent;
use chainalytics_lakehouse::dml::WriteMode;
use chainalytics_proto::v1::Progress;
use clap::Parser;
use serde_json::{Value, json};

/// What a job has at hand.
#[derive(Debug, Clone)]
pub struct JobContext {
    session: Session,
}

impl JobContext {
    pub fn new(session: Session) -> Self {
        Self { session }
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A table of the default namespace, or a qualified one.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none.
    pub fn table(&self, name: &str) -> Result<TableIdent> {
        self.session.lakehouse().ident(name)
    }

    /// Tells how far the job is.
    pub fn progress(&self, stage: &str, done: usize, total: usize, rows: u64) {
        let (done, total) = (done as u64, total as u64);
        self.session.run().progress(Progress { stage: stage.to_owned(), done, total, rows, metrics_json: String::new() });
    }

    /// Replaces all rows of `table` by those of a query; the rows written.
    ///
    /// # Errors
    /// Of the query and of the commit.
    pub async fn replace(&self, table: &str, query: &str) -> Result<u64> {
        let frame = self.session.dataframe(query).await?;
        let outcome = self.session.write(frame, &self.table(table)?, WriteMode::OverwriteAll, table).await?;
        Ok(outcome.added_rows)
    }

    /// Stops between steps when the run is to end.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.session.run().cancellation().is_cancelled() {
            return Err(Error::new(ErrorCode::Cancelled, "the run was asked to end"));
        }
        Ok(())
    }
}

/// What a job tells at its end: a JSON object.
pub type JobReport = Value;

/// A job that can be submitted by name.
#[async_trait]
pub trait Job: Send + Sync {
    /// As typed after `submit`.
    fn name(&self) -> &'static str;

    /// One line for `chainalytics jobs`.
    fn description(&self) -> &'static str;

    /// Does the work. Repeating it under the same run id repeats no commit.
    ///
    /// # Errors
    /// `InvalidArgument` for its arguments, and whatever its work can fail with.
    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport>;
}

/// Every job, in the order in which they follow each other.
pub fn all() -> Vec<&'static dyn Job> {
    vec![
        &setup::CreateBronzeTables,
        &setup::CreateSilverTables,
        &setup::CreateGoldTables,
        &setup::VerifyTableCreation,
        &streaming::KafkaToBronze,
        &files::BronzeIngestion,
        &batch::SilverTransformation,
        &batch::GoldAggregation,
    ]
}

/// The job of that name.
pub fn find(name: &str) -> Option<&'static dyn Job> {
    all().into_iter().find(|job| job.name() == name)
}

/// Reads a job's own arguments; `--help` is answered as an error that carries the help text.
fn parse<A: Parser>(job: &str, args: Vec<String>) -> Result<A> {
    A::try_parse_from(std::iter::once(job.to_owned()).chain(args))
        .map_err(|e| Error::new(ErrorCode::InvalidArgument, format!("{job}: {}", e.to_string().trim_end())))
}

/// Arguments of a job that takes none.
#[derive(Debug, Parser)]
struct NoArgs {}

/// The report of a job that filled tables.
fn tables_report(tables: &[(String, u64)]) -> JobReport {
    let map: serde_json::Map<String, Value> = tables.iter().map(|(name, rows)| (name.clone(), json!(rows))).collect();
    json!({ "tables": map, "rows": tables.iter().map(|(_, rows)| rows).sum::<u64>() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn jobs_are_found_by_their_names() {
        let names: std::collections::BTreeSet<_> = all().iter().map(|job| job.name()).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|job| find(job.name()).is_some() && !job.description().is_empty()));
        assert!(find("no_such_job").is_none());
    }

    #[test]
    fn wrong_arguments_name_the_job() {
        let error = parse::<NoArgs>("gold_aggregation", vec!["--wrong".to_owned()]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message().contains("gold_aggregation") && error.message().contains("--wrong"), "{error}");
    }
}
