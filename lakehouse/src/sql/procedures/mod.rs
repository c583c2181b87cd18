//! The stored procedures, by the names, arguments and result columns that Iceberg documents for Spark. Each checks its
//! arguments, calls `maintenance` and shows what that returns as rows.

mod arguments;
mod changelog;
mod cleanup;
mod import;
mod result;
mod rewrite;
mod snapshots;

use std::future::Future;
use std::pin::Pin;

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::arrow::array::RecordBatch;

use super::Runner;
use crate::table::Table;

pub use arguments::Arguments;

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Long,
    Bool,
    /// A timestamp, text that reads as one, or a number of seconds or milliseconds since 1970.
    Time,
    /// `map('key', 'value', …)`.
    Map,
    /// `array(1, 2, …)`.
    Longs,
    /// `array('a', 'b', …)`.
    Texts,
}

impl Kind {
    fn article(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Long => "a whole number",
            Self::Bool => "true or false",
            Self::Time => "a timestamp",
            Self::Map => "map('key', 'value', …)",
            Self::Longs => "array(1, 2, …)",
            Self::Texts => "array('a', 'b', …)",
        }
    }
}

/// A procedure's parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
}

const fn required(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, required: false }
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<RecordBatch>> + Send + 'a>>;

/// A procedure. Parameters stand in the order of arguments by position.
pub struct Procedure {
    pub name: &'static str,
    pub parameters: &'static [Parameter],
    pub run: for<'a> fn(&'a Runner<'a>, &'a Arguments) -> Running<'a>,
}

fn all() -> impl Iterator<Item = &'static Procedure> {
    [snapshots::PROCEDURES, cleanup::PROCEDURES, rewrite::PROCEDURES, import::PROCEDURES, changelog::PROCEDURES].into_iter().flatten()
}

/// The procedure of that name.
///
/// # Errors
/// `ProcedureNotFound`, with the nearest name.
pub fn find(name: &str) -> Result<&'static Procedure> {
    if let Some(found) = all().find(|procedure| procedure.name.eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    let wanted = name.to_lowercase();
    let nearest = all()
        .map(|procedure| (strsim::jaro_winkler(&wanted, procedure.name), procedure.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.75);
    let hint = match nearest {
        Some((_, near)) => format!("did you mean {near}?"),
        None => format!("there are {}", all().map(|procedure| procedure.name).collect::<Vec<_>>().join(", ")),
    };
    Err(Error::new(ErrorCode::ProcedureNotFound, format!("there is no procedure '{name}'; {hint}")))
}

/// An argument that cannot be used.
pub fn bad_argument(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::ProcedureArgument, message)
}

impl Runner<'_> {
    /// The table that the argument `table` names.
    async fn table_argument(&self, arguments: &Arguments) -> Result<Table> {
        let ident = self.table_name(arguments.required_text("table")?)?;
        super::load_table(self.lakehouse, &ident).await
    }
}
