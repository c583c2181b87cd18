//! DROP TABLE and SHOW TABLES.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::ObjectName;

use chainalytics_common::{Error, ErrorCode, Result};

use super::catalog::{LakehouseSchemaProvider, find_table, table_not_found};
use super::listing::Listing;
use super::names::{ident_of, part_value};
use super::{Runner, StatementResult, rows};
use crate::err::namespace_not_found;

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

    pub(super) async fn show_tables(&self, listing: &Listing) -> Result<StatementResult> {
        let catalog = self.lakehouse.catalog();
        let namespace = match &listing.namespace {
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
            let temporary = schema.downcast_ref::<LakehouseSchemaProvider>().map(LakehouseSchemaProvider::temporary_names).unwrap_or_default();
            names.retain(|(name, _)| !temporary.contains(name));
            names.extend(temporary.into_iter().map(|name| (name, true)));
        }
        names.retain(|(name, _)| listing.lists(name));
        names.sort();
        let batch = RecordBatch::try_from_iter([
            ("namespace", Arc::new(names.iter().map(|_| Some(namespace.as_str())).collect::<StringArray>()) as _),
            ("tableName", Arc::new(names.iter().map(|(n, _)| Some(n.as_str())).collect::<StringArray>()) as _),
            ("isTemporary", Arc::new(names.iter().map(|(_, t)| Some(*t)).collect::<BooleanArray>()) as _),
        ]);
        rows(batch.map_err(|e| Error::new(ErrorCode::Internal, format!("SHOW TABLES: {e}")))?)
    }
}

/// Columns of text as a batch.
pub(super) fn text_batch(columns: &[(&str, Vec<String>)]) -> Result<RecordBatch> {
    let columns = columns.iter().map(|(name, values)| (*name, Arc::new(StringArray::from_iter_values(values)) as ArrayRef));
    RecordBatch::try_from_iter(columns).map_err(|e| Error::new(ErrorCode::Internal, format!("listing: {e}")))
}
