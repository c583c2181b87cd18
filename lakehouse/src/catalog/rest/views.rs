//! Views of a REST catalog. A server without the endpoints has no views.

use chainalytics_common::Result;
use reqwest::Method;
use serde_json::{Value, json};

use super::body::TablesBody;
use super::http::Failure;
use super::{NOTHING, PAGES_MAX, RestCatalog, encoded, is_absent, unknown};
use crate::err;
use crate::ident::TableIdent;

impl RestCatalog {
    fn view_path(&self, ident: &TableIdent) -> String {
        format!("{}/views/{}", self.namespace_path(ident.namespace()), encoded(ident.name()))
    }

    /// Whether the server may have views at all.
    fn has_views(&self) -> bool {
        self.offers("GET /v1/{prefix}/namespaces/{namespace}/views/{view}")
    }

    /// The metadata of a view, with the place of its file; `None` if there is none.
    pub(in crate::catalog) async fn view(&self, ident: &TableIdent) -> Result<Option<(Value, String)>> {
        if !self.has_views() {
            return Ok(None);
        }
        match self.http.get::<Value>(&self.view_path(ident), &[]).await {
            Ok(mut body) => {
                let location = body["metadata-location"].as_str().unwrap_or_default().to_owned();
                Ok(Some((body["metadata"].take(), location)))
            }
            Err(failure) if is_absent(&failure) || failure.is_no_endpoint() => Ok(None),
            Err(failure) => Err(failure.into_error(&format!("loading view {ident}"))),
        }
    }

    /// Names of the views in a namespace, sorted.
    pub(in crate::catalog) async fn list_views(&self, namespace: &[String]) -> Result<Vec<TableIdent>> {
        if !self.has_views() {
            return Ok(Vec::new());
        }
        let path = format!("{}/views", self.namespace_path(namespace));
        let key = namespace.join(".");
        let mut found = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let query: Vec<(&str, &str)> = page.iter().map(|token| ("pageToken", token.as_str())).collect();
            let body: TablesBody = match self.http.get(&path, &query).await {
                Ok(body) => body,
                Err(failure) if is_absent(&failure) || failure.is_no_endpoint() => break,
                Err(failure) => return Err(failure.into_error(&format!("listing the views of {key}"))),
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

    /// Creates a view from the only version in `metadata`. `false` if there is a table or view of that name.
    pub(in crate::catalog) async fn create_view(&self, ident: &TableIdent, metadata: &Value) -> Result<bool> {
        let body = json!({
            "name": ident.name(),
            "schema": last(&metadata["schemas"]),
            "view-version": last(&metadata["versions"]),
            "properties": metadata["properties"],
        });
        let path = format!("{}/views", self.namespace_path(ident.namespace()));
        match self.http.send::<Value>(Method::POST, &path, &[], Some(&body)).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(409) => Ok(false),
            Err(failure) if failure.is_no_endpoint() => Err(err::unsupported("views in this REST catalog: its server has none")),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("creating view {ident}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("creating view {ident}"))),
        }
    }

    /// Gives a view the newest version of `metadata`; `previous` is what it was made from. `false` if the view is not
    /// that one any more.
    pub(in crate::catalog) async fn replace_view(&self, ident: &TableIdent, previous: &Value, metadata: &Value) -> Result<bool> {
        let schema = last(&metadata["schemas"]);
        let mut version = last(&metadata["versions"]);
        // The server numbers schemas and versions; -1 is the one just added.
        version["schema-id"] = json!(-1);
        let old = previous["properties"].as_object().cloned().unwrap_or_default();
        let removed: Vec<&String> = old.keys().filter(|key| metadata["properties"].get(key.as_str()).is_none()).collect();
        let mut updates = vec![
            json!({"action": "add-schema", "schema": schema}),
            json!({"action": "add-view-version", "view-version": version}),
            json!({"action": "set-current-view-version", "view-version-id": -1}),
            json!({"action": "set-properties", "updates": metadata["properties"]}),
        ];
        if !removed.is_empty() {
            updates.push(json!({"action": "remove-properties", "removals": removed}));
        }
        let body = json!({
            "identifier": {"namespace": ident.namespace(), "name": ident.name()},
            "requirements": [{"type": "assert-view-uuid", "uuid": previous["view-uuid"]}],
            "updates": updates,
        });
        match self.http.send::<Value>(Method::POST, &self.view_path(ident), &[], Some(&body)).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(409) || is_absent(&failure) => Ok(false),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("replacing view {ident}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("replacing view {ident}"))),
        }
    }

    /// `false` if there was no such view.
    pub(in crate::catalog) async fn drop_view(&self, ident: &TableIdent) -> Result<bool> {
        match self.http.send::<Value>(Method::DELETE, &self.view_path(ident), &[], NOTHING).await {
            Ok(_) => Ok(true),
            Err(failure) if is_absent(&failure) || failure.is_no_endpoint() => Ok(false),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("dropping view {ident}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("dropping view {ident}"))),
        }
    }
}

fn last(list: &Value) -> Value {
    list.as_array().and_then(|list| list.last()).cloned().unwrap_or(Value::Null)
}
