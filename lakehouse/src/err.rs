//! Errors of this crate, by what the caller must do about them. Every conversion from a library's error is here.

use std::error::Error as StdError;

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

pub(crate) fn table_exists(ident: &TableIdent) -> Error {
    Error::new(ErrorCode::TableExists, format!("table {ident} exists already"))
}

pub(crate) fn storage_read(location: &str, source: impl Into<Source>) -> Error {
    Error::new(ErrorCode::StorageRead, format!("cannot read {location}")).with_source(source)
}

pub(crate) fn storage_write(location: &str, source: impl Into<Source>) -> Error {
    Error::new(ErrorCode::StorageWrite, format!("cannot write {location}")).with_source(source)
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
            // SQLite: BUSY, LOCKED and their extended codes. PostgreSQL: serialization failure, deadlock, lock not
            // available.
            let busy = matches!(code.as_ref(), "5" | "6" | "261" | "517" | "773" | "40001" | "40P01" | "55P03");
            match busy {
                true => (ErrorCode::CatalogBusy, "the catalog is locked by another writer"),
                false => (ErrorCode::Catalog, "the catalog's database refused a statement"),
            }
        }
        sqlx::Error::PoolTimedOut => (ErrorCode::CatalogBusy, "no connection to the catalog became free in time"),
        _ => (ErrorCode::CatalogUnreachable, "cannot reach the catalog's database"),
    };
    Error::new(code, message).with_source(source)
}

pub(crate) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// Whether the same call may succeed a moment later, because it only waited for a lock.
pub(crate) fn is_busy(error: &Error) -> bool {
    error.code() == ErrorCode::CatalogBusy
}

