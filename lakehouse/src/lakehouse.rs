use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::{Config, Result, keys};

use crate::catalog::{Catalog, CatalogOptions, RestOptions};
use crate::ident::TableIdent;
use crate::store::{StoreRegistry, normalize_location};
use crate::write::DataFileInfo;

/// Connections of one process to the catalog.
const CATALOG_CONNECTIONS_MAX: u32 = 8;

/// A warehouse and its catalog. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lakehouse {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    catalog: Arc<Catalog>,
    store: Arc<StoreRegistry>,
    uri: String,
    default_namespace: String,
}

impl Lakehouse {
    /// Opens the lakehouse that the configuration names; creates the catalog's schema, the default namespace and (for
    /// local files) the warehouse folder where missing.
    ///
    /// # Errors
    /// `Config` for a URI that means nothing, `CatalogUnreachable`, `CatalogDenied`, `StorageWrite`.
    pub async fn open(config: &Config) -> Result<Self> {
        if is_rest(config)? {
            return Self::open_rest(config).await;
        }
        let options = CatalogOptions {
            name: config.get(&keys::CATALOG_NAME),
            uri: config.get(&keys::CATALOG_URI),
            busy_timeout: config.get(&keys::CATALOG_BUSY_TIMEOUT),
            connect_timeout: config.get(&keys::CATALOG_CONNECT_TIMEOUT),
            connections_max: CATALOG_CONNECTIONS_MAX,
            warehouse: config.get(&keys::CATALOG_WAREHOUSE),
        };
        Self::open_with(options, config.get(&keys::CATALOG_NAMESPACE), StoreRegistry::from_config(config)).await
    }

    async fn open_rest(config: &Config) -> Result<Self> {
        let uri = config.get(&keys::CATALOG_URI);
        let warehouse = config.get(&keys::CATALOG_WAREHOUSE);
        let options = RestOptions {
            uri: uri.clone(),
            token: config.get(&keys::CATALOG_REST_TOKEN),
            credential: config.get(&keys::CATALOG_REST_CREDENTIAL),
            oauth2_server_uri: config.get(&keys::CATALOG_REST_OAUTH2_SERVER_URI),
            scope: config.get(&keys::CATALOG_REST_SCOPE),
            // The default is a folder here, of which the server knows nothing.
            warehouse: (!warehouse.is_empty() && !warehouse.starts_with('/')).then_some(warehouse),
            connect_timeout: config.get(&keys::CATALOG_CONNECT_TIMEOUT),
            request_timeout: config.get(&keys::CATALOG_REST_TIMEOUT),
        };
        let store = StoreRegistry::from_config(config);
        let catalog = Catalog::open_rest(&config.get(&keys::CATALOG_NAME), &options, Arc::clone(&store)).await?;
        let default_namespace = config.get(&keys::CATALOG_NAMESPACE);
        catalog.create_namespace(&default_namespace).await?;
        let inner = Inner { catalog: Arc::new(catalog), store, uri, default_namespace };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// As [`Self::open`], with every choice made by the caller.
    pub async fn open_with(mut options: CatalogOptions, default_namespace: String, store: Arc<StoreRegistry>) -> Result<Self> {
        options.warehouse = normalize_location(&options.warehouse)?;
        if options.busy_timeout.is_zero() {
            options.busy_timeout = Duration::from_secs(1);
        }
        if let Some(path) = options.warehouse.strip_prefix("file://") {
            tokio::fs::create_dir_all(path).await.map_err(|e| crate::err::config(format!("warehouse {path} cannot be created: {e}")))?;
        }
        let catalog = Catalog::open(&options, Arc::clone(&store)).await?;
        catalog.create_namespace(&default_namespace).await?;
        let inner = Inner { catalog: Arc::new(catalog), store, uri: options.uri, default_namespace };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.inner.catalog
    }

    /// Object stores of the table files.
    pub fn store(&self) -> &Arc<StoreRegistry> {
        &self.inner.store
    }

    /// URI of the catalog, as PyIceberg opens it. May hold a password.
    pub fn catalog_uri(&self) -> String {
        self.inner.uri.clone()
    }

    /// Base URI of tables that name no location.
    pub fn warehouse(&self) -> String {
        self.inner.catalog.warehouse().to_owned()
    }

    /// Namespace of bare table names.
    pub fn default_namespace(&self) -> &str {
        &self.inner.default_namespace
    }

    /// Reads a table name; a bare one falls into the default namespace.
    pub fn ident(&self, name: &str) -> Result<TableIdent> {
        TableIdent::parse(name, &self.inner.default_namespace)
    }

    /// Deletes data files that were written but never committed. Best effort.
    pub async fn discard_files(&self, files: &[DataFileInfo]) {
        self.store().delete_best_effort(files.iter().map(|file| file.path.clone()).collect()).await;
    }
}

/// Whether the catalog is a server that speaks Iceberg's REST protocol.
fn is_rest(config: &Config) -> Result<bool> {
    let uri = config.get(&keys::CATALOG_URI);
    let is_http = uri.starts_with("http://") || uri.starts_with("https://");
    match config.get(&keys::CATALOG_TYPE).as_str() {
        "" => Ok(is_http),
        "sql" => Ok(false),
        "rest" if is_http => Ok(true),
        "rest" => Err(crate::err::config("catalog.type is rest, so catalog.uri must begin with http:// or https://")),
        other => Err(crate::err::config(format!("catalog.type: '{other}' is neither sql nor rest"))),
    }
}
