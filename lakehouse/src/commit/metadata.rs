use std::sync::Arc;

use chainalytics_common::Result;
use iceberg::TableUpdate;
use iceberg::spec::{NestedFieldRef, Schema, TableMetadata};
use uuid::Uuid;

use super::change::TableChange;
use super::edit::{self, TableEdit};
use crate::err;
use crate::table::{Table, arrow_schema};

/// The table's metadata with its new definition, if the change has one: what the snapshot is then built with. Beside it
/// the steps that led there.
pub(super) fn defined(table: &Table, change: &TableChange) -> Result<(Arc<TableMetadata>, Vec<TableUpdate>)> {
    let metadata = with_new_columns(table, change)?;
    if change.definition.is_empty() {
        return Ok((metadata, Vec::new()));
    }
    with_edits(table, &metadata, &change.definition)
}

/// The table's metadata after changes of the definition, not committed.
pub(crate) fn redefined(table: &Table, edits: &[TableEdit]) -> Result<Arc<TableMetadata>> {
    Ok(with_edits(table, table.metadata(), edits)?.0)
}

fn with_edits(table: &Table, metadata: &TableMetadata, edits: &[TableEdit]) -> Result<(Arc<TableMetadata>, Vec<TableUpdate>)> {
    let builder = edit::apply(metadata.clone().into_builder(None), metadata, table.references()?.as_ref(), edits)?;
    let built = builder.build().map_err(err::iceberg_input)?;
    Ok((Arc::new(built.metadata), built.changes))
}

/// The table's metadata with new columns, if the change adds any.
fn with_new_columns(table: &Table, change: &TableChange) -> Result<Arc<TableMetadata>> {
    let metadata = table.metadata();
    let current = metadata.current_schema();
    let new: Vec<_> = change.add_columns.iter().filter(|field| current.field_by_name(field.name()).is_none()).cloned().collect();
    if new.is_empty() {
        return Ok(Arc::clone(metadata));
    }
    if let Some(required) = new.iter().find(|field| !field.is_nullable()) {
        return Err(err::invalid(format!("new column '{}' must be nullable: old rows have no value", required.name())));
    }
    let mut fields: Vec<NestedFieldRef> = current.as_struct().fields().to_vec();
    fields.extend(arrow_schema::fields_from_arrow(&new.into(), metadata.last_column_id())?);
    let schema =
        Schema::builder().with_fields(fields).with_identifier_field_ids(current.identifier_field_ids()).build().map_err(err::iceberg_input)?;
    let builder = metadata.as_ref().clone().into_builder(None).add_current_schema(schema).map_err(err::iceberg_input)?;
    Ok(Arc::new(builder.build().map_err(err::iceberg_input)?.metadata))
}

/// Location of the next metadata file: `<location>/metadata/<version>-<uuid>.metadata.json`.
pub(super) fn next_location(table: &Table) -> String {
    let file = table.metadata_location().rsplit('/').next().unwrap_or_default();
    // Ours: `00012-uuid.metadata.json`; Hadoop's: `v12.metadata.json`.
    let digits: String = file.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
    let version = digits.parse::<u32>().unwrap_or(0).saturating_add(1);
    format!("{}/metadata/{version:05}-{}.metadata.json", table.location().trim_end_matches('/'), Uuid::new_v4())
}
