//! Where bytes live: object stores made from configuration, shared by Iceberg's metadata, DataFusion's scans and our
//! writers.

mod cache;
mod described;
mod file_io;
mod lent;
mod location;
mod staged;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chainalytics_common::{Config, Result, keys};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::RwLock;
use url::Url;

use crate::err;

pub use cache::MetadataCache;
pub(crate) use lent::LentCredentials;
use lent::{Bucket, LentStores};
pub use location::normalize_location;
pub(crate) use staged::StagedFile;

/// Deletions in flight when a list of files goes.
const DELETE_CONCURRENCY: usize = 16;

/// How to reach S3 (or what speaks its protocol).
#[derive(Clone, Default, PartialEq, Eq)]
struct S3Options {
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
    path_style: bool,
    allow_http: bool,
}

impl S3Options {
    /// A store of `base` with what these say.
    fn store(&self, base: AmazonS3Builder, bucket: &str) -> Result<object_store::aws::AmazonS3> {
        let mut builder = base.with_bucket_name(bucket).with_virtual_hosted_style_request(!self.path_style).with_allow_http(self.allow_http);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let (Some(id), Some(secret)) = (&self.access_key_id, &self.secret_access_key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token);
        }
        builder.build().map_err(|e| err::config(format!("S3 bucket {bucket}: {e}")))
    }
}

/// Object stores by bucket, built when first asked for. DataFusion's runtime uses it as its registry.
pub struct StoreRegistry {
    s3: S3Options,
    stores: RwLock<HashMap<String, Arc<dyn ObjectStore>>>,
    lent: RwLock<HashMap<String, Arc<LentStores>>>,
    cache: MetadataCache,
}

/// A URI, resolved.
#[derive(Debug, Clone)]
pub struct Location {
    /// Scheme and bucket, as DataFusion names stores.
    pub url: ObjectStoreUrl,
    /// Path within the store.
    pub path: Path,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
}

impl std::fmt::Debug for StoreRegistry {
    // Written by hand: credentials must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreRegistry")
            .field("s3_endpoint", &self.s3.endpoint)
            .field("stores", &self.stores.read().keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl StoreRegistry {
    /// Registry that reads the `s3.*` keys; nothing is opened yet.
    pub fn from_config(config: &Config) -> Arc<Self> {
        let text = |value: String| (!value.is_empty()).then_some(value);
        let endpoint = text(config.get(&keys::S3_ENDPOINT));
        let allow_http = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        Self::with_s3(S3Options {
            endpoint,
            region: text(config.get(&keys::S3_REGION)),
            access_key_id: text(config.get(&keys::S3_ACCESS_KEY_ID)),
            secret_access_key: text(config.get(&keys::S3_SECRET_ACCESS_KEY)),
            session_token: text(config.get(&keys::S3_SESSION_TOKEN)),
            path_style: config.get(&keys::S3_PATH_STYLE),
            allow_http,
        })
    }

    /// Registry for local files alone.
    pub fn local() -> Arc<Self> {
        Self::with_s3(S3Options::default())
    }

    fn with_s3(s3: S3Options) -> Arc<Self> {
        Arc::new(Self { s3, stores: RwLock::default(), lent: RwLock::default(), cache: MetadataCache::default() })
    }

    /// Store and path of a URI (`file:///x`, `file:/x`, `/x`, `s3://bucket/x`, `s3a://bucket/x`).
    pub fn resolve(&self, location: &str) -> Result<Location> {
        let parts = location::split(location)?;
        let path = Path::parse(&parts.path).map_err(|e| err::invalid(format!("location {location}: {e}")))?;
        let url = ObjectStoreUrl::parse(&parts.authority).map_err(|e| err::invalid(format!("location {location}: {e}")))?;
        let store = self.store_of(&parts.authority, &parts.scheme, &parts.bucket)?;
        Ok(Location { url, path, store })
    }

    fn store_of(&self, key: &str, scheme: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        if let Some(store) = self.stores.read().get(key) {
            return Ok(Arc::clone(store));
        }
        let store: Arc<dyn ObjectStore> = match scheme {
            "file" => Arc::new(described::LocalFiles(LocalFileSystem::new())),
            "s3" | "s3a" | "s3n" => Arc::new(Bucket { own: Arc::new(self.s3.store(AmazonS3Builder::from_env(), bucket)?), lent: self.lent_stores(key) }),
            other => return Err(err::unsupported(format!("no object store for scheme '{other}'"))),
        };
        Ok(Arc::clone(self.stores.write().entry(key.to_owned()).or_insert(store)))
    }

    /// Lent credentials of one bucket.
    fn lent_stores(&self, authority: &str) -> Arc<LentStores> {
        Arc::clone(self.lent.write().entry(authority.to_owned()).or_default())
    }

    /// Whole content of one file.
    pub async fn read(&self, location: &str) -> Result<Bytes> {
        let at = self.resolve(location)?;
        let result = at.store.get(&at.path).await.map_err(|e| err::storage_read(location, e))?;
        result.bytes().await.map_err(|e| err::storage_read(location, e))
    }

    /// Writes one file completely or not at all (the local store writes beside it and renames).
    pub async fn write(&self, location: &str, bytes: Bytes) -> Result<()> {
        let at = self.resolve(location)?;
        at.store.put(&at.path, PutPayload::from_bytes(bytes)).await.map_err(|e| err::storage_write(location, e))?;
        Ok(())
    }

    /// Whether a file is there.
    pub async fn exists(&self, location: &str) -> Result<bool> {
        let at = self.resolve(location)?;
        match at.store.head(&at.path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(err::storage_read(location, e)),
        }
    }

    /// Deletes one file; a file that is not there is no error.
    pub async fn delete(&self, location: &str) -> Result<()> {
        let parts = location::split(location)?;
        if parts.scheme == "file" && staged::is_staged(&parts.path) {
            return match tokio::fs::remove_file(&parts.path).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(err::storage_write(location, object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(e) }))
                }
                _ => Ok(()),
            };
        }
        let at = self.resolve(location)?;
        match at.store.delete(&at.path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(err::storage_write(location, e)),
        }
    }

    /// Deletes files that nothing refers to. Failures are logged, not returned: orphan removal finds what is left.
    pub async fn delete_best_effort(&self, locations: Vec<String>) {
        stream::iter(locations)
            .for_each_concurrent(DELETE_CONCURRENCY, |location| async move {
                if let Err(error) = self.delete(&location).await {
                    tracing::warn!(location, %error, "could not delete a file that nothing refers to");
                }
            })
            .await;
    }

    /// URIs of all files under a prefix.
    pub async fn list(&self, location: &str) -> Result<Vec<String>> {
        let at = self.resolve(location)?;
        let prefix = at.url.as_str().trim_end_matches('/').to_owned();
        at.store
            .list(Some(&at.path))
            .map_ok(|meta| format!("{prefix}/{}", meta.location))
            .try_collect()
            .await
            .map_err(|e| err::storage_read(location, e))
    }

    /// Unfinished uploads under a local location, left by processes that died; an object store hides its own.
    pub(crate) async fn unfinished(&self, location: &str) -> Result<Vec<StagedFile>> {
        let parts = location::split(location)?;
        if parts.scheme != "file" {
            return Ok(Vec::new());
        }
        let found = tokio::task::spawn_blocking(move || staged::find(std::path::Path::new(&parts.path))).await;
        let found = found.map_err(|e| err::internal(format!("listing {location}: {e}")))?;
        found.map_err(|e| err::storage_read(location, object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(e) }))
    }

    /// Parsed manifests, manifest lists and metadata files.
    pub fn metadata_cache(&self) -> &MetadataCache {
        &self.cache
    }
}

impl ObjectStoreRegistry for StoreRegistry {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.stores.write().insert(location::authority_of(url), store)
    }

    fn deregister_store(&self, url: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        let removed = self.stores.write().remove(&location::authority_of(url));
        removed.ok_or_else(|| DataFusionError::Internal(format!("no object store is registered for {url}")))
    }

    fn get_store(&self, url: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        let bucket = url.host_str().unwrap_or_default();
        self.store_of(&location::authority_of(url), url.scheme(), bucket).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}
