//! The jobs that this binary knows.

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode};
use serde_json::Value;

/// A job as listed.
pub struct Listed {
    pub name: &'static str,
    pub description: &'static str,
}

/// All jobs, in the order of the documentation.
pub fn all() -> Vec<Listed> {
    Vec::new()
}

/// Runs a job to its end; its report as JSON.
pub async fn run(session: &Session, job: &str, args: Vec<String>) -> Result<Value, Error> {
    let _ = (session, args);
    Err(Error::new(ErrorCode::UnknownJob, format!("there is no job '{job}'")))
}
