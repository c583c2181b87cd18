//! Credentials that a catalog lends for the files of its tables. They hold below a prefix, so one bucket may need several:
//! its store hands every request on to the one whose prefix fits.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chainalytics_common::Result as OurResult;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{S3Options, StoreRegistry, location};
use crate::err;

/// Prefixes remembered per bucket; the oldest goes first.
const PREFIXES_MAX: usize = 1024;

/// Prefixes that one plan may carry credentials for.
const PREFIXES_OF_PLAN_MAX: usize = 64;
/// What is kept of a catalog's answer; the rest of a table's configuration is nobody else's business.
const KEYS: [&str; 7] =
    [ACCESS_KEY_ID, "s3.secret-access-key", "s3.session-token", EXPIRY_MS, "s3.endpoint", "s3.region", "s3.path-style-access"];
const ACCESS_KEY_ID: &str = "s3.access-key-id";
/// Milliseconds since 1970.
const EXPIRY_MS: &str = "s3.session-token-expires-at-ms";

/// What a catalog sends along with a table. Travels in plans, because executors have no catalog to ask; its `Debug` shows
/// no value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub(crate) struct LentCredentials {
    /// URI below which they hold.
    prefix: String,
    /// Those of [`KEYS`] that came.
    config: BTreeMap<String, String>,
    /// When they came, milliseconds since 1970.
    since_ms: i64,
    /// How their first user reaches the store, for others who are not told.
    #[serde(default)]
    place: Place,
}

/// Where a store is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
struct Place {
    endpoint: Option<String>,
    region: Option<String>,
    path_style: bool,
}

impl LentCredentials {
    /// Credentials as a catalog sent them just now.
    pub fn new(prefix: String, mut config: HashMap<String, String>) -> Self {
        if let Some(region) = config.remove("client.region") {
            config.entry("s3.region".to_owned()).or_insert(region);
        }
        config.retain(|key, value| KEYS.contains(&key.as_str()) && !value.is_empty());
        let since_ms = chrono::Utc::now().timestamp_millis();
        Self { prefix, config: config.into_iter().collect(), since_ms, place: Place::default() }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether there is a key among them at all.
    pub fn is_some(&self) -> bool {
        self.config.contains_key(ACCESS_KEY_ID)
    }

    /// When they end, milliseconds since 1970, if the catalog tells.
    pub fn expires_ms(&self) -> Option<i64> {
        self.config.get(EXPIRY_MS)?.parse().ok()
    }

    /// Whether `other` takes their place: it holds longer, or came later.
    fn yields_to(&self, other: &Self) -> bool {
        match (self.expires_ms(), other.expires_ms()) {
            (Some(own), Some(other)) if own != other => own < other,
            _ => self.since_ms <= other.since_ms,
        }
    }

    /// How to reach the store with them, for who would else use `own`.
    fn options(&self, own: &S3Options) -> S3Options {
        let text = |key: &str| self.config.get(key).cloned();
        let placed = own.endpoint.is_some();
        let endpoint = text("s3.endpoint").or_else(|| own.endpoint.clone()).or_else(|| self.place.endpoint.clone());
        let path_style = if placed { own.path_style } else { self.place.path_style };
        S3Options {
            allow_http: endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")),
            endpoint,
            region: text("s3.region").or_else(|| own.region.clone()).or_else(|| self.place.region.clone()),
            access_key_id: text(ACCESS_KEY_ID),
            secret_access_key: text("s3.secret-access-key"),
            session_token: text("s3.session-token"),
            path_style: text("s3.path-style-access").map_or(path_style, |value| value == "true"),
        }
    }

    /// As they go to another process.
    fn placed(&self, own: &S3Options) -> Self {
        let place = match &own.endpoint {
            Some(endpoint) => Place { endpoint: Some(endpoint.clone()), region: own.region.clone(), path_style: own.path_style },
            None => Place { region: own.region.clone().or_else(|| self.place.region.clone()), path_style: own.path_style, ..self.place.clone() },
        };
        Self { place, ..self.clone() }
    }
}

impl fmt::Debug for LentCredentials {
    // Written by hand: credentials must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentCredentials").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

struct Lent {
    prefix: Path,
    credentials: LentCredentials,
    store: Arc<dyn ObjectStore>,
}

/// Stores of one bucket by prefix.
#[derive(Default)]
pub(super) struct LentStores {
    all: RwLock<Vec<Lent>>,
}

impl LentStores {
    /// The store of the longest prefix that fits.
    fn of(&self, path: &Path) -> Option<Arc<dyn ObjectStore>> {
        let all = self.all.read();
        let fitting = all.iter().filter(|lent| path.prefix_matches(&lent.prefix));
        fitting.max_by_key(|lent| lent.prefix.as_ref().len()).map(|lent| Arc::clone(&lent.store))
    }
}

impl StoreRegistry {
    /// Uses lent credentials from now on, unless better ones for their prefix are known.
    pub(crate) fn lend(&self, credentials: &LentCredentials) -> OurResult<()> {
        let Some((authority, bucket, prefix)) = place_of(credentials)? else { return Ok(()) };
        let stores = self.lent_stores(&authority);
        let keeps = |lent: &Lent| lent.prefix == prefix && (!lent.credentials.yields_to(credentials) || lent.credentials == *credentials);
        if stores.all.read().iter().any(keeps) {
            return Ok(());
        }
        let options = credentials.options(&self.s3);
        // A token of the environment belongs to the environment's key.
        let base = match options.session_token {
            None if std::env::var_os("AWS_SESSION_TOKEN").is_some() => AmazonS3Builder::new(),
            _ => AmazonS3Builder::from_env(),
        };
        let store: Arc<dyn ObjectStore> = Arc::new(options.store(base, &bucket)?);
        let mut all = stores.all.write();
        if all.iter().any(keeps) {
            return Ok(());
        }
        all.retain(|lent| lent.prefix != prefix);
        if all.len() >= PREFIXES_MAX {
            all.remove(0);
        }
        all.push(Lent { prefix, credentials: credentials.clone(), store });
        Ok(())
    }

    /// The best credentials known for these prefixes, for a plan that other processes run.
    ///
    /// # Errors
    /// `Unsupported` if there are more than a plan may carry.
    pub(crate) fn lent_at(&self, prefixes: &[String]) -> OurResult<Vec<LentCredentials>> {
        if prefixes.len() > PREFIXES_OF_PLAN_MAX {
            let message = format!("a catalog lends credentials for {} prefixes of one table, a plan carries {PREFIXES_OF_PLAN_MAX}", prefixes.len());
            return Err(err::unsupported(message));
        }
        let mut found = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let parts = location::split(prefix)?;
            let path = parsed(prefix, &parts.path)?;
            let stores = self.lent_stores(&parts.authority);
            found.extend(stores.all.read().iter().find(|lent| lent.prefix == path).map(|lent| lent.credentials.placed(&self.s3)));
        }
        Ok(found)
    }
}

/// Authority, bucket and path of credentials for an S3 store that name a key; others say nothing new.
fn place_of(credentials: &LentCredentials) -> OurResult<Option<(String, String, Path)>> {
    if !credentials.is_some() {
        return Ok(None);
    }
    let parts = location::split(&credentials.prefix)?;
    if !matches!(parts.scheme.as_str(), "s3" | "s3a" | "s3n") {
        return Ok(None);
    }
    let prefix = parsed(&credentials.prefix, &parts.path)?;
    Ok(Some((parts.authority, parts.bucket, prefix)))
}

fn parsed(location: &str, path: &str) -> OurResult<Path> {
    Path::parse(path).map_err(|e| err::metadata(format!("location {location}: {e}")))
}

/// A bucket: lent credentials where there are any, the configured ones elsewhere.
pub(super) struct Bucket {
    pub own: Arc<dyn ObjectStore>,
    pub lent: Arc<LentStores>,
}

impl Bucket {
    fn of(&self, path: &Path) -> Arc<dyn ObjectStore> {
        self.lent.of(path).unwrap_or_else(|| Arc::clone(&self.own))
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("own", &self.own).finish_non_exhaustive()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.own.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.of(location).put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.of(location).put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.of(location).get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.of(location).get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.lent.all.read().is_empty() {
            return self.own.delete_stream(locations);
        }
        let (own, lent) = (Arc::clone(&self.own), Arc::clone(&self.lent));
        locations
            .and_then(move |path| {
                let store = lent.of(&path).unwrap_or_else(|| Arc::clone(&own));
                async move {
                    use object_store::ObjectStoreExt;
                    store.delete(&path).await.map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.of(prefix.unwrap_or(&Path::default())).list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.of(prefix.unwrap_or(&Path::default())).list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.of(prefix.unwrap_or(&Path::default())).list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.of(to).copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.of(to).rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn credentials(key: &str, expires_ms: Option<i64>) -> LentCredentials {
        let mut config = vec![(ACCESS_KEY_ID, key.to_owned()), ("s3.secret-access-key", "hidden".to_owned()), ("token", "the catalog's".to_owned())];
        config.extend(expires_ms.map(|ms| (EXPIRY_MS, ms.to_string())));
        LentCredentials::new("s3://b/t".to_owned(), config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn key_of(store: &StoreRegistry) -> String {
        store.lent_at(&["s3://b/t".to_owned()]).unwrap()[0].config[ACCESS_KEY_ID].clone()
    }

    #[test]
    fn a_late_plan_does_not_bring_old_credentials_back() {
        let store = StoreRegistry::local();
        let (old, new) = (credentials("old", Some(1_000)), credentials("new", Some(2_000)));
        for lent in [&old, &new, &old] {
            store.lend(lent).unwrap();
        }
        assert_eq!(key_of(&store), "new");
        // Without an end the later answer counts.
        let first = LentCredentials { since_ms: 1, ..credentials("first", None) };
        let store = StoreRegistry::local();
        store.lend(&first).unwrap();
        store.lend(&credentials("second", None)).unwrap();
        store.lend(&first).unwrap();
        assert_eq!(key_of(&store), "second");
    }

    #[test]
    fn only_what_the_store_needs_is_kept_and_nothing_of_it_is_shown() {
        let lent = credentials("visible", None);
        assert!(!lent.config.contains_key("token"));
        let shown = format!("{lent:?}");
        assert!(shown.contains("s3://b/t") && !shown.contains("hidden") && !shown.contains("visible"), "{shown}");
        let again: LentCredentials = serde_json::from_str(&serde_json::to_string(&lent).unwrap()).unwrap();
        assert_eq!(again, lent);
    }

    #[test]
    fn who_knows_no_store_is_told_where_it_is() {
        let told = S3Options { endpoint: Some("http://127.0.0.1:9".to_owned()), path_style: true, ..S3Options::default() };
        let lent = credentials("k", None).placed(&told);
        let options = lent.options(&S3Options::default());
        assert_eq!((options.endpoint.as_deref(), options.path_style, options.allow_http), (Some("http://127.0.0.1:9"), true, true));
        // Who reaches it in his own way goes on so.
        let own = S3Options { endpoint: Some("https://inside".to_owned()), ..S3Options::default() };
        assert_eq!(lent.options(&own).endpoint.as_deref(), Some("https://inside"));
    }
}
