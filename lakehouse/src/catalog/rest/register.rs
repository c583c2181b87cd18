use std::sync::Arc;

use chainalytics_common::Result;
use reqwest::Method;
use serde::Serialize;

use super::body::TableBody;
use super::http::Failure;
use super::{RestCatalog, table, unknown};
use crate::ident::TableIdent;
use crate::store::StoreRegistry;
use crate::table::Table;

/// Body of `POST namespaces/{namespace}/register`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RegisterBody<'a> {
    name: &'a str,
    metadata_location: &'a str,
}

impl RestCatalog {
    /// `None` if a table of that name is there.
    pub(crate) async fn register_table(&self, ident: &TableIdent, metadata_location: &str, store: &Arc<StoreRegistry>) -> Result<Option<Table>> {
        let body = RegisterBody { name: ident.name(), metadata_location };
        let path = format!("{}/register", self.namespace_path(ident.namespace()));
        match self.http.send::<TableBody>(Method::POST, &path, &[], Some(&body)).await {
            Ok(body) => table(ident, body, store).map(Some),
            Err(failure) if failure.is(409) => Ok(None),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("registering table {ident}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("registering table {ident}"))),
        }
    }
}
