//! The topics' schemas as text: Avro, and JSON Schema (draft 7). Every field is required.

use serde_json::{Value, json};

use crate::options::Format;
use crate::row::FieldType;
use crate::topics::Topic;

/// Namespace of the record types.
const NAMESPACE: &str = "chainalytics.events";

/// The schema that a format registers; `None` for plain JSON.
pub fn schema_of(topic: Topic, format: Format) -> Option<String> {
    match format {
        Format::Avro => Some(avro(topic)),
        Format::JsonSchema => Some(json_schema(topic)),
        Format::Json | Format::Auto => None,
    }
}

/// Avro schema of a topic.
pub fn avro(topic: Topic) -> String {
    let field = |f: &crate::row::Field| {
        let kind: Value = match f.kind {
            FieldType::Text => "string".into(),
            FieldType::Long => "long".into(),
            FieldType::Int => "int".into(),
            FieldType::Double => "double".into(),
            FieldType::Boolean => "boolean".into(),
            FieldType::Timestamp => json!({"type": "long", "logicalType": "timestamp-micros"}),
        };
        json!({"name": f.name, "type": kind})
    };
    let fields: Vec<Value> = topic.fields().iter().map(field).collect();
    json!({"type": "record", "name": topic.record_name(), "namespace": NAMESPACE, "fields": fields}).to_string()
}

/// JSON Schema of a topic.
pub fn json_schema(topic: Topic) -> String {
    let mut properties = serde_json::Map::new();
    for f in topic.fields() {
        let kind = match f.kind {
            FieldType::Text => json!({"type": "string"}),
            FieldType::Long | FieldType::Int => json!({"type": "integer"}),
            FieldType::Double => json!({"type": "number"}),
            FieldType::Boolean => json!({"type": "boolean"}),
            FieldType::Timestamp => json!({"type": "string", "format": "date-time"}),
        };
        properties.insert(f.name.to_owned(), kind);
    }
    let required: Vec<&str> = topic.fields().iter().map(|f| f.name).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": topic.record_name(),
        "type": "object",
        "properties": properties,
        "required": required,
    })
    .to_string()
}
