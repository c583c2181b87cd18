//! Tables that follow their writers: columns for the new fields of registered schemas, wider and optional ones, in the commit that
//! brings the first records of such a schema.

use std::sync::Arc;

use arrow::datatypes::Field;

use chainalytics_common::Result;
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::commit::{SchemaEdit, TableEdit};

use super::look::Situation;
use super::runner::BatchRunner;
use crate::err;
use crate::exec::NewerSchema;
use crate::registry::{Lookup, SchemaType, shared};
use crate::topics::{FieldKind, FieldSpec, avro_fields, fit, json_schema_fields};

impl BatchRunner {
    /// Remembers what the tables must be given for these schemas; the next plan stages it, its commit makes it so.
    ///
    /// # Errors
    /// Those of the registry.
    pub(super) async fn evolve(&mut self, newer: &[NewerSchema], situation: &Situation) -> Result<()> {
        let Some(options) = &self.spec.registry else {
            return Err(err::internal("a writer's schema without a registry"));
        };
        let registry = shared(options)?;
        for NewerSchema { topic, schema_id } in newer {
            let position = self.topics.iter().position(|subscription| &subscription.topic == topic);
            let Some((subscription, schema)) = position.and_then(|at| self.topics.get(at).zip(situation.schemas.get(at))) else {
                return Err(err::internal(format!("a schema of topic '{topic}', which the stream does not read")));
            };
            let Lookup::Found(registered) = registry.schema_by_id(*schema_id).await? else { continue };
            let fields = match registered.schema_type {
                SchemaType::Json => json_schema_fields(&registered.text),
                _ => avro_fields(&registered.text),
            };
            let found = fields.map(|fields| fit(schema, &fields)).unwrap_or_default();
            let pending = self.pending.entry(subscription.table.clone()).or_default();
            for edit in found.new.iter().map(add).chain(found.widened.iter().map(|(name, kind)| widen(name, *kind))).chain(found.relaxed.iter().map(|name| relax(name))) {
                if !pending.contains(&edit) {
                    pending.push(edit);
                }
            }
            let changed = found.widened.iter().map(|(name, _)| name).chain(&found.relaxed).map(String::as_str);
            let names: Vec<&str> = found.new.iter().map(|field| field.name.as_str()).chain(changed).collect();
            tracing::info!(table = %subscription.table, topic, schema = schema_id, columns = names.join(", "), "the table follows a newer schema of its writers");
        }
        Ok(())
    }

    /// The table as the next commit will make it, and the edits that do; the table itself if there are none. What somebody
    /// else has done meanwhile is no edit any more.
    pub(super) fn stage(&mut self, table: Table) -> Result<(Table, Vec<TableEdit>)> {
        let Some(pending) = self.pending.get_mut(table.ident()) else { return Ok((table, Vec::new())) };
        pending.retain(|edit| still_to_do(edit, &table));
        if pending.is_empty() {
            self.pending.remove(table.ident());
            return Ok((table, Vec::new()));
        }
        let edits: Vec<TableEdit> = pending.iter().cloned().map(TableEdit::Schema).collect();
        Ok((table.redefined(&edits)?, edits))
    }
}

fn add(field: &FieldSpec) -> SchemaEdit {
    SchemaEdit::Add { parent: Vec::new(), field: field.to_arrow(), position: None, if_not_exists: true }
}

fn widen(name: &str, kind: FieldKind) -> SchemaEdit {
    let field = Arc::new(Field::new(name, kind.data_type(), true));
    SchemaEdit::Type { path: vec![name.to_owned()], field }
}

fn relax(name: &str) -> SchemaEdit {
    SchemaEdit::Required { path: vec![name.to_owned()], required: false }
}

fn still_to_do(edit: &SchemaEdit, table: &Table) -> bool {
    match edit {
        SchemaEdit::Add { field, .. } => table.schema().field_with_name(field.name()).is_err(),
        SchemaEdit::Type { field, .. } => table.schema().field_with_name(field.name()).is_ok_and(|column| column.data_type() != field.data_type()),
        SchemaEdit::Required { path, .. } => {
            let column = path.first().and_then(|name| table.schema().field_with_name(name).ok());
            column.is_some_and(|column| !column.is_nullable())
        }
        _ => true,
    }
}
