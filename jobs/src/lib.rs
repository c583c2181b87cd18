//! The platform's jobs. A job is a definition; a run of it is driven by `submit` or by an executor, with the same code.
//!
//! Every step of a job is idempotent: its commit carries the run's id and the step's name, so a repeated step finds itself done.
//! Schemas and transformations stand as SQL under `sql/`, one file per table.

mod derived;
mod files;
mod gold;
mod kafka_to_bronze;
mod late;
mod layers;
mod quality;
mod reprocessing;
mod retention;
mod rows;
mod scd;
mod setup;
mod silver;
mod source;
mod stage;
mod stateful;
mod stream_dedup;
mod stream_join;
mod windows;

use std::time::Duration;

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode, Result, keys};
use chainalytics_lakehouse::TableIdent;
use chainalytics_proto::v1::Progress;
use clap::Parser;
use futures::future::BoxFuture;
use serde_json::Value;

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
///
/// Its future is written out instead of left to `async_trait`: the bounds that the macro adds keep the compiler from reusing any of the thousands of
/// proofs that the future is `Send`, which cost several seconds for every job.
pub trait Job: Send + Sync {
    /// As typed after `submit`.
    fn name(&self) -> &'static str;

    /// One line for `chainalytics jobs`.
    fn description(&self) -> &'static str;

    /// Does the work. Repeating it under the same run id repeats no commit.
    ///
    /// # Errors
    /// `InvalidArgument` for its arguments, and whatever its work can fail with.
    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>>;
}

/// Every job, in the order in which they follow each other.
pub fn all() -> Vec<&'static dyn Job> {
    vec![
        &setup::CreateBronzeTables,
        &setup::CreateSilverTables,
        &setup::CreateGoldTables,
        &setup::VerifyTableCreation,
        &kafka_to_bronze::KafkaToBronze,
        &files::BronzeIngestion,
        &late::LateDataHandler,
        &windows::WindowAggregation,
        &stream_join::StreamJoin,
        &stream_dedup::StreamDedup,
        &silver::SilverTransformation,
        &gold::GoldAggregation,
        &scd::ScdCustomer,
        &quality::QualityChecks,
        &retention::ApplyRetention,
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

/// An argument such as 30s, 5m, 48h.
fn parse_duration(text: &str) -> Result<Duration, String> {
    <Duration as keys::Value>::parse(text).ok_or_else(|| format!("{text:?} is no duration such as 30s, 5m, 48h"))
}

/// An argument such as 2026-01-31T12:00:00Z, as microseconds since the epoch.
fn parse_moment(text: &str) -> Result<i64, String> {
    let parsed = chrono::DateTime::parse_from_rfc3339(text).map_err(|e| format!("{text:?} is no time such as 2026-01-31T12:00:00Z: {e}"))?;
    Ok(parsed.timestamp_micros())
}

/// A short name of a text, the same in every run: for steps that must be told apart by what they do.
fn digest(text: &str) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()
}

/// This moment, microseconds since the epoch.
fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
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
