//! DROP TABLE, namespaces, SHOW TABLES and SHOW NAMESPACES.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::ObjectName;

use chainalytics_common::{Error, ErrorCode, Result};

use super::catalog::{find_table, table_not_found};
use super::names::{ident_of, part_value};
use super::{Runner, StatementResult, rows};

impl Runner<'_> {
    pub(super) async fn drop_tables(&self, names: &[ObjectName], if_exists: bool, purge: bool) -> Result<StatementResult> {
        for name in names {
            let parts: Vec<String> = name.0.iter().map(part_value).collect();
            if let [bare] = parts.as_slice()
                && self.ctx.deregister_table(TableReference::bare(bare.clone())).map_err(Error::from_datafusion)?.is_some()
            {
                continue; // a temporary table of the session
            }
            let ident = ident_of(self.ctx, name)?;
            match find_table(self.lakehouse, &ident).await? {
                Some(table) if table.branch().is_some() => {
                    return Err(Error::new(
                        ErrorCode::InvalidArgument,
                        format!("{name} is a branch; ALTER TABLE {} DROP BRANCH removes it", table.ident()),
                    ));
                }
                Some(table) => {
                    if purge && table.property("gc.enabled") == Some("false") {
                        return Err(Error::new(
                            ErrorCode::InvalidArgument,
                            format!(
                                "table {} has gc.enabled = false: its files may be others' too and are not deleted; DROP TABLE without PURGE",
                                table.ident()
                            ),
                        ));
                    }
                    self.lakehouse.catalog().drop_table(table.ident(), purge).await?;
                }
                None if if_exists => {}
                None => return Err(table_not_found(self.lakehouse, &ident).await),
            }
        }
        Ok(StatementResult::Ok)
    }

    pub(super) async fn create_namespace(&self, name: &ObjectName, if_not_exists: bool) -> Result<StatementResult> {
        let namespace = self.namespace(name);
        let catalog = self.lakehouse.catalog();
        if !if_not_exists && catalog.namespace_exists(&namespace).await? {
            return Err(Error::new(ErrorCode::NamespaceExists, format!("namespace {namespace} exists already")));
        }
        catalog.create_namespace(&namespace).await?;
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
            let holds = tables.len() + views.len();
            if holds > 0 && !cascade {
                let names: Vec<&str> = tables.iter().chain(&views).take(3).map(|table| table.name()).collect();
                return Err(Error::new(
                    ErrorCode::NamespaceNotEmpty,
                    format!("namespace {namespace} holds {holds} tables and views ({} …); DROP NAMESPACE … CASCADE drops them too", names.join(", ")),
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

    pub(super) async fn show_namespaces(&self) -> Result<StatementResult> {
        let names = self.lakehouse.catalog().list_namespaces().await?;
        rows(text_batch(&[("namespace", names)])?)
    }

    pub(super) async fn show_tables(&self, namespace: Option<&ObjectName>) -> Result<StatementResult> {
        let catalog = self.lakehouse.catalog();
        let namespace = match namespace {
            Some(name) => {
                let namespace = self.namespace(name);
                if !catalog.namespace_exists(&namespace).await? {
                    return Err(namespace_not_found(&namespace));
                }
                namespace
            }
            None => self.ctx.state().config_options().catalog.default_schema.clone(),
        };
        let mut names: Vec<(String, bool)> = catalog.list_tables(&namespace).await?.iter().map(|t| (t.name().to_string(), false)).collect();
        let state = self.ctx.state();
        if let Some(schema) = self.ctx.catalog(&state.config_options().catalog.default_catalog).and_then(|c| c.schema(&namespace)) {
            for name in schema.table_names() {
                if !names.iter().any(|(known, _)| *known == name) {
                    names.push((name, true));
                }
            }
        }
        names.sort();
        let batch = RecordBatch::try_from_iter([
            ("namespace", Arc::new(names.iter().map(|_| Some(namespace.as_str())).collect::<StringArray>()) as _),
            ("tableName", Arc::new(names.iter().map(|(n, _)| Some(n.as_str())).collect::<StringArray>()) as _),
            ("isTemporary", Arc::new(names.iter().map(|(_, t)| Some(*t)).collect::<BooleanArray>()) as _),
        ]);
        rows(batch.map_err(|e| Error::new(ErrorCode::Internal, format!("SHOW TABLES: {e}")))?)
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

fn namespace_not_found(namespace: &str) -> Error {
    Error::new(ErrorCode::NamespaceNotFound, format!("there is no namespace {namespace}"))
}

/// Columns of text as a batch.
pub(super) fn text_batch(columns: &[(&str, Vec<String>)]) -> Result<RecordBatch> {
    let columns = columns.iter().map(|(name, values)| (*name, Arc::new(StringArray::from_iter_values(values)) as ArrayRef));
    RecordBatch::try_from_iter(columns).map_err(|e| Error::new(ErrorCode::Internal, format!("listing: {e}")))
}
