//! Errors of this crate, by what the caller must do about them. Every conversion from a library's error is here.

use std::error::Error as StdError;

use chainalytics_common::error::of_object_store;
use chainalytics_common::{Error, ErrorCode};

use crate::ident::TableIdent;

type Source = Box<dyn StdError + Send + Sync>;

/// A caller's mistake.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

/// Our own mistake.
pub(crate) fn internal(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Internal, message)
}

/// A wrong setting.
pub(crate) fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Config, message)
}

/// Something that Iceberg knows and we do not.
pub(crate) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unsupported, message)
}

/// Table metadata that contradicts itself or the specification.
pub(crate) fn metadata(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::TableFormat, message)
}

/// A commit that contradicts what others committed.
pub(crate) fn conflict(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::CommitConflict, message)
}

/// A COMMIT whose answer never came.
pub(crate) fn commit_unknown(source: sqlx::Error) -> Error {
    let message = "the connection to the catalog broke during COMMIT: it may or may not have happened";
    Error::new(ErrorCode::CommitUnknown, message).with_source(source)
}

pub(crate) fn table_not_found(ident: &TableIdent) -> Error {
    Error::new(ErrorCode::TableNotFound, format!("table {ident} does not exist"))
}

pub(crate) fn namespace_not_found(namespace: &str) -> Error {
    Error::new(ErrorCode::NamespaceNotFound, format!("there is no namespace {namespace}; SHOW NAMESPACES lists those that exist"))
}

pub(crate) fn table_exists(ident: &TableIdent) -> Error {
    Error::new(ErrorCode::TableExists, format!("table {ident} exists already"))
}

pub(crate) fn storage_read(location: &str, source: impl Into<Source>) -> Error {
    storage(ErrorCode::StorageRead, format!("cannot read {location}"), source.into())
}

/// What can be done about a file of a table that is gone or damaged.
const LOST_FILE_HELP: &str = "restore the file from a copy, or roll the table back to a snapshot without it";

/// An error while a data file was being read: says which file it was.
pub(crate) fn data_file(path: &str, source: datafusion::error::DataFusionError) -> Error {
    table_file("data file", path, source)
}

/// An error while a Parquet file of a table was being read: says which file it was. Errors that are none of the file's stay
/// as they are.
pub(crate) fn table_file(what: &str, path: &str, source: datafusion::error::DataFusionError) -> Error {
    let error = Error::from_datafusion(source);
    if !matches!(error.code(), ErrorCode::QueryFailed | ErrorCode::StorageRead) || error.message().contains(LOST_FILE_HELP) {
        return error;
    }
    let message = error.message();
    let known = message.strip_prefix(&format!("cannot read {path}: ")).unwrap_or(message);
    Error::new(ErrorCode::StorageRead, format!("cannot read {what} {path}: {}; {LOST_FILE_HELP}", shortened(known))).with_source(error)
}

pub(crate) fn storage_write(location: &str, source: impl Into<Source>) -> Error {
    storage(ErrorCode::StorageWrite, format!("cannot write {location}"), source.into())
}

/// What a store's answer means for the caller: wrong key, no bucket, no store, or something about this one file.
fn storage(otherwise: ErrorCode, what: String, source: Source) -> Error {
    let text = causes(source.as_ref());
    if let Some(told) = Error::parse(&text) {
        // The store named the file already.
        return told.with_source(source);
    }
    let code = of_object_store(&text).unwrap_or(otherwise);
    let why = match code {
        ErrorCode::BucketNotFound => "there is no such bucket".to_owned(),
        ErrorCode::StorageDenied => "the store refuses these credentials".to_owned(),
        ErrorCode::StorageUnreachable => "the store cannot be reached".to_owned(),
        _ => shortened(&text),
    };
    Error::new(code, format!("{what}: {why}")).with_source(source)
}

/// Characters of a cause that a message repeats; some stores answer with pages.
const CAUSE_CHARS_MAX: usize = 400;

fn shortened(text: &str) -> String {
    text.chars().take(CAUSE_CHARS_MAX).collect()
}

/// Text of an error and of what caused it, each told once.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// An error of Arrow's kernels on data that has passed our checks.
pub(crate) fn arrow(source: arrow::error::ArrowError) -> Error {
    Error::new(ErrorCode::Internal, "an Arrow kernel failed").with_source(source)
}

/// An error of Iceberg's library about a table's files. Errors that came from our own stores keep their code.
pub(crate) fn iceberg(source: iceberg::Error) -> Error {
    let code = ours_within(&source).unwrap_or(match source.kind() {
        iceberg::ErrorKind::FeatureUnsupported => ErrorCode::Unsupported,
        _ => ErrorCode::TableFormat,
    });
    Error::new(code, format!("Iceberg metadata: {}", source.message())).with_source(source)
}

/// As [`iceberg`], with the name of the file that could not be read.
pub(crate) fn iceberg_file(what: &str, location: &str, source: iceberg::Error) -> Error {
    table_metadata(what, location, iceberg(source))
}

/// An error about a file of a table's metadata, with the file's name and what can be done.
pub(crate) fn table_metadata(what: &str, location: &str, error: Error) -> Error {
    if !matches!(error.code(), ErrorCode::StorageRead | ErrorCode::TableFormat) {
        return error;
    }
    let known = error.message().strip_prefix(&format!("cannot read {location}: ")).unwrap_or(error.message());
    Error::new(error.code(), format!("cannot read {what} {location}: {known}; {LOST_FILE_HELP}")).with_source(error)
}

/// An error of Iceberg's library about what the caller asked for (a schema, a partition spec, a property).
pub(crate) fn iceberg_input(source: iceberg::Error) -> Error {
    invalid(source.message().to_owned())
}

fn ours_within(error: &(dyn StdError + 'static)) -> Option<ErrorCode> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours.code());
        }
        next = error.source();
    }
    None
}

/// An error of the catalog's database.
pub(crate) fn catalog(source: sqlx::Error) -> Error {
    let (code, message) = match &source {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match code.as_ref() {
                // SQLite: BUSY, LOCKED and their extended codes. PostgreSQL: serialization failure, deadlock, lock not
                // available, too many connections.
                "5" | "6" | "261" | "517" | "773" | "40001" | "40P01" | "55P03" | "53300" => {
                    (ErrorCode::CatalogBusy, "the catalog is locked by another writer".to_owned())
                }
                // PostgreSQL: wrong password, no such user or not from here, no such database, no right to it.
                "28P01" | "28000" | "3D000" | "42501" => (ErrorCode::CatalogDenied, format!("the catalog's database refuses: {}", error.message())),
                _ if is_going_away(error.as_ref()) => {
                    (ErrorCode::CatalogUnreachable, format!("the catalog's database is going away: {}", error.message()))
                }
                _ => (ErrorCode::Catalog, format!("the catalog's database refused a statement: {}", error.message())),
            }
        }
        sqlx::Error::PoolTimedOut => (ErrorCode::CatalogBusy, "no connection to the catalog became free in time".to_owned()),
        sqlx::Error::Configuration(why) => (ErrorCode::Config, format!("catalog.uri: {why}")),
        other => (ErrorCode::CatalogUnreachable, format!("cannot reach the catalog's database: {other}")),
    };
    Error::new(code, message).with_source(source)
}

pub(crate) fn catalog_unreachable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::CatalogUnreachable, message)
}

/// PostgreSQL ends the session (shutdown, crash of another one, still starting): what it says then about a COMMIT that
/// it was just doing is no answer to it.
pub(crate) fn is_going_away(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

pub(crate) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// Whether the same call may succeed a moment later, because it only waited for a lock.
pub(crate) fn is_busy(error: &Error) -> bool {
    error.code() == ErrorCode::CatalogBusy
}
