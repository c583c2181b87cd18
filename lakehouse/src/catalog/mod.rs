//! The catalog: which tables there are, and which metadata file of each is current. Either a database (`sql`) or a server
//! that speaks Iceberg's REST protocol (`rest`).

mod create;
mod register;
mod rest;
mod sql;
mod swap;
mod views;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::Result;

use crate::err;
use crate::ident::{TableIdent, split_namespace};
use crate::store::StoreRegistry;
use crate::table::Table;

pub use create::{CreateTable, NAMESPACE_LOCATION, PartitionFieldDef};
pub(crate) use create::{parse_transform, partition_spec};
use rest::RestCatalog;
pub use rest::RestOptions;
use sql::{SqlCatalog, SqlOptions};
pub(crate) use swap::Swap;
pub use swap::TableCommit;
pub use views::ViewDefinition;

/// How to reach the catalog.
#[derive(Debug, Clone)]
pub struct CatalogOptions {
    /// Value of `catalog_name` in every row.
    pub name: String,
    /// `sqlite:////abs/path.db` or `postgresql://user:password@host:port/db`, as PyIceberg spells them.
    pub uri: String,
    /// How long a statement waits for another writer's lock, and a caller for a connection.
    pub busy_timeout: Duration,
    /// How long a server may take to answer the first time.
    pub connect_timeout: Duration,
    /// Connections at most.
    pub connections_max: u32,
    /// Base URI of tables that name no location.
    pub warehouse: String,
}

/// A catalog of Iceberg tables.
pub struct Catalog {
    name: String,
    backend: Backend,
    warehouse: String,
    store: Arc<StoreRegistry>,
    #[cfg(test)]
    faults: std::sync::OnceLock<Arc<crate::proof::Faults>>,
}

enum Backend {
    Sql(SqlCatalog),
    Rest(Box<RestCatalog>),
}

impl std::fmt::Debug for Catalog {
    // The URI may hold a password, so it is left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("name", &self.name).field("warehouse", &self.warehouse).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Connects to the database, and creates the catalog's tables where they are missing.
    pub async fn open(options: &CatalogOptions, store: Arc<StoreRegistry>) -> Result<Self> {
        let sql = SqlOptions {
            name: options.name.clone(),
            uri: options.uri.clone(),
            busy_timeout: options.busy_timeout,
            connect_timeout: options.connect_timeout,
            connections_max: options.connections_max,
        };
        let backend = Backend::Sql(SqlCatalog::open(&sql).await?);
        Ok(Self::of(options.name.clone(), backend, options.warehouse.clone(), store))
    }

    /// Connects to a REST catalog and takes the configuration that it gives.
    pub async fn open_rest(name: &str, options: &RestOptions, store: Arc<StoreRegistry>) -> Result<Self> {
        let rest = RestCatalog::open(options).await?;
        let warehouse = rest.warehouse().unwrap_or_default().to_owned();
        Ok(Self::of(name.to_owned(), Backend::Rest(Box::new(rest)), warehouse, store))
    }

    fn of(name: String, backend: Backend, warehouse: String, store: Arc<StoreRegistry>) -> Self {
        Self {
            name,
            backend,
            warehouse,
            store,
            #[cfg(test)]
            faults: std::sync::OnceLock::new(),
        }
    }

    /// Lets requests to the catalog fail as the faults say.
    #[cfg(test)]
    pub(crate) fn break_with(&self, faults: Arc<crate::proof::Faults>) {
        let _first = self.faults.set(faults);
    }

    /// Value of `catalog_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Base URI of tables that name no location. A REST catalog's server decides that; then it is the server's name for
    /// its warehouse, or empty.
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
        self.find_table(ident).await?.ok_or_else(|| err::table_not_found(ident))
    }

    /// Loads a table, or `None` when the catalog has none of that name.
    pub async fn find_table(&self, ident: &TableIdent) -> Result<Option<Table>> {
        if let Backend::Rest(rest) = &self.backend {
            return rest.find_table(ident, &self.store).await;
        }
        match self.metadata_location(ident).await? {
            Some(location) => Table::from_metadata_location(ident.clone(), &location, Arc::clone(&self.store)).await.map(Some),
            None => Ok(None),
        }
    }

    /// The table's current metadata file, if the catalog has the table.
    pub(crate) async fn metadata_location(&self, ident: &TableIdent) -> Result<Option<String>> {
        #[cfg(test)]
        if let Some(faults) = self.faults.get() {
            faults.ask(async { Ok(()) }).await?;
        }
        match &self.backend {
            Backend::Sql(sql) => sql.metadata_location(ident).await,
            Backend::Rest(rest) => {
                let table = rest.find_table(ident, &self.store).await?;
                Ok(table.map(|table| table.metadata_location().to_owned()))
            }
        }
    }

    /// Whether the catalog has a table of that name.
    pub async fn table_exists(&self, ident: &TableIdent) -> Result<bool> {
        Ok(self.metadata_location(ident).await?.is_some())
    }

    /// Names of the tables in a namespace, sorted.
    pub async fn list_tables(&self, namespace: &str) -> Result<Vec<TableIdent>> {
        match &self.backend {
            Backend::Sql(sql) => sql.list_tables(namespace).await,
            Backend::Rest(rest) => rest.list_tables(&split_namespace(namespace)).await,
        }
    }

    /// Removes a table from the catalog; with `purge` its files too. `false` if there was none.
    pub async fn drop_table(&self, ident: &TableIdent, purge: bool) -> Result<bool> {
        match &self.backend {
            Backend::Sql(sql) => sql.drop_table(ident, purge, &self.store).await,
            Backend::Rest(rest) => rest.drop_table(ident, purge).await,
        }
    }

    /// Renames a table within or across namespaces; its files stay where they are.
    pub async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        self.create_namespace(&to.namespace_key()).await?;
        match &self.backend {
            Backend::Sql(sql) => sql.rename_table(from, to).await,
            Backend::Rest(rest) => rest.rename_table(from, to).await,
        }
    }

    /// Creates a namespace; one that exists stays as it is.
    pub async fn create_namespace(&self, namespace: &str) -> Result<()> {
        self.create_namespace_with(namespace, &BTreeMap::new()).await.map(|_| ())
    }

    /// Creates a namespace with properties. `false` if it exists; then it stays as it is.
    pub async fn create_namespace_with(&self, namespace: &str, properties: &BTreeMap<String, String>) -> Result<bool> {
        match &self.backend {
            Backend::Sql(sql) => {
                if self.namespace_exists(namespace).await? {
                    return Ok(false);
                }
                sql.create_namespace(namespace, properties).await?;
                Ok(true)
            }
            Backend::Rest(rest) => rest.create_namespace(&split_namespace(namespace), properties).await,
        }
    }

    /// Sets and removes properties of a namespace; those to remove may be absent.
    ///
    /// # Errors
    /// `NamespaceNotFound`.
    pub async fn change_namespace(&self, namespace: &str, set: &BTreeMap<String, String>, remove: &[String]) -> Result<()> {
        if !self.namespace_exists(namespace).await? {
            return Err(err::namespace_not_found(namespace));
        }
        match &self.backend {
            Backend::Sql(sql) => sql.change_namespace(namespace, set, remove).await,
            Backend::Rest(rest) => rest.change_namespace(&split_namespace(namespace), set, remove).await,
        }
    }

    /// Namespaces that were created or hold a table, sorted.
    pub async fn list_namespaces(&self) -> Result<Vec<String>> {
        match &self.backend {
            Backend::Sql(sql) => sql.list_namespaces().await,
            Backend::Rest(rest) => rest.list_namespaces().await,
        }
    }

    /// Whether a namespace exists.
    pub async fn namespace_exists(&self, namespace: &str) -> Result<bool> {
        match &self.backend {
            Backend::Sql(sql) => Ok(sql.list_namespaces().await?.iter().any(|known| known == namespace)),
            Backend::Rest(rest) => Ok(rest.namespace(&split_namespace(namespace)).await?.is_some()),
        }
    }

    /// Removes an empty namespace. `false` if there was none; `InvalidArgument` if it holds tables.
    pub async fn drop_namespace(&self, namespace: &str) -> Result<bool> {
        if !self.list_tables(namespace).await?.is_empty() {
            return Err(err::invalid(format!("namespace {namespace} is not empty")));
        }
        match &self.backend {
            Backend::Sql(sql) => sql.drop_namespace(namespace).await,
            Backend::Rest(rest) => rest.drop_namespace(&split_namespace(namespace)).await,
        }
    }

    /// Properties of a namespace; none for one that does not exist.
    pub async fn namespace_properties(&self, namespace: &str) -> Result<BTreeMap<String, String>> {
        match &self.backend {
            Backend::Sql(sql) => sql.namespace_properties(namespace).await,
            Backend::Rest(rest) => Ok(rest.namespace(&split_namespace(namespace)).await?.unwrap_or_default()),
        }
    }
}
