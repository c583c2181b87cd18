use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::record::{RecordSchema, timestamp_type};

/// Bare name of the table of records that could not become rows.
pub const DEAD_LETTERS_TABLE: &str = "bronze_dead_letters";

/// Bare names of the topics' bronze tables, in the order of `PLATFORM_TOPICS`.
pub const BRONZE_NAMES: [&str; 5] = ["bronze_user_events", "bronze_products", "bronze_api_logs", "bronze_user_posts", "bronze_weather_data"];

/// Names of the lineage columns that follow the topic's own fields in each bronze table.
pub mod lineage {
    /// Topic. Text.
    pub const TOPIC: &str = "kafka_topic";
    /// Partition. Int.
    pub const PARTITION: &str = "kafka_partition";
    /// Offset; with topic and partition it identifies the record. Long.
    pub const OFFSET: &str = "kafka_offset";
    /// The record's own time as Kafka has it. Timestamp, null where the broker kept none.
    pub const TIMESTAMP: &str = "kafka_timestamp";
    /// Batch of the stream. Long.
    pub const BATCH_ID: &str = "ingestion_batch_id";
    /// Run that wrote the row. Text.
    pub const RUN_ID: &str = "ingestion_run_id";
    /// When it was written; one moment per batch. Timestamp.
    pub const INGESTED_AT: &str = "ingested_at";
}

/// The lineage columns, in order.
pub const LINEAGE_COLUMNS: [&str; 7] =
    [lineage::TOPIC, lineage::PARTITION, lineage::OFFSET, lineage::TIMESTAMP, lineage::BATCH_ID, lineage::RUN_ID, lineage::INGESTED_AT];

/// Columns of the dead-letter table, in order.
pub const DEAD_LETTER_COLUMNS: [&str; 12] = [
    lineage::TOPIC,
    lineage::PARTITION,
    lineage::OFFSET,
    "kafka_key",
    "kafka_value",
    "error_code",
    "error",
    "schema_id",
    lineage::TIMESTAMP,
    lineage::BATCH_ID,
    lineage::RUN_ID,
    lineage::INGESTED_AT,
];

/// Schema of a bronze table: the topic's fields, then the lineage columns.
///
/// Partition it by `day` of the definition's event time.
pub fn bronze_schema(record: &RecordSchema) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = record.fields.iter().map(super::FieldSpec::to_arrow).collect();
    fields.extend(LINEAGE_COLUMNS.iter().map(|name| Arc::new(common_field(name))));
    Arc::new(Schema::new(fields))
}

/// Schema of `bronze_dead_letters`. `error_code` is one of [`crate::decode::RejectCode`]; `schema_id` is the registry's id
/// where the value carried one. Partition it by `day` of `ingested_at`.
pub fn dead_letters_schema() -> SchemaRef {
    let fields: Vec<Field> = DEAD_LETTER_COLUMNS
        .iter()
        .map(|name| match *name {
            "kafka_key" | "kafka_value" => Field::new(*name, DataType::Binary, true),
            "error_code" | "error" => Field::new(*name, DataType::Utf8, false),
            "schema_id" => Field::new(*name, DataType::Int32, true),
            other => common_field(other),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn common_field(name: &str) -> Field {
    match name {
        lineage::PARTITION => Field::new(name, DataType::Int32, false),
        lineage::OFFSET | lineage::BATCH_ID => Field::new(name, DataType::Int64, false),
        lineage::TIMESTAMP => Field::new(name, timestamp_type(), true),
        lineage::INGESTED_AT => Field::new(name, timestamp_type(), false),
        _ => Field::new(name, DataType::Utf8, false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::platform_topics;
    use super::*;

    #[test]
    fn bronze_names_follow_the_topics() {
        let tables: Vec<String> = platform_topics().into_iter().map(|definition| definition.table).collect();
        assert_eq!(tables, BRONZE_NAMES);
    }

    #[test]
    fn bronze_is_the_record_and_its_lineage() {
        for definition in platform_topics() {
            let schema = bronze_schema(&definition.schema);
            assert_eq!(schema.fields().len(), definition.schema.fields.len() + LINEAGE_COLUMNS.len());
            assert!(schema.field_with_name(lineage::OFFSET).is_ok());
        }
        assert_eq!(dead_letters_schema().fields().len(), DEAD_LETTER_COLUMNS.len());
    }
}
