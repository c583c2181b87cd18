//! The catalog: one SQL row per table, pointing at its current metadata file.
//!
//! Table layout: Iceberg's JDBC catalog (schema V1), which Spark's `JdbcCatalog` and PyIceberg's `SqlCatalog` open
//! unchanged. A commit is a compare-and-swap of `metadata_location`; several tables move in one SQL transaction.

mod create;
mod namespaces;
mod pool;
mod swap;

use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::Result;

use crate::err;
use crate::ident::TableIdent;
use crate::store::StoreRegistry;
use crate::table::Table;

pub use create::{CreateTable, PartitionFieldDef};
pub(crate) use create::{parse_transform, partition_spec};
pub(crate) use pool::with_pool;
use pool::Pool;
pub use swap::TableCommit;
pub(crate) use swap::Swap;

/// How to reach the catalog.
#[derive(Debug, Clone)]
pub struct CatalogOptions {
    /// Value of `catalog_name` in every row.
    pub name: String,
    /// `sqlite:////abs/path.db` or `postgresql://user:password@host:port/db`, as PyIceberg spells them.
    pub uri: String,
    /// How long a statement waits for another writer's lock, and a caller for a connection.
    pub busy_timeout: Duration,
    /// Connections at most.
    pub connections_max: u32,
    /// Base URI of tables that name no location.
    pub warehouse: String,
}

/// Iceberg's JDBC catalog over SQLite or PostgreSQL.
pub struct SqlCatalog {
    pub(crate) name: String,
    pub(crate) pool: Pool,
    warehouse: String,
    store: Arc<StoreRegistry>,
    /// Catalogs made by older versions (and by PyIceberg) have no column `iceberg_type`.
    pub(crate) has_type_column: bool,
}

impl std::fmt::Debug for SqlCatalog {
    // The URI may hold a password, so it is left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlCatalog").field("name", &self.name).field("warehouse", &self.warehouse).finish_non_exhaustive()
    }
}

impl SqlCatalog {
    /// Connects, and creates the catalog's tables where they are missing.
    pub async fn open(options: &CatalogOptions, store: Arc<StoreRegistry>) -> Result<Self> {
        let pool = Pool::connect(options).await?;
        pool.create_tables().await?;
        let has_type_column = pool.has_type_column().await?;
        Ok(Self { name: options.name.clone(), pool, warehouse: options.warehouse.clone(), store, has_type_column })
    }

    /// Value of `catalog_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Base URI of tables that name no location.
    pub fn warehouse(&self) -> &str {
        &self.warehouse
    }

    /// Stores of table files.
    pub fn store(&self) -> &Arc<StoreRegistry> {
        &self.store
    }

    /// Loads the current version of a table.
    ///
    /// # Errors
    /// `TableNotFound`; `CatalogBusy` or `CatalogUnreachable`; `StorageRead` if its metadata file is gone.
    pub async fn load_table(&self, ident: &TableIdent) -> Result<Table> {
        match self.metadata_location(ident).await? {
            Some(location) => Table::from_metadata_location(ident.clone(), &location, Arc::clone(&self.store)).await,
            None => Err(err::table_not_found(ident)),
        }
    }

    /// Loads a table, or `None` when the catalog has none of that name.
    pub async fn find_table(&self, ident: &TableIdent) -> Result<Option<Table>> {
        match self.metadata_location(ident).await? {
            Some(location) => {
                Table::from_metadata_location(ident.clone(), &location, Arc::clone(&self.store)).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Whether the catalog has a table of that name.
    pub async fn table_exists(&self, ident: &TableIdent) -> Result<bool> {
        Ok(self.metadata_location(ident).await?.is_some())
    }

    /// Names of the tables in a namespace, sorted.
    pub async fn list_tables(&self, namespace: &str) -> Result<Vec<TableIdent>> {
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
    pub async fn drop_table(&self, ident: &TableIdent, purge: bool) -> Result<bool> {
        let Some(location) = self.metadata_location(ident).await? else { return Ok(false) };
        let sql = "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3";
        let rows = with_pool!(&self.pool, pool => {
            let query = sqlx::query(sql).bind(&self.name).bind(ident.namespace_key()).bind(ident.name());
            query.execute(pool).await.map_err(|e| self.pool.error(e))?.rows_affected()
        });
        if purge && rows > 0 {
            self.purge(ident, &location).await?;
        }
        Ok(rows > 0)
    }

    async fn purge(&self, ident: &TableIdent, location: &str) -> Result<()> {
        let metadata = self.store.metadata_cache().load_metadata(&self.store, location).await?;
        let name = iceberg::TableIdent::from_strs(ident.namespace().iter().map(String::as_str).chain([ident.name()]))
            .map_err(err::iceberg_input)?;
        let table = iceberg::table::Table::builder()
            .identifier(name)
            .metadata(metadata)
            .metadata_location(location)
            .file_io(self.store.file_io())
            .runtime(iceberg::Runtime::try_current().map_err(err::iceberg)?)
            .build()
            .map_err(err::iceberg)?;
        iceberg::drop_table_data(&table).await.map_err(err::iceberg)
    }

    /// Renames a table within or across namespaces; its files stay where they are.
    pub async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        let sql = "UPDATE iceberg_tables SET table_namespace = $1, table_name = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5";
        self.create_namespace(&to.namespace_key()).await?;
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
    pub(crate) async fn metadata_location(&self, ident: &TableIdent) -> Result<Option<String>> {
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
}
