//! Tables that follow their writers: columns for the new fields of registered schemas.

use arrow::datatypes::FieldRef;

use chainalytics_common::Result;
use chainalytics_lakehouse::{CommitOptions, TableChange, Transaction};

use super::look::Situation;
use super::runner::BatchRunner;
use crate::err;
use crate::exec::NewerSchema;
use crate::registry::{Lookup, SchemaType, shared};
use crate::topics::{FieldSpec, avro_fields, fit, json_schema_fields};

impl BatchRunner {
    /// Gives the topics' tables optional columns for the fields of these schemas that they lack. The records come with the
    /// next plan: nothing of the batch that found the schema was committed.
    ///
    /// # Errors
    /// Those of registry and catalog.
    pub(super) async fn evolve(&self, newer: &[NewerSchema], situation: &Situation) -> Result<()> {
        let Some(options) = &self.spec.registry else {
            return Err(err::internal("a writer's schema without a registry"));
        };
        let registry = shared(options)?;
        for NewerSchema { topic, schema_id } in newer {
            let position = self.topics.iter().position(|subscription| &subscription.topic == topic);
            let Some((subscription, schema)) =
                position.and_then(|at| self.topics.get(at).zip(situation.schemas.get(at)))
            else {
                return Err(err::internal(format!("a schema of topic '{topic}', which the stream does not read")));
            };
            let Lookup::Found(registered) = registry.schema_by_id(*schema_id).await? else { continue };
            let fields = match registered.schema_type {
                SchemaType::Json => json_schema_fields(&registered.text),
                _ => avro_fields(&registered.text),
            };
            let new = fields.map(|fields| fit(schema, &fields).new).unwrap_or_default();
            let columns: Vec<FieldRef> = new.iter().map(FieldSpec::to_arrow).collect();
            if columns.is_empty() {
                continue;
            }
            let names: Vec<&str> = new.iter().map(|field| field.name.as_str()).collect();
            tracing::info!(table = %subscription.table, topic, schema = schema_id, columns = names.join(", "), "the table gets columns for a newer schema of its writers");
            let change = TableChange::metadata(subscription.table.clone()).add_columns(columns);
            Transaction::new(&self.lakehouse).add(change).commit(CommitOptions::default()).await?;
        }
        Ok(())
    }
}
