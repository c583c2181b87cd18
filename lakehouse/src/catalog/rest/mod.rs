//! A catalog behind Iceberg's REST protocol: the server holds the tables' metadata and writes its files; a commit sends
//! what shall change and what must still hold.

mod auth;
mod body;
mod commit;
mod difference;
mod http;
mod loaded;
mod namespaces;
mod register;
mod views;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use reqwest::Method;
use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use self::body::{ConfigBody, CreateTableBody, IdentBody, RenameBody, TableBody, TablesBody};
use self::http::{Failure, Http};
use self::loaded::Loaded;
use super::create::{CreateTable, Definition};
use crate::err;
use crate::ident::TableIdent;
use crate::store::{LentCredentials, StoreRegistry, normalize_location};
use crate::table::Table;

/// Pages of one listing.
const PAGES_MAX: usize = 10_000;
/// Separates the levels of a namespace in a path, unless the server names another.
const NAMESPACE_SEPARATOR: &str = "%1F";
/// What a request carries that has no body.
const NOTHING: Option<&()> = None;

/// How to reach a REST catalog.
#[derive(Debug, Clone, Default)]
pub struct RestOptions {
    /// `http(s)://host:port/path`, with or without `/v1`.
    pub uri: String,
    /// A bearer token; wins over `credential`.
    pub token: String,
    /// `id:secret` of OAuth2 client credentials.
    pub credential: String,
    /// Where tokens are asked for; empty: the catalog's own `/v1/oauth/tokens`.
    pub oauth2_server_uri: String,
    /// OAuth2 scope.
    pub scope: String,
    /// Name or URI of the server's warehouse; none takes the server's only one.
    pub warehouse: Option<String>,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time of a whole request.
    pub request_timeout: Duration,
}

/// A REST catalog, configured by its server.
pub(crate) struct RestCatalog {
    http: Http,
    /// `v1/<prefix>/` as the server wants it: empty, or ending with a slash.
    prefix: String,
    separator: String,
    /// None: the server does not say what it can.
    endpoints: Option<HashSet<String>>,
    warehouse: Option<String>,
    loaded: Loaded,
}

#[cfg(test)]
mod tests;

impl RestCatalog {
    /// Asks the server for its configuration.
    ///
    /// # Errors
    /// `CatalogUnreachable`, `CatalogDenied`; `Catalog` for a warehouse that the server does not know.
    pub(crate) async fn open(options: &RestOptions) -> Result<Self> {
        let mut http = Http::new(options)?;
        let query: Vec<(&str, &str)> = options.warehouse.iter().map(|name| ("warehouse", name.as_str())).collect();
        let body: ConfigBody = http.get("config", &query).await.map_err(|f| f.into_error(&format!("opening {}", shown(&options.uri))))?;
        let mut settings: BTreeMap<String, String> = body.defaults.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        if let Some(warehouse) = &options.warehouse {
            settings.insert("warehouse".to_owned(), warehouse.clone());
        }
        settings.extend(body.overrides.into_iter().filter_map(|(key, value)| Some((key, value?))));
        http.redirect(settings.get("uri").map(String::as_str), settings.get("token").map(String::as_str));
        let prefix = settings.get("prefix").map(|prefix| prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty());
        Ok(Self {
            http,
            prefix: prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default(),
            separator: settings.remove("namespace-separator").unwrap_or_else(|| NAMESPACE_SEPARATOR.to_owned()),
            endpoints: body.endpoints.map(|all| all.into_iter().collect()),
            warehouse: settings.remove("warehouse"),
            loaded: Loaded::default(),
        })
    }

    /// Base URI of tables that name no location, if the server tells.
    pub(crate) fn warehouse(&self) -> Option<&str> {
        self.warehouse.as_deref()
    }

    /// Whether the server says that it has an endpoint, such as `POST /v1/{prefix}/transactions/commit`. One that says
    /// nothing may have it.
    fn offers(&self, endpoint: &str) -> bool {
        self.endpoints.as_ref().is_none_or(|all| all.contains(endpoint))
    }

    fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    fn namespace_path(&self, namespace: &[String]) -> String {
        let levels: Vec<String> = namespace.iter().map(|level| encoded(level)).collect();
        self.path(&format!("namespaces/{}", levels.join(&self.separator)))
    }

    fn table_path(&self, ident: &TableIdent) -> String {
        format!("{}/tables/{}", self.namespace_path(ident.namespace()), encoded(ident.name()))
    }

    pub(crate) async fn find_table(&self, ident: &TableIdent, store: &Arc<StoreRegistry>) -> Result<Option<Table>> {
        let known = self.loaded.known(ident);
        match self.http.get_newer::<TableBody>(&self.table_path(ident), known.as_ref().map(|known| known.tag.as_str())).await {
            Ok(Some((body, tag))) => {
                let table = table(ident, body, store)?;
                self.loaded.keep(ident, tag, &table);
                Ok(Some(table))
            }
            Ok(None) => Ok(known.map(|known| known.table)),
            Err(failure) if is_absent(&failure) => Ok(None),
            Err(failure) => Err(failure.into_error(&format!("loading table {ident}"))),
        }
    }

    /// `None` if another process created a table of that name meanwhile.
    pub(crate) async fn create_table(&self, create: &CreateTable, store: &Arc<StoreRegistry>) -> Result<Option<Table>> {
        let ident = &create.ident;
        let definition = Definition::of(create)?;
        let properties = definition.all_properties();
        // Some servers want every id, which only the metadata's builder gives. Where the table will be is theirs to say.
        let model = definition.first_metadata("memory:/nowhere".to_owned())?;
        let body = CreateTableBody {
            name: ident.name(),
            location: create.location.as_deref().map(normalize_location).transpose()?,
            schema: model.current_schema().as_ref(),
            partition_spec: model.default_partition_spec().as_ref().clone().into_unbound(),
            write_order: model.default_sort_order().as_ref(),
            stage_create: false,
            properties,
        };
        let path = format!("{}/tables", self.namespace_path(ident.namespace()));
        match self.http.send::<TableBody>(Method::POST, &path, &[], Some(&body)).await {
            Ok(body) => table(ident, body, store).map(Some),
            Err(failure) if failure.is(409) => Ok(None),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("creating table {ident}"), &reason)),
            Err(Failure::Refused { status: 400, message, .. }) => Err(err::invalid(format!("table {ident}: {message}"))),
            Err(failure) => Err(failure.into_error(&format!("creating table {ident}"))),
        }
    }

    pub(crate) async fn list_tables(&self, namespace: &[String]) -> Result<Vec<TableIdent>> {
        let path = format!("{}/tables", self.namespace_path(namespace));
        let key = namespace.join(".");
        let mut found = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let query: Vec<(&str, &str)> = page.iter().map(|token| ("pageToken", token.as_str())).collect();
            let body: TablesBody = match self.http.get(&path, &query).await {
                Ok(body) => body,
                Err(failure) if is_absent(&failure) => break,
                Err(failure) => return Err(failure.into_error(&format!("listing the tables of {key}"))),
            };
            found.extend(body.identifiers.into_iter().map(|ident| TableIdent::new(&key, ident.name)));
            page = body.next_page_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        found.sort();
        Ok(found)
    }

    pub(crate) async fn drop_table(&self, ident: &TableIdent, purge: bool) -> Result<bool> {
        let query = [("purgeRequested", if purge { "true" } else { "false" })];
        match self.http.send::<Value>(Method::DELETE, &self.table_path(ident), &query, NOTHING).await {
            Ok(_) => Ok(true),
            Err(failure) if is_absent(&failure) => Ok(false),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("dropping table {ident}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("dropping table {ident}"))),
        }
    }

    pub(crate) async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        let body = RenameBody { source: ident_body(from), destination: ident_body(to) };
        match self.http.send::<Value>(Method::POST, &self.path("tables/rename"), &[], Some(&body)).await {
            Ok(_) => Ok(()),
            Err(failure) if is_absent(&failure) => Err(err::table_not_found(from)),
            Err(failure) if failure.is(409) => Err(err::table_exists(to)),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("renaming table {from}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("renaming table {from}"))),
        }
    }
}

/// The table of an answer. Its metadata came with it, so its file is not read; credentials that came too are used for
/// its files from now on.
fn table(ident: &TableIdent, body: TableBody, store: &Arc<StoreRegistry>) -> Result<Table> {
    let location = body.metadata_location.ok_or_else(|| err::metadata(format!("the REST catalog names no metadata file of table {ident}")))?;
    let metadata = Arc::new(body.metadata);
    let of_prefix = body.storage_credentials.unwrap_or_default().into_iter();
    let mut lent: Vec<LentCredentials> = of_prefix.map(|credential| LentCredentials::new(credential.prefix, credential.config)).collect();
    if lent.is_empty()
        && let Some(config) = body.config
    {
        // They hold wherever the table says that its files are.
        let elsewhere = ["write.data.path", "write.metadata.path"].iter().filter_map(|key| metadata.properties().get(*key));
        let places = std::iter::once(metadata.location()).chain(elsewhere.map(String::as_str));
        lent.extend(places.map(|place| LentCredentials::new(place.to_owned(), config.clone())));
    }
    lent.retain(LentCredentials::is_some);
    for credentials in &lent {
        store.lend(credentials)?;
    }
    store.metadata_cache().put_metadata(&location, Arc::clone(&metadata));
    let expires_ms = lent.iter().filter_map(LentCredentials::expires_ms).min();
    let prefixes = lent.into_iter().map(|credentials| credentials.prefix().to_owned()).collect();
    Ok(Table::new(ident.clone(), location, metadata, Arc::clone(store))?.lent(prefixes, expires_ms))
}

fn ident_body(ident: &TableIdent) -> IdentBody {
    IdentBody { namespace: ident.namespace().to_vec(), name: ident.name().to_owned() }
}

/// A 404 of the catalog; one without the catalog's error body comes from somewhere else, such as a wrong address.
fn is_absent(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { status: 404, kind, .. } if !kind.is_empty())
}

fn unknown(what: &str, reason: &str) -> Error {
    let message = format!("{what}: {reason}: it may or may not have happened");
    Error::new(ErrorCode::CommitUnknown, message)
}

/// Percent-encoded for a path.
fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// A URI as it may be shown.
fn shown(uri: &str) -> String {
    chainalytics_common::config::redact_url(uri)
}
