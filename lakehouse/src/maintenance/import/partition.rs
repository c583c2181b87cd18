//! Partition values from folder names, as Hive and Spark write them: `day=2026-01-31/region=north%2Feast`.

use std::collections::BTreeMap;

use chainalytics_common::Result;
use iceberg::spec::{Literal, PrimitiveType, Transform, Type};
use serde_json::Value;

use crate::err;
use crate::table::Table;

/// A folder that stands for NULL.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// Names and values of the folders `name=value` between `root` and a file, and of those that `root` ends with.
pub(super) fn folders(root: &str, uri: &str) -> Vec<(String, String)> {
    let folder = uri.rsplit_once('/').map_or("", |(folder, _)| folder);
    let (above, below) = match folder.strip_prefix(root) {
        Some(below) => (root, below),
        // The root is the file itself.
        None => (folder, ""),
    };
    // The root may be a partition's folder.
    let mut above: Vec<&str> = above.rsplit('/').take_while(|part| part.contains('=')).collect();
    above.reverse();
    let parts = above.into_iter().chain(below.split('/')).filter_map(|part| part.split_once('='));
    parts.map(|(name, value)| (unescape(name), unescape(value))).collect()
}

/// Whether a folder's value stands for NULL.
pub(super) fn is_null(value: &str) -> bool {
    value == NULL_FOLDER
}

/// The partition that a file lies in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Folder {
    /// Values in the order of the table's default partition spec, Iceberg's JSON.
    pub values: Vec<Value>,
}

impl Folder {
    /// Reads the folders between `root` and the file, and those that `root` ends with.
    ///
    /// # Errors
    /// `InvalidArgument` if they are not the table's partition columns, or a value is not of its column's type.
    pub fn of(table: &Table, root: &str, uri: &str) -> Result<Self> {
        let mut named: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (name, value) in folders(root, uri) {
            named.insert(name.to_lowercase(), (!is_null(&value)).then_some(value));
        }
        let metadata = table.metadata();
        let spec = metadata.default_partition_spec();
        let mut values = Vec::with_capacity(spec.fields().len());
        for field in spec.fields() {
            if field.transform == Transform::Void {
                values.push(Value::Null);
                continue;
            }
            if field.transform != Transform::Identity {
                return Err(err::unsupported(format!(
                    "adding files to table {}, which is partitioned by {}({}): only columns themselves can be read from folders",
                    table.ident(),
                    field.transform,
                    metadata.current_schema().name_by_field_id(field.source_id).unwrap_or_default()
                )));
            }
            let value = named.remove(&field.name.to_lowercase()).ok_or_else(|| {
                err::invalid(format!("{uri} lies in no folder '{}=…', by which table {} is partitioned", field.name, table.ident()))
            })?;
            let source = metadata.current_schema().field_by_id(field.source_id);
            let Some(Type::Primitive(primitive)) = source.map(|field| field.field_type.as_ref()) else {
                return Err(err::metadata(format!("partition field '{}' has no column", field.name)));
            };
            values.push(match value {
                None => Value::Null,
                Some(text) => parse(&text, primitive)
                    .ok_or_else(|| err::invalid(format!("{uri}: '{text}' is no {primitive}, which column '{}' is", field.name)))?,
            });
        }
        match named.into_keys().next() {
            Some(extra) => Err(err::invalid(format!(
                "{uri} lies in a folder '{extra}=…', by which table {} is not partitioned: its rows would lose that column",
                table.ident()
            ))),
            None => Ok(Self { values }),
        }
    }

    /// Whether it is one of the partitions asked for.
    pub fn matches(&self, table: &Table, filter: &BTreeMap<String, String>) -> Result<bool> {
        let metadata = table.metadata();
        let fields = metadata.default_partition_spec().fields();
        for (name, wanted) in filter {
            let at = fields
                .iter()
                .position(|field| field.name.eq_ignore_ascii_case(name))
                .ok_or_else(|| err::invalid(format!("partition_filter names '{name}', by which table {} is not partitioned", table.ident())))?;
            let source = metadata.current_schema().field_by_id(fields[at].source_id);
            let Some(Type::Primitive(primitive)) = source.map(|field| field.field_type.as_ref()) else { return Ok(false) };
            let wanted = if wanted == NULL_FOLDER { Some(Value::Null) } else { parse(wanted, primitive) };
            let wanted = wanted.ok_or_else(|| err::invalid(format!("partition_filter: a value of '{name}' must be a {primitive}")))?;
            if self.values[at] != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A value of that type in Iceberg's JSON.
fn parse(text: &str, primitive: &PrimitiveType) -> Option<Value> {
    let json = match primitive {
        PrimitiveType::Boolean => Value::Bool(text.parse().ok()?),
        PrimitiveType::Int => Value::from(text.parse::<i32>().ok()?),
        PrimitiveType::Long => Value::from(text.parse::<i64>().ok()?),
        PrimitiveType::Float | PrimitiveType::Double => Value::from(text.parse::<f64>().ok()?),
        PrimitiveType::Timestamp | PrimitiveType::Timestamptz => {
            let text = text.replacen(' ', "T", 1);
            Value::String(if text.contains('T') { text } else { format!("{text}T00:00:00") })
        }
        _ => Value::String(text.to_owned()),
    };
    // Proves that it is one.
    let valid = Literal::try_from_json(json.clone(), &Type::Primitive(primitive.clone())).ok()??;
    valid.try_into_json(&Type::Primitive(primitive.clone())).ok()
}

/// Hive's escapes: `%2F` is `/`.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn folder_names_are_unescaped() {
        assert_eq!(unescape("a%2Fb%20c"), "a/b c");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%C3%BC"), "ü");
    }

    #[test]
    fn values_have_their_columns_type() {
        assert_eq!(parse("7", &PrimitiveType::Int), Some(Value::from(7)));
        assert_eq!(parse("x", &PrimitiveType::Int), None);
        assert_eq!(parse("2026-01-31", &PrimitiveType::Date), Some(Value::from("2026-01-31")));
        assert_eq!(parse("2026-13-31", &PrimitiveType::Date), None);
    }
}
