//! What a topic is and where it goes: one of the platform's, a table that is there, or a schema of the registry.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::{CreateTable, Lakehouse, Table, TableIdent};
use chainalytics_streaming::decode::ValueFormat;
use chainalytics_streaming::exec::Tombstones;
use chainalytics_streaming::registry::{Lookup, RegistryOptions, SchemaRegistry, SchemaType};
use chainalytics_streaming::stream::{TopicResolver, TopicSubscription};
use chainalytics_streaming::topics::{
    FieldKind, LINEAGE_COLUMNS, PLATFORM_TOPICS, RecordSchema, avro_fields, bronze_schema, dead_letters_schema, json_schema_fields, platform_topic,
    record_of_table, record_of_writer,
};

use crate::setup::BRONZE_PROPERTIES;

/// Finds, and where it can makes, the tables of topics.
pub(super) struct TopicTables {
    pub(super) lakehouse: Lakehouse,
    pub(super) namespace: String,
    pub(super) registry: Option<RegistryOptions>,
    pub(super) format: ValueFormat,
    pub(super) tombstones: Tombstones,
    /// Tables that the user named, by topic.
    pub(super) tables: BTreeMap<String, String>,
}

#[async_trait]
impl TopicResolver for TopicTables {
    async fn subscribe(&self, topic: &str) -> Result<TopicSubscription> {
        let definition = platform_topic(topic);
        let name = match (self.tables.get(topic), &definition) {
            (Some(table), _) => table.clone(),
            (None, Some(definition)) => definition.table.clone(),
            (None, None) => format!("bronze_{}", topic.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")),
        };
        let ident = TableIdent::parse(&name, &self.namespace)?;
        let found = self.lakehouse.catalog().find_table(&ident).await?;
        if let Some(table) = &found {
            check_lineage(table, topic)?;
        }
        let (schema, event_time) = match (definition, &found) {
            (Some(definition), _) => (definition.schema, Some(definition.event_time)),
            (None, Some(table)) => {
                let schema = record_of_table(table.schema(), None).map_err(|reason| {
                    Error::new(ErrorCode::SchemaMismatch, format!("table {ident} for topic '{topic}': {reason}, which no record can fill"))
                })?;
                let event_time = event_time_of(&schema);
                (schema, event_time)
            }
            (None, None) => {
                let schema = self.registered(topic, &ident).await?;
                let event_time = event_time_of(&schema);
                (schema, event_time)
            }
        };
        if found.is_none() {
            tracing::info!(topic, table = %ident, "making the topic's table");
            let mut create = CreateTable::new(ident.clone(), bronze_schema(&schema));
            if let Some(column) = &event_time {
                create = create.partitioned_by(column.clone(), "day");
            }
            self.create(create).await?;
        }
        Ok(TopicSubscription { topic: topic.to_owned(), table: ident, format: self.format, schema, event_time, tombstones: self.tombstones })
    }
}

impl TopicTables {
    /// Makes the dead-letter table if it is not there.
    pub(super) async fn ensure_dead_letters(&self, ident: &TableIdent) -> Result<()> {
        if self.lakehouse.catalog().find_table(ident).await?.is_none() {
            self.create(CreateTable::new(ident.clone(), dead_letters_schema()).partitioned_by("ingested_at", "day")).await?;
        }
        Ok(())
    }

    async fn create(&self, table: CreateTable) -> Result<()> {
        let table = BRONZE_PROPERTIES.iter().fold(table, |table, (key, value)| table.with_property(*key, *value));
        self.lakehouse.catalog().create_table(table, true).await.map(|_| ())
    }

    /// Records of a topic by the latest schema of its subject.
    async fn registered(&self, topic: &str, table: &TableIdent) -> Result<RecordSchema> {
        let unknown = |what: &str| {
            let lineage = LINEAGE_COLUMNS.join(", ");
            Error::new(
                ErrorCode::TopicNotFound,
                format!(
                    "topic '{topic}' is none of the platform's ({}), and {what}: create table {table} with the record's columns and {lineage}, \
                     or register a schema as '{topic}-value'",
                    PLATFORM_TOPICS.join(", ")
                ),
            )
        };
        let Some(options) = self.registry.clone() else {
            return Err(unknown("there is neither its table nor a schema registry (schema.registry.url)"));
        };
        let Lookup::Found(version) = SchemaRegistry::new(options)?.latest(&format!("{topic}-value")).await? else {
            return Err(unknown("there is neither its table nor a registered schema"));
        };
        let fields = match version.schema.schema_type {
            SchemaType::Json => json_schema_fields(&version.schema.text),
            _ => avro_fields(&version.schema.text),
        };
        let schema = record_of_writer(&fields.map_err(|reason| unknown(&format!("its registered schema is unusable ({reason})")))?);
        if schema.fields.is_empty() {
            return Err(unknown("its registered schema has no field that a column could take"));
        }
        Ok(schema)
    }
}

/// The field that most likely says when it happened.
fn event_time_of(schema: &RecordSchema) -> Option<String> {
    let times = || schema.fields.iter().filter(|field| field.kind == FieldKind::Timestamp);
    times().find(|field| field.required).or_else(|| times().next()).map(|field| field.name.clone())
}

/// A table without the lineage columns cannot be fed exactly once to anyone's satisfaction.
fn check_lineage(table: &Table, topic: &str) -> Result<()> {
    let missing: Vec<&str> = LINEAGE_COLUMNS.into_iter().filter(|name| table.schema().field_with_name(name).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::SchemaMismatch,
        format!(
            "table {} cannot take topic '{topic}': it lacks the lineage columns {}; add them (ALTER TABLE ... ADD COLUMN), or name another table with --table {topic}=TABLE",
            table.ident(),
            missing.join(", ")
        ),
    ))
}
