//! `ALTER TABLE`: each statement is one metadata commit, checked anew against what others committed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;

use chainalytics_common::{Error, ErrorCode, Result};

use super::alter_parse::{AlterAction, AlterTable};
use super::catalog::{find_table, table_not_found};
use super::defaults::{compute, has_default, resolve};
use super::names::ident_of;
use super::{Runner, StatementResult, unsupported};
use crate::commit::{SchemaEdit, TableChange, TableEdit, Transaction, find_column};
use crate::table::Table;
use crate::table::arrow_schema::arrow_type;

/// Table property: how writes distribute rows, `hash`, `range` or `none`.
const DISTRIBUTION_MODE: &str = "write.distribution-mode";
/// Properties that are part of the metadata itself and change by statements of their own.
const RESERVED: [&str; 8] =
    ["uuid", "provider", "location", "current-schema", "current-snapshot-id", "current-snapshot-summary", "default-partition-spec", "sort-order"];

impl Runner<'_> {
    pub(super) async fn alter_table(&self, alter: AlterTable) -> Result<StatementResult> {
        let ident = ident_of(self.ctx, &alter.name)?;
        let table = match find_table(self.lakehouse, &ident).await? {
            Some(table) => table,
            None if alter.if_exists => return Ok(StatementResult::Ok),
            None => return Err(table_not_found(self.lakehouse, &ident).await),
        };
        if table.branch().is_some() {
            return Err(Error::new(ErrorCode::SqlUnsupported, "not supported: ALTER of a branch: schema and properties are the table's"));
        }
        let change = TableChange::metadata(table.ident().clone());
        let change = match alter.action {
            AlterAction::Schema(edits) => {
                let mut resolved = Vec::with_capacity(edits.len());
                for edit in edits {
                    resolved.push(TableEdit::Schema(with_default(&table, edit).await?));
                }
                change.edit(resolved)
            }
            AlterAction::Default { path, value } => {
                let field = find_column(table.metadata().current_schema(), &path)?;
                let column = Field::new(&field.name, arrow_type(&field.field_type)?, true);
                let value = match value {
                    Some(sql) => compute(&sql, &column).await?,
                    None => None,
                };
                change.edit(vec![TableEdit::Schema(SchemaEdit::WriteDefault { path, value })])
            }
            AlterAction::Partition(edit) => change.edit(vec![TableEdit::Partition(edit)]),
            AlterAction::Write { order, distribution } => {
                change.edit(vec![TableEdit::SortOrder(order)]).set_property(DISTRIBUTION_MODE, distribution)
            }
            AlterAction::SetProperties(pairs) => set_properties(change, pairs)?,
            AlterAction::UnsetProperties(keys) => {
                check_keys(keys.iter().map(String::as_str))?;
                keys.into_iter().filter(|key| table.property(key).is_some()).fold(change, TableChange::remove_property)
            }
            AlterAction::SetLocation(location) => change.edit(vec![TableEdit::Location(location)]),
            AlterAction::RenameTo(name) => return self.rename_table(&table, &name).await,
            AlterAction::Ref(statement) => return self.change_ref(&table, statement).await,
        };
        Transaction::new(self.lakehouse).add(change).commit(self.options.clone()).await?;
        Ok(StatementResult::Ok)
    }

    async fn rename_table(&self, table: &Table, name: &datafusion::sql::sqlparser::ast::ObjectName) -> Result<StatementResult> {
        let to = ident_of(self.ctx, name)?;
        let catalog = self.lakehouse.catalog();
        if !catalog.namespace_exists(&to.namespace_key()).await? {
            return Err(Error::new(
                ErrorCode::NamespaceNotFound,
                format!("table {} cannot become {to}: there is no namespace '{}'", table.ident(), to.namespace_key()),
            ));
        }
        catalog.rename_table(table.ident(), &to).await?;
        Ok(StatementResult::Ok)
    }
}

/// The edit with the default of a new column computed.
async fn with_default(table: &Table, edit: SchemaEdit) -> Result<SchemaEdit> {
    let SchemaEdit::Add { parent, field, position, if_not_exists } = edit else { return Ok(edit) };
    if !has_default(&field) {
        return Ok(SchemaEdit::Add { parent, field, position, if_not_exists });
    }
    if table.format_version() < 3 {
        return Err(unsupported("DEFAULT of a column below format-version 3 (SET TBLPROPERTIES ('format-version' = '3') first)"));
    }
    let field = Arc::new(resolve(field.as_ref().clone()).await?);
    Ok(SchemaEdit::Add { parent, field, position, if_not_exists })
}

fn set_properties(mut change: TableChange, pairs: Vec<(String, String)>) -> Result<TableChange> {
    check_keys(pairs.iter().map(|(key, _)| key.as_str()))?;
    let mut properties: BTreeMap<String, String> = pairs.into_iter().collect();
    if let Some(version) = properties.remove("format-version") {
        let version = version.parse().map_err(|_| Error::new(ErrorCode::InvalidArgument, format!("format-version '{version}': it is 1, 2 or 3")))?;
        change = change.edit(vec![TableEdit::FormatVersion(version)]);
    }
    Ok(properties.into_iter().fold(change, |change, (key, value)| change.set_property(key, value)))
}

fn check_keys<'a>(mut keys: impl Iterator<Item = &'a str>) -> Result<()> {
    match keys.find(|key| RESERVED.contains(key)) {
        Some(key) => Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("property '{key}' is reserved: it follows from the table's metadata (SET LOCATION, WRITE ORDERED BY … change that)"),
        )),
        None => Ok(()),
    }
}
