use std::collections::{BTreeMap, VecDeque};

use chainalytics_common::Result;
use reqwest::Method;
use serde_json::Value;

use super::body::{CreateNamespaceBody, NamespaceBody, NamespaceUpdateBody, NamespacesBody};
use super::http::Failure;
use super::{NOTHING, PAGES_MAX, RestCatalog, encoded, is_absent, unknown};
use crate::err;

/// Namespaces that a listing follows at most.
const NAMESPACES_MAX: usize = 10_000;

impl RestCatalog {
    /// `false` if it exists already.
    pub(crate) async fn create_namespace(&self, levels: &[String], properties: &BTreeMap<String, String>) -> Result<bool> {
        if self.namespace(levels).await?.is_some() {
            return Ok(false);
        }
        let name = levels.join(".");
        let body = CreateNamespaceBody { namespace: levels.to_vec(), properties: properties.clone() };
        match self.http.send::<Value>(Method::POST, &self.path("namespaces"), &[], Some(&body)).await {
            Ok(_) => Ok(true),
            // Somebody else was quicker.
            Err(failure) if failure.is(409) => Ok(false),
            // To create it again does no harm, so the caller may just do that.
            Err(failure) => Err(failure.into_error(&format!("creating namespace {name}"))),
        }
    }

    /// Sets and removes properties.
    pub(crate) async fn change_namespace(&self, levels: &[String], set: &BTreeMap<String, String>, remove: &[String]) -> Result<()> {
        let body = NamespaceUpdateBody { removals: remove.to_vec(), updates: set.clone() };
        let path = format!("{}/properties", self.namespace_path(levels));
        match self.http.send::<Value>(Method::POST, &path, &[], Some(&body)).await {
            Ok(_) => Ok(()),
            // To set them again does no harm, so the caller may just do that.
            Err(failure) => Err(failure.into_error(&format!("changing properties of namespace {}", levels.join(".")))),
        }
    }

    /// Properties of a namespace, or `None` if there is none.
    pub(crate) async fn namespace(&self, levels: &[String]) -> Result<Option<BTreeMap<String, String>>> {
        match self.http.get::<NamespaceBody>(&self.namespace_path(levels), &[]).await {
            Ok(body) => Ok(Some(body.properties.unwrap_or_default())),
            Err(failure) if is_absent(&failure) => Ok(None),
            Err(failure) => Err(failure.into_error(&format!("looking for namespace {}", levels.join(".")))),
        }
    }

    /// Every namespace, those within others too, sorted; levels joined with dots.
    pub(crate) async fn list_namespaces(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut queue: VecDeque<Option<Vec<String>>> = VecDeque::from([None]);
        while let Some(parent) = queue.pop_front() {
            for levels in self.children(parent.as_deref()).await? {
                // Some servers list all levels at once.
                let name = levels.join(".");
                if found.len() < NAMESPACES_MAX && !found.contains(&name) {
                    found.push(name);
                    queue.push_back(Some(levels));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    async fn children(&self, parent: Option<&[String]>) -> Result<Vec<Vec<String>>> {
        // The parameter is encoded once more as part of the query, so the separator stands for itself here.
        let parent = parent.map(|levels| levels.join("\u{1F}"));
        let mut found = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query: Vec<(&str, &str)> = parent.iter().map(|parent| ("parent", parent.as_str())).collect();
            query.extend(page.iter().map(|token| ("pageToken", token.as_str())));
            let body: NamespacesBody = match self.http.get(&self.path("namespaces"), &query).await {
                Ok(body) => body,
                // Dropped meanwhile, or a server whose namespaces have one level.
                Err(Failure::Refused { status: 400 | 404, .. }) if parent.is_some() => break,
                Err(failure) => return Err(failure.into_error("listing namespaces")),
            };
            found.extend(body.namespaces);
            page = body.next_page_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        Ok(found)
    }

    pub(crate) async fn drop_namespace(&self, levels: &[String]) -> Result<bool> {
        let name = levels.iter().map(|level| encoded(level)).collect::<Vec<_>>().join(".");
        match self.http.send::<Value>(Method::DELETE, &self.namespace_path(levels), &[], NOTHING).await {
            Ok(_) => Ok(true),
            Err(failure) if is_absent(&failure) => Ok(false),
            Err(failure) if failure.is(409) => Err(err::invalid(format!("namespace {name} is not empty"))),
            Err(Failure::NoAnswer(reason)) => Err(unknown(&format!("dropping namespace {name}"), &reason)),
            Err(failure) => Err(failure.into_error(&format!("dropping namespace {name}"))),
        }
    }
}
