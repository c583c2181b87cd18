//! Schemas that use what stands in other subjects, made one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Depth of a schema that is walked.
const DEPTH_MAX: usize = 64;
const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// `text` with every type that only `references` define put in place of its first use.
///
/// # Errors
/// Why one of them is no schema.
pub(super) fn inline(text: &str, references: &[String]) -> Result<String, String> {
    let mut known = BTreeMap::new();
    for reference in references {
        let schema: Value = serde_json::from_str(reference).map_err(|e| e.to_string())?;
        collect(&schema, "", 0, &mut known)?;
    }
    let mut schema: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut defined = BTreeSet::new();
    replace(&mut schema, "", 0, &known, &mut defined)?;
    Ok(schema.to_string())
}

/// A JSON Schema with the documents that it and they refer to under its `$defs`.
///
/// # Errors
/// Why one of them is no schema.
pub(super) fn with_definitions(text: &str, references: &[(String, String)]) -> Result<String, String> {
    let mut schema: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let object = schema.as_object_mut().ok_or("not a JSON Schema")?;
    let definitions = object.entry("$defs").or_insert_with(|| Value::Object(serde_json::Map::new())).as_object_mut().ok_or("$defs is no object")?;
    for (name, reference) in references {
        let reference: Value = serde_json::from_str(reference).map_err(|e| e.to_string())?;
        definitions.entry(name.clone()).or_insert(reference);
    }
    Ok(schema.to_string())
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// A named type's full name and the namespace that holds within it; `None` for other types.
fn identity(schema: &Value, namespace: &str) -> Option<(String, String)> {
    if !matches!(schema["type"].as_str()?, "record" | "error" | "enum" | "fixed") {
        return None;
    }
    let name = full_name(schema["name"].as_str()?, schema["namespace"].as_str().unwrap_or(namespace));
    let within = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
    Some((name, within))
}

fn check(depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX { Err(format!("nested more than {DEPTH_MAX} levels deep")) } else { Ok(()) }
}

/// Finds the named types in a schema.
fn collect(schema: &Value, namespace: &str, depth: usize, known: &mut BTreeMap<String, Value>) -> Result<(), String> {
    check(depth)?;
    match schema {
        Value::Array(branches) => {
            for branch in branches {
                collect(branch, namespace, depth + 1, known)?;
            }
        }
        Value::Object(object) => {
            let identity = identity(schema, namespace);
            let within = identity.as_ref().map_or(namespace, |(_, within)| within.as_str()).to_owned();
            if let Some((name, _)) = identity {
                let mut definition = schema.clone();
                // It may come to stand in another namespace.
                if let Some((namespace, bare)) = name.rsplit_once('.') {
                    definition["name"] = bare.into();
                    definition["namespace"] = namespace.into();
                }
                known.insert(name, definition);
            }
            for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                collect(&field["type"], &within, depth + 1, known)?;
            }
            for part in ["type", "items", "values"] {
                if let Some(inner @ (Value::Object(_) | Value::Array(_))) = object.get(part) {
                    collect(inner, &within, depth + 1, known)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Puts definitions in place of first uses. `defined`: what the schema defines so far, in reading order.
fn replace(schema: &mut Value, namespace: &str, depth: usize, known: &BTreeMap<String, Value>, defined: &mut BTreeSet<String>) -> Result<(), String> {
    check(depth)?;
    if let Value::String(name) = schema {
        if PRIMITIVES.contains(&name.as_str()) {
            return Ok(());
        }
        let qualified = full_name(name, namespace);
        let found = [qualified, name.clone()].into_iter().find(|name| known.contains_key(name) || defined.contains(name));
        match found {
            Some(found) if defined.contains(&found) => *schema = found.into(),
            Some(found) => {
                *schema = known[&found].clone();
                return replace(schema, namespace, depth + 1, known, defined);
            }
            None => {}
        }
        return Ok(());
    }
    let identity = identity(schema, namespace);
    let within = identity.as_ref().map_or(namespace, |(_, within)| within.as_str()).to_owned();
    if let Some((name, _)) = identity {
        defined.insert(name);
    }
    match schema {
        Value::Array(branches) => {
            for branch in branches {
                replace(branch, &within, depth + 1, known, defined)?;
            }
        }
        Value::Object(object) => {
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(inner) = field.get_mut("type") {
                    replace(inner, &within, depth + 1, known, defined)?;
                }
            }
            for part in ["items", "values"] {
                if let Some(inner) = object.get_mut(part) {
                    replace(inner, &within, depth + 1, known, defined)?;
                }
            }
            if let Some(inner @ (Value::Object(_) | Value::Array(_))) = object.get_mut("type") {
                replace(inner, &within, depth + 1, known, defined)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types_of_other_subjects_are_put_where_they_are_first_used() {
        let money = r#"{"type":"record","name":"Money","namespace":"shop","fields":[
            {"name":"amount","type":"long"},{"name":"currency","type":"Currency"}]}"#;
        let currency = r#"{"type":"enum","name":"Currency","namespace":"shop","symbols":["EUR"]}"#;
        let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
            {"name":"total","type":"shop.Money"},{"name":"tax","type":["null","Money"]},{"name":"id","type":"string"}]}"#;
        let text = inline(order, &[money.to_owned(), currency.to_owned()]).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(schema["fields"][0]["type"]["name"], "Money");
        assert_eq!(schema["fields"][0]["type"]["fields"][1]["type"]["symbols"][0], "EUR");
        assert_eq!(schema["fields"][1]["type"][1], "shop.Money");
        assert_eq!(schema["fields"][2]["type"], "string");
        arrow_avro::schema::AvroSchema::new(text).fingerprint(arrow_avro::schema::FingerprintAlgorithm::Rabin).unwrap();
    }

    #[test]
    fn documents_of_other_subjects_become_definitions() {
        let money = ("money.json".to_owned(), r#"{"type":"number"}"#.to_owned());
        let text = with_definitions(r#"{"properties":{"total":{"$ref":"money.json"}},"$defs":{"own":true}}"#, &[money]).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&schema["$defs"]["money.json"]["type"], &schema["$defs"]["own"]), (&"number".into(), &true.into()));
        let fields = crate::topics::json_schema_fields(&text).unwrap();
        assert_eq!(fields[0].kind, Some(crate::topics::FieldKind::Double));
        assert!(with_definitions("[]", &[]).is_err());
    }

    #[test]
    fn a_schema_within_itself_ends() {
        let list = r#"{"type":"record","name":"List","fields":[{"name":"next","type":["null","List"]}]}"#;
        let text = inline(r#"{"type":"record","name":"E","fields":[{"name":"l","type":"List"}]}"#, &[list.to_owned()]).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(schema["fields"][0]["type"]["fields"][0]["type"][1], "List");
    }
}
