//! Keeps a table's name mapping (for files without field ids) in step with its schema.
//! Source: Iceberg spec, "Column Projection", "Name Mapping Serialization".

use chainalytics_common::Result;
use iceberg::spec::{NestedFieldRef, Schema, Type};
use serde_json::{Value, json};

use crate::err;

/// Table property that holds the mapping.
pub(crate) const NAME_MAPPING: &str = "schema.name-mapping.default";

/// The mapping after a change to `schema`: new columns get an entry, renamed ones a further name, and a name that a
/// column gives up for another goes to the other.
pub(super) fn updated(mapping: &str, schema: &Schema) -> Result<String> {
    let mut entries: Vec<Value> = serde_json::from_str(mapping).map_err(|e| err::metadata(format!("{NAME_MAPPING}: {e}")))?;
    update(&mut entries, schema.as_struct().fields());
    serde_json::to_string(&entries).map_err(|e| err::internal(format!("name mapping: {e}")))
}

/// A mapping of the schema's own names.
pub(crate) fn name_mapping_of(schema: &Schema) -> Result<String> {
    updated("[]", schema)
}

fn update(entries: &mut Vec<Value>, fields: &[NestedFieldRef]) {
    for field in fields {
        let is_own = |entry: &Value| entry["field-id"].as_i64() == Some(i64::from(field.id));
        // Files without ids cannot tell two columns of one name apart: the newer one has it.
        for other in entries.iter_mut().filter(|entry| !is_own(entry)) {
            if let Some(names) = other["names"].as_array_mut() {
                names.retain(|name| name.as_str() != Some(&field.name));
            }
        }
        let at = entries.iter().position(is_own).unwrap_or_else(|| {
            entries.push(json!({"field-id": field.id, "names": []}));
            entries.len() - 1
        });
        let entry = &mut entries[at];
        if let Some(names) = entry["names"].as_array_mut()
            && !names.iter().any(|name| name.as_str() == Some(&field.name))
        {
            names.push(json!(field.name));
        }
        let nested: Vec<NestedFieldRef> = match field.field_type.as_ref() {
            Type::Primitive(_) => continue,
            Type::Struct(fields) => fields.fields().to_vec(),
            Type::List(list) => vec![list.element_field.clone()],
            Type::Map(map) => vec![map.key_field.clone(), map.value_field.clone()],
        };
        let mut below = entry["fields"].as_array().cloned().unwrap_or_default();
        update(&mut below, &nested);
        entry["fields"] = Value::Array(below);
    }
}
