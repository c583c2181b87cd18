//! Views: a query under a name, kept as Iceberg's view metadata. Source: Iceberg view spec, version 1.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chainalytics_common::{Error, ErrorCode, Result};
use chrono::Utc;
use iceberg::spec::ViewMetadata;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Backend, Catalog, RestCatalog};
use crate::err;
use crate::ident::{TableIdent, split_namespace};
use crate::table::arrow_schema;

/// The SQL dialect of views that this system writes.
const DIALECT: &str = "chainalytics";
/// Versions of a view that its metadata remembers.
const VERSIONS_MAX: usize = 10;

/// A view's definition.
#[derive(Debug, Clone)]
pub struct ViewDefinition {
    /// The query.
    pub sql: String,
    /// Namespace of bare names in the query.
    pub default_namespace: Vec<String>,
    /// Columns of the view.
    pub schema: SchemaRef,
    /// Properties, `comment` among them.
    pub properties: BTreeMap<String, String>,
}

impl Catalog {
    /// The view of that name, if there is one.
    ///
    /// # Errors
    /// `TableFormat` for a view without any SQL.
    pub async fn find_view(&self, ident: &TableIdent) -> Result<Option<ViewDefinition>> {
        match &self.backend {
            Backend::Sql(sql) => match sql.view_location(ident).await? {
                Some(location) => definition(ident, &location, &self.read_view(ident, &location).await?).map(Some),
                None => Ok(None),
            },
            Backend::Rest(rest) => match rest.view(ident).await? {
                Some((metadata, location)) => definition(ident, &location, &metadata).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Names of the views in a namespace, sorted.
    pub async fn list_views(&self, namespace: &str) -> Result<Vec<TableIdent>> {
        match &self.backend {
            Backend::Sql(sql) => sql.list_views(namespace).await,
            Backend::Rest(rest) => rest.list_views(&split_namespace(namespace)).await,
        }
    }

    /// Creates a view, or with `replace` gives one that exists a new version.
    ///
    /// # Errors
    /// `TableExists` for a table or (without `replace`) a view of that name; `CommitConflict` if it changed meanwhile.
    pub async fn create_view(&self, ident: &TableIdent, view: &ViewDefinition, replace: bool) -> Result<()> {
        let sql = match &self.backend {
            Backend::Sql(sql) if sql.has_views() => sql,
            Backend::Sql(_) => {
                return Err(err::unsupported(
                    "views in this catalog: its table iceberg_tables has no column iceberg_type (ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5))",
                ));
            }
            Backend::Rest(rest) => return self.create_rest_view(rest, ident, view, replace).await,
        };
        let old = if replace { sql.view_location(ident).await? } else { None };
        let (previous, version) = match &old {
            Some(location) => {
                let json = self.read_view(ident, location).await?;
                definition(ident, location, &json)?;
                (Some(json), version_of(location) + 1)
            }
            None => (None, 0),
        };
        let base = match &previous {
            Some(previous) => previous["location"].as_str().unwrap_or_default().to_owned(),
            None => {
                let suffix = Uuid::new_v4().simple().to_string();
                format!("{}/{}/{}-view-{}", self.warehouse, ident.namespace().join("/"), ident.name(), &suffix[..8])
            }
        };
        let json = metadata_of(view, &base, previous)?;
        // What the library cannot read, no other engine would.
        serde_json::from_value::<ViewMetadata>(json.clone()).map_err(|e| err::internal(format!("view metadata: {e}")))?;
        let bytes = serde_json::to_vec(&json).map_err(|e| err::internal(format!("view metadata: {e}")))?;
        let location = format!("{base}/metadata/{version:05}-{}.metadata.json", Uuid::new_v4());
        self.store.write(&location, bytes.into()).await?;
        self.create_namespace(&ident.namespace_key()).await?;
        let done = match &old {
            Some(old) => sql.swap_view(ident, old, &location).await?,
            None => sql.insert_view(ident, &location).await?,
        };
        if done {
            return Ok(());
        }
        self.store.delete_best_effort(vec![location]).await;
        Err(not_created(ident, old.is_some()))
    }

    /// Removes a view; `false` if there was none. Its metadata files stay.
    pub async fn drop_view(&self, ident: &TableIdent) -> Result<bool> {
        match &self.backend {
            Backend::Sql(sql) => sql.drop_view(ident).await,
            Backend::Rest(rest) => rest.drop_view(ident).await,
        }
    }

    async fn create_rest_view(&self, rest: &RestCatalog, ident: &TableIdent, view: &ViewDefinition, replace: bool) -> Result<()> {
        let previous = if replace { rest.view(ident).await?.map(|(metadata, _)| metadata) } else { None };
        let done = match &previous {
            Some(previous) => rest.replace_view(ident, previous, &metadata_of(view, "", Some(previous.clone()))?).await?,
            None => {
                self.create_namespace(&ident.namespace_key()).await?;
                rest.create_view(ident, &metadata_of(view, "", None)?).await?
            }
        };
        if done { Ok(()) } else { Err(not_created(ident, previous.is_some())) }
    }

    async fn read_view(&self, ident: &TableIdent, location: &str) -> Result<Value> {
        let broken = |what: &str| err::metadata(format!("view {ident} ({location}): {what}"));
        let bytes = self.store.read(location).await?;
        serde_json::from_slice(&bytes).map_err(|e| broken(&e.to_string()))
    }
}

/// What a view's metadata says; `location` is where it was read.
fn definition(ident: &TableIdent, location: &str, json: &Value) -> Result<ViewDefinition> {
    let broken = |what: &str| err::metadata(format!("view {ident} ({location}): {what}"));
    let metadata: ViewMetadata = serde_json::from_value(json.clone()).map_err(|e| broken(&e.to_string()))?;
    let current = metadata.current_version_id();
    let versions = json["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let version = versions
        .iter()
        .find(|version| version["version-id"].as_i64() == Some(i64::from(current)))
        .ok_or_else(|| broken("its current version is missing"))?;
    let texts = version["representations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_dialect = |dialect: &str| texts.iter().find(|text| text["dialect"].as_str().is_some_and(|d| d.eq_ignore_ascii_case(dialect)));
    let text = of_dialect(DIALECT).or_else(|| of_dialect("spark")).or_else(|| texts.first());
    let sql = text.and_then(|text| text["sql"].as_str()).ok_or_else(|| broken("it has no SQL"))?;
    Ok(ViewDefinition {
        sql: sql.to_owned(),
        default_namespace: metadata.current_version().default_namespace().as_ref().clone(),
        schema: Arc::new(arrow_schema::to_arrow(metadata.current_schema())?),
        properties: metadata.properties().clone().into_iter().collect(),
    })
}

fn not_created(ident: &TableIdent, existed: bool) -> Error {
    match existed {
        true => err::conflict(format!("view {ident} was changed meanwhile")),
        false => Error::new(ErrorCode::TableExists, format!("a table or view {ident} exists already")),
    }
}

/// The metadata of a new view, or the next version of a previous one.
fn metadata_of(view: &ViewDefinition, location: &str, previous: Option<Value>) -> Result<Value> {
    let mut json = previous.unwrap_or_else(|| {
        json!({
            "view-uuid": Uuid::new_v4().to_string(),
            "format-version": 1,
            "location": location,
            "schemas": [],
            "versions": [],
            "version-log": [],
            "properties": {},
        })
    });
    let highest = |list: &Value, key: &str| list.as_array().into_iter().flatten().filter_map(|entry| entry[key].as_i64()).max();
    let schema_id = highest(&json["schemas"], "schema-id").map_or(0, |id| id + 1);
    let version_id = highest(&json["versions"], "version-id").map_or(1, |id| id + 1);
    let schema = arrow_schema::from_arrow(&view.schema)?;
    let mut schema = serde_json::to_value(&schema).map_err(|e| err::internal(format!("view schema: {e}")))?;
    schema["schema-id"] = json!(schema_id);
    let now = Utc::now().timestamp_millis();
    let version = json!({
        "version-id": version_id,
        "timestamp-ms": now,
        "schema-id": schema_id,
        "summary": {"engine-name": "chainalytics", "engine-version": env!("CARGO_PKG_VERSION")},
        "default-namespace": view.default_namespace,
        "representations": [{"type": "sql", "sql": view.sql, "dialect": DIALECT}],
    });
    push(&mut json["versions"], version);
    // Schemas of versions that are forgotten go with them.
    let used: Vec<Option<i64>> = json["versions"].as_array().into_iter().flatten().map(|version| version["schema-id"].as_i64()).collect();
    if let Some(schemas) = json["schemas"].as_array_mut() {
        schemas.push(schema);
        schemas.retain(|schema| used.contains(&schema["schema-id"].as_i64()));
    }
    push(&mut json["version-log"], json!({"timestamp-ms": now, "version-id": version_id}));
    json["current-version-id"] = json!(version_id);
    json["properties"] = json!(view.properties);
    Ok(json)
}

/// Appends to a list of bounded length.
fn push(list: &mut Value, entry: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(entry);
        let surplus = list.len().saturating_sub(VERSIONS_MAX);
        list.drain(..surplus);
    }
}

fn version_of(location: &str) -> u32 {
    let file = location.rsplit('/').next().unwrap_or_default();
    file.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}
