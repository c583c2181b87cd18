//! Catalog in a database: one SQL row per table, pointing at its current metadata file.
//!
//! Table layout: Iceberg's JDBC catalog (schema V1), which Spark's `JdbcCatalog` and PyIceberg's `SqlCatalog` open
//! unchanged. A commit is a compare-and-swap of `metadata_location`; several tables move in one SQL transaction.

mod namespaces;
pub(super) mod pool;
mod swap;
mod views;

use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::Result;

use crate::err;
use crate::ident::TableIdent;
use crate::store::StoreRegistry;

use pool::{Pool, with_pool};

/// How to reach the database.
pub(super) struct SqlOptions {
    pub name: String,
    pub uri: String,
    pub busy_timeout: Duration,
    pub connect_timeout: Duration,
    pub connections_max: u32,
}

/// Iceberg's JDBC catalog over SQLite or PostgreSQL.
pub(crate) struct SqlCatalog {
    name: String,
    pool: Pool,
    /// Catalogs made by older versions (and by PyIceberg) have no column `iceberg_type`.
    has_type_column: bool,
}

impl SqlCatalog {
    /// Connects, and creates the catalog's tables where they are missing.
    pub(super) async fn open(options: &SqlOptions) -> Result<Self> {
        let pool = Pool::connect(options).await?;
        pool.create_tables().await?;
        let has_type_column = pool.has_type_column().await?;
        Ok(Self { name: options.name.clone(), pool, has_type_column })
    }

    /// Names of the tables in a namespace, sorted.
    pub(super) async fn list_tables(&self, namespace: &str) -> Result<Vec<TableIdent>> {
        let sql = format!(
            "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2{} ORDER BY table_name",
            self.type_filter()
        );
        let names: Vec<String> = with_pool!(&self.pool, pool => {
            sqlx::query_scalar(&sql).bind(&self.name).bind(namespace).fetch_all(pool).await.map_err(|e| self.pool.error(e))?
        });
        Ok(names.into_iter().map(|name| TableIdent::new(namespace, name)).collect())
    }

    /// Removes a table from the catalog; with `purge` its files too. `false` if there was none.
    pub(super) async fn drop_table(&self, ident: &TableIdent, purge: bool, store: &Arc<StoreRegistry>) -> Result<bool> {
        let Some(location) = self.metadata_location(ident).await? else { return Ok(false) };
        let sql = "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3";
        let rows = with_pool!(&self.pool, pool => {
            let query = sqlx::query(sql).bind(&self.name).bind(ident.namespace_key()).bind(ident.name());
            query.execute(pool).await.map_err(|e| self.pool.error(e))?.rows_affected()
        });
        if purge && rows > 0 {
            purge_files(ident, &location, store).await?;
        }
        Ok(rows > 0)
    }

    /// Renames a table within or across namespaces; its files stay where they are.
    pub(super) async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        let sql = "UPDATE iceberg_tables SET table_namespace = $1, table_name = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5";
        let rows = with_pool!(&self.pool, pool => {
            let query = sqlx::query(sql)
                .bind(to.namespace_key())
                .bind(to.name())
                .bind(&self.name)
                .bind(from.namespace_key())
                .bind(from.name());
            match query.execute(pool).await {
                Ok(done) => done.rows_affected(),
                Err(e) if err::is_unique_violation(&e) => return Err(err::table_exists(to)),
                Err(e) => return Err(self.pool.error(e)),
            }
        });
        if rows == 0 { Err(err::table_not_found(from)) } else { Ok(()) }
    }

    /// The table's current metadata file, if the catalog has the table.
    pub(super) async fn metadata_location(&self, ident: &TableIdent) -> Result<Option<String>> {
        let sql = format!(
            "SELECT metadata_location FROM iceberg_tables \
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3{}",
            self.type_filter()
        );
        let row: Option<Option<String>> = with_pool!(&self.pool, pool => {
            sqlx::query_scalar(&sql)
                .bind(&self.name)
                .bind(ident.namespace_key())
                .bind(ident.name())
                .fetch_optional(pool)
                .await
                .map_err(|e| self.pool.error(e))?
        });
        Ok(row.flatten())
    }

    /// Views share the table; catalogs before V1 leave the type null.
    fn type_filter(&self) -> &'static str {
        if self.has_type_column { " AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)" } else { "" }
    }

    /// `false` if another process created a table of that name meanwhile.
    pub(super) async fn insert_table(&self, ident: &TableIdent, location: &str) -> Result<bool> {
        let sql = if self.has_type_column {
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) \
             VALUES ($1, $2, $3, $4, 'TABLE')"
        } else {
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location) \
             VALUES ($1, $2, $3, $4)"
        };
        with_pool!(&self.pool, pool => {
            let query =
                sqlx::query(sql).bind(&self.name).bind(ident.namespace_key()).bind(ident.name()).bind(location);
            match query.execute(pool).await {
                Ok(_) => Ok(true),
                Err(e) if err::is_unique_violation(&e) => Ok(false),
                Err(e) => Err(self.pool.error(e)),
            }
        })
    }
}

async fn purge_files(ident: &TableIdent, location: &str, store: &Arc<StoreRegistry>) -> Result<()> {
    let metadata = store.metadata_cache().load_metadata(store, location).await?;
    let name = iceberg::TableIdent::from_strs(ident.namespace().iter().map(String::as_str).chain([ident.name()])).map_err(err::iceberg_input)?;
    let table = iceberg::table::Table::builder()
        .identifier(name)
        .metadata(metadata)
        .metadata_location(location)
        .file_io(store.file_io())
        .runtime(iceberg::Runtime::try_current().map_err(err::iceberg)?)
        .build()
        .map_err(err::iceberg)?;
    iceberg::drop_table_data(&table).await.map_err(err::iceberg)
}
