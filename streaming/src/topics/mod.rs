//! What the platform's topics carry and what their bronze tables look like (data-model.md, "Topics" and "Bronze").
//!
//! Only structural validity is decided here: a record that lacks its identity or its time, or whose values have other
//! types than declared, cannot become a row. Business rules (price above zero, rating 1 to 5) belong to silver.

mod bronze;
mod catalogue;
mod derive;
mod record;

pub use bronze::{BRONZE_NAMES, DEAD_LETTER_COLUMNS, DEAD_LETTERS_TABLE, LINEAGE_COLUMNS, bronze_schema, dead_letters_schema, lineage};
pub use catalogue::{PLATFORM_TOPICS, TopicDefinition, platform_topic, platform_topics};
pub use derive::{SchemaFit, WriterField, avro_fields, fit, json_schema_fields, record_of_table, record_of_writer};
pub use record::{FieldKind, FieldSpec, RecordSchema};
