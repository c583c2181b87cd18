use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use chainalytics_common::{Error, Result};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use super::SqlOptions;
use crate::err;

/// Connections to one of the two databases. Both read `$1` placeholders, so a statement is written once.
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Runs the same code against whichever pool it is.
macro_rules! with_pool {
    ($target:expr, $pool:ident => $body:expr) => {
        match $target {
            $crate::catalog::sql::pool::Pool::Sqlite($pool) => $body,
            $crate::catalog::sql::pool::Pool::Postgres($pool) => $body,
        }
    };
}
pub(crate) use with_pool;

/// A connection that nobody used for so long is closed.
const POSTGRES_IDLE_MAX: Duration = Duration::from_secs(60);
/// How long the server lets a transaction of ours be silent before it rolls it back, in milliseconds: a process that froze in the middle of a commit
/// must not keep its successor from the tables. Ours take a few statements, one right after the other.
const POSTGRES_FROZEN_MAX_MS: &str = "10000";

const CREATE_TABLES: &str = "CREATE TABLE IF NOT EXISTS iceberg_tables (\
    catalog_name VARCHAR(255) NOT NULL, \
    table_namespace VARCHAR(255) NOT NULL, \
    table_name VARCHAR(255) NOT NULL, \
    metadata_location VARCHAR(1000), \
    previous_metadata_location VARCHAR(1000), \
    iceberg_type VARCHAR(5), \
    PRIMARY KEY (catalog_name, table_namespace, table_name))";

const CREATE_NAMESPACES: &str = "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (\
    catalog_name VARCHAR(255) NOT NULL, \
    namespace VARCHAR(255) NOT NULL, \
    property_key VARCHAR(255) NOT NULL, \
    property_value VARCHAR(1000), \
    PRIMARY KEY (catalog_name, namespace, property_key))";

impl Pool {
    pub(super) async fn connect(options: &SqlOptions) -> Result<Self> {
        match scheme_of(&options.uri) {
            "sqlite" => Self::sqlite(options).await,
            "postgresql" | "postgres" => Self::postgres(options).await,
            other => Err(err::config(format!("catalog.uri: '{other}' is none of sqlite, postgresql and http(s)"))),
        }
    }

    async fn sqlite(options: &SqlOptions) -> Result<Self> {
        let path = sqlite_path(&options.uri)?;
        if let Some(parent) = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(parent).await.map_err(|e| err::config(format!("catalog.uri: cannot create {}: {e}", parent.display())))?;
        }
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            // Readers do not wait for a writer, nor a writer for readers.
            .journal_mode(SqliteJournalMode::Wal)
            // A commit must survive a power cut: the row is the only pointer to the table.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(options.busy_timeout);
        let pool = SqlitePoolOptions::new()
            .max_connections(options.connections_max)
            .acquire_timeout(options.busy_timeout.max(Duration::from_secs(1)))
            .connect_with(connect)
            .await
            .map_err(err::catalog)?;
        Ok(Self::Sqlite(pool))
    }

    async fn postgres(options: &SqlOptions) -> Result<Self> {
        // SQLAlchemy names its driver in the scheme: `postgresql+psycopg2://`.
        let (scheme, rest) = options.uri.split_once("://").unwrap_or(("postgresql", ""));
        let uri = format!("{}://{rest}", scheme.split('+').next().unwrap_or("postgresql"));
        let lock_timeout_ms = options.busy_timeout.as_millis().to_string();
        let connect = PgConnectOptions::from_str(&uri)
            .map_err(|e| err::config(format!("catalog.uri is not a PostgreSQL URL: {e}")))?
            .application_name("chainalytics")
            .options([("lock_timeout", lock_timeout_ms.as_str()), ("idle_in_transaction_session_timeout", POSTGRES_FROZEN_MAX_MS)]);
        // The pool takes a refused connection for a server that is starting and tries until its time is up. At the start
        // nobody knows yet that there is a server, so the first connection is made without the pool and told at once.
        let (host, port) = (connect.get_host().to_owned(), connect.get_port());
        match tokio::time::timeout(options.connect_timeout, connect.connect()).await {
            Ok(Ok(connection)) => {
                if let Err(error) = connection.close().await {
                    tracing::debug!(%error, "closing the first connection to the catalog");
                }
            }
            Ok(Err(error)) => return Err(err::catalog(error)),
            Err(_) => {
                return Err(err::catalog_unreachable(format!(
                    "the catalog's database at {host}:{port} does not answer within {:?}",
                    options.connect_timeout
                )));
            }
        }
        let pool = PgPoolOptions::new()
            .max_connections(options.connections_max)
            .acquire_timeout(options.busy_timeout.max(Duration::from_secs(1)))
            // Twelve processes of a cluster share one server's connections: idle ones are given back.
            .idle_timeout(POSTGRES_IDLE_MAX)
            .connect_lazy_with(connect);
        Ok(Self::Postgres(pool))
    }

    /// An error of a statement. A PostgreSQL server that is away looks to the pool like connections that are all in use;
    /// but then some would be open.
    pub(super) fn error(&self, error: sqlx::Error) -> Error {
        match (self, &error) {
            (Self::Postgres(pool), sqlx::Error::PoolTimedOut) if pool.size() < pool.options().get_max_connections() => {
                err::catalog_unreachable("the catalog's database does not answer")
            }
            _ => err::catalog(error),
        }
    }

    pub(super) async fn create_tables(&self) -> Result<()> {
        for sql in [CREATE_TABLES, CREATE_NAMESPACES] {
            with_pool!(self, pool => {
                match sqlx::query(sql).execute(pool).await {
                    // Two processes that start together on PostgreSQL may both see no table; the other one made it.
                    Ok(_) => {}
                    Err(e) if err::is_unique_violation(&e) => {}
                    Err(e) => return Err(self.error(e)),
                }
            });
        }
        Ok(())
    }

    pub(super) async fn has_type_column(&self) -> Result<bool> {
        let count: i64 = match self {
            Self::Sqlite(pool) => {
                let sql = "SELECT count(*) FROM pragma_table_info('iceberg_tables') WHERE name = 'iceberg_type'";
                sqlx::query_scalar(sql).fetch_one(pool).await.map_err(|e| self.error(e))?
            }
            Self::Postgres(pool) => {
                let sql = "SELECT count(*) FROM information_schema.columns \
                           WHERE table_name = 'iceberg_tables' AND column_name = 'iceberg_type' \
                           AND table_schema = ANY (current_schemas(false))";
                sqlx::query_scalar(sql).fetch_one(pool).await.map_err(|e| self.error(e))?
            }
        };
        Ok(count > 0)
    }
}

fn scheme_of(uri: &str) -> &str {
    uri.split([':', '+']).next().unwrap_or_default()
}

/// File of a SQLAlchemy URI: `sqlite:////abs/x.db` is absolute, `sqlite:///x.db` relative; `sqlite:x.db` passes too.
fn sqlite_path(uri: &str) -> Result<&str> {
    let rest = uri.split_once(':').map(|(_, rest)| rest).unwrap_or_default();
    let path = rest.strip_prefix("///").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
    let path = path.split('?').next().unwrap_or_default();
    if path.is_empty() || path == ":memory:" {
        return Err(err::config("catalog.uri: an in-memory SQLite catalog would be lost with its process"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sqlite_uris_are_sqlalchemys() {
        assert_eq!(sqlite_path("sqlite:////abs/catalog.db").unwrap(), "/abs/catalog.db");
        assert_eq!(sqlite_path("sqlite:///rel/catalog.db").unwrap(), "rel/catalog.db");
        assert!(sqlite_path("sqlite://").is_err());
        assert_eq!(scheme_of("postgresql+psycopg2://u:p@h/db"), "postgresql");
    }
}
