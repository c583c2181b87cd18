//! CREATE, ALTER, DESCRIBE and DROP NAMESPACE (SCHEMA, DATABASE), SHOW NAMESPACES.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::ObjectName;
use datafusion::sql::sqlparser::parser::Parser;

use chainalytics_common::{Error, ErrorCode, Result};

use super::create_table::{parse_properties, property_key};
use super::ddl::text_batch;
use super::listing::Listing;
use super::names::part_value;
use super::statement::parse_error;
use super::words::{accept, expected, list, text};
use super::{Runner, StatementResult, rows};
use crate::catalog::NAMESPACE_LOCATION;
use crate::err::namespace_not_found;
use crate::store::normalize_location;

/// Property that holds a namespace's comment.
const COMMENT: &str = "comment";
const OWNER: &str = "owner";
/// The JDBC catalog's mark of a namespace without other properties; nobody's property.
const EXISTS: &str = "exists";

/// `CREATE NAMESPACE [IF NOT EXISTS] name [COMMENT '…'] [LOCATION '…'] [WITH PROPERTIES | DBPROPERTIES (…)]`
#[derive(Debug)]
pub struct CreateNamespace {
    pub name: ObjectName,
    pub if_not_exists: bool,
    pub properties: BTreeMap<String, String>,
}

/// `ALTER NAMESPACE name SET PROPERTIES (…) | SET LOCATION '…' | UNSET PROPERTIES [IF EXISTS] (…)`
#[derive(Debug)]
pub struct AlterNamespace {
    pub name: ObjectName,
    pub set: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// Parses what follows `CREATE NAMESPACE`.
pub fn parse_create_namespace(parser: &mut Parser<'_>) -> Result<CreateNamespace> {
    let if_not_exists = accept(parser, "IF NOT EXISTS");
    let name = parser.parse_object_name(false).map_err(parse_error)?;
    let mut properties = BTreeMap::new();
    loop {
        if accept(parser, "COMMENT") {
            properties.insert(COMMENT.to_owned(), text(parser)?);
        } else if accept(parser, "LOCATION") {
            properties.insert(NAMESPACE_LOCATION.to_owned(), normalize_location(&text(parser)?)?);
        } else if accept(parser, "WITH PROPERTIES") || accept(parser, "WITH DBPROPERTIES") {
            properties.extend(parse_properties(parser)?);
        } else {
            return Ok(CreateNamespace { name, if_not_exists, properties });
        }
    }
}

/// Parses what follows `ALTER NAMESPACE`.
pub fn parse_alter_namespace(parser: &mut Parser<'_>) -> Result<AlterNamespace> {
    let name = parser.parse_object_name(false).map_err(parse_error)?;
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    if accept(parser, "SET PROPERTIES") || accept(parser, "SET DBPROPERTIES") {
        set.extend(parse_properties(parser)?);
    } else if accept(parser, "SET LOCATION") {
        set.insert(NAMESPACE_LOCATION.to_owned(), normalize_location(&text(parser)?)?);
    } else if accept(parser, "UNSET PROPERTIES") || accept(parser, "UNSET DBPROPERTIES") {
        let _if_exists = accept(parser, "IF EXISTS");
        remove = list(parser, false, property_key)?;
    } else {
        return Err(expected(parser, "SET PROPERTIES, SET LOCATION or UNSET PROPERTIES"));
    }
    Ok(AlterNamespace { name, set, remove })
}

impl Runner<'_> {
    pub(super) async fn create_namespace(&self, create: CreateNamespace) -> Result<StatementResult> {
        let namespace = self.namespace(&create.name);
        let created = self.lakehouse.catalog().create_namespace_with(&namespace, &create.properties).await?;
        if !created && !create.if_not_exists {
            return Err(Error::new(ErrorCode::NamespaceExists, format!("namespace {namespace} exists already")));
        }
        Ok(StatementResult::Ok)
    }

    pub(super) async fn alter_namespace(&self, alter: AlterNamespace) -> Result<StatementResult> {
        let namespace = self.namespace(&alter.name);
        self.lakehouse.catalog().change_namespace(&namespace, &alter.set, &alter.remove).await?;
        Ok(StatementResult::Ok)
    }

    pub(super) async fn drop_namespaces(&self, names: &[ObjectName], if_exists: bool, cascade: bool) -> Result<StatementResult> {
        let catalog = self.lakehouse.catalog();
        for name in names {
            let namespace = self.namespace(name);
            if !catalog.namespace_exists(&namespace).await? {
                if if_exists {
                    continue;
                }
                return Err(namespace_not_found(&namespace));
            }
            let tables = catalog.list_tables(&namespace).await?;
            let views = catalog.list_views(&namespace).await?;
            let held = tables.len() + views.len();
            if held > 0 && !cascade {
                let names: Vec<&str> = tables.iter().chain(&views).take(3).map(|table| table.name()).collect();
                return Err(Error::new(
                    ErrorCode::NamespaceNotEmpty,
                    format!("namespace {namespace} holds {held} tables and views ({} …); CASCADE drops them too", names.join(", ")),
                ));
            }
            for view in views {
                catalog.drop_view(&view).await?;
            }
            for table in tables {
                catalog.drop_table(&table, false).await?;
            }
            catalog.drop_namespace(&namespace).await?;
        }
        Ok(StatementResult::Ok)
    }

    pub(super) async fn show_namespaces(&self, listing: &Listing) -> Result<StatementResult> {
        let mut names = self.lakehouse.catalog().list_namespaces().await?;
        if let Some(parent) = &listing.namespace {
            let parent = self.namespace(parent);
            // Those directly below it.
            let below = |name: &String| name.strip_prefix(&parent).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| !rest.contains('.'));
            if !names.contains(&parent) && !names.iter().any(below) {
                return Err(namespace_not_found(&parent));
            }
            names.retain(below);
        }
        names.retain(|name| listing.lists(name));
        rows(text_batch(&[("namespace", names)])?)
    }

    pub(super) async fn describe_namespace(&self, name: &ObjectName, extended: bool) -> Result<StatementResult> {
        let namespace = self.namespace(name);
        let catalog = self.lakehouse.catalog();
        if !catalog.namespace_exists(&namespace).await? {
            return Err(namespace_not_found(&namespace));
        }
        let mut properties = catalog.namespace_properties(&namespace).await?;
        properties.remove(EXISTS);
        let mut lines = vec![("Catalog Name", catalog.name().to_owned()), ("Namespace Name", namespace.clone())];
        let known = [("Comment", COMMENT), ("Location", NAMESPACE_LOCATION), ("Owner", OWNER)];
        lines.extend(known.into_iter().filter_map(|(label, key)| Some((label, properties.remove(key)?))));
        if extended {
            let pairs: Vec<String> = properties.iter().map(|(key, value)| format!("({key},{value})")).collect();
            lines.push(("Properties", if pairs.is_empty() { String::new() } else { format!("({})", pairs.join(", ")) }));
        }
        let (names, values) = lines.into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
        rows(text_batch(&[("info_name", names), ("info_value", values)])?)
    }

    /// A namespace as written, without the catalog's name.
    pub(super) fn namespace(&self, name: &ObjectName) -> String {
        let mut parts: Vec<String> = name.0.iter().map(part_value).collect();
        if parts.len() > 1 && self.ctx.catalog_names().contains(&parts[0]) {
            parts.remove(0);
        }
        parts.join(".")
    }
}
