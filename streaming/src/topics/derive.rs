//! Record schemas that nobody declared: from a table's columns, an Avro schema, a JSON Schema. And what a writer's schema
//! means for a table: what is new in it, and whether the two can go together at all.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Schema};
use serde_json::Value;

use super::bronze::LINEAGE_COLUMNS;
use super::record::{FieldKind, FieldSpec, RecordSchema};

/// Lineage of rows that came from files; not the record's.
const FILE_LINEAGE: [&str; 2] = ["source_file", "source_row"];

/// One field of a writer's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterField {
    /// Name.
    pub name: String,
    /// Type of a column that can take it; `None` for what no column takes (lists, maps, records, bytes).
    pub kind: Option<FieldKind>,
    /// Whether null is a value.
    pub nullable: bool,
}

/// What a writer's schema means for a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaFit {
    /// Fields that the table has no column for, as optional columns.
    pub new: Vec<FieldSpec>,
    /// Columns whose writers now have a wider type, with that type: 64 bits instead of 32, a decimal of more digits.
    pub widened: Vec<(String, FieldKind)>,
    /// Required columns whose writers may now leave them out. Times stay required: tables are partitioned by them.
    pub relaxed: Vec<String>,
    /// Fields that the table has no column for and that no column takes.
    pub untakeable: Vec<String>,
    /// Why no record of this schema can become a row.
    pub incompatible: Option<String>,
    /// The fields because of which.
    pub incompatible_fields: Vec<String>,
}

impl SchemaFit {
    /// Whether the table must change before it can take all that the writer writes.
    pub fn changes_table(&self) -> bool {
        !(self.new.is_empty() && self.widened.is_empty() && self.relaxed.is_empty())
    }
}

fn is_lineage(name: &str) -> bool {
    LINEAGE_COLUMNS.contains(&name) || FILE_LINEAGE.contains(&name)
}

/// The records of a table: its declared fields, then the columns that were added to it since. Columns of types that no
/// field has (lists, maps...) stay null.
///
/// # Errors
/// The name of a required column that no record can fill.
pub fn record_of_table(table: &Schema, declared: Option<&RecordSchema>) -> Result<RecordSchema, String> {
    let mut fields = declared.map(|schema| schema.fields.clone()).unwrap_or_default();
    for field in &mut fields {
        let Ok(column) = table.field_with_name(&field.name) else { continue };
        // Widened, or made optional, since it was declared.
        if let Some(wider) = kind_of(column.data_type()).and_then(|now| wider(field.kind, now)) {
            field.kind = wider;
        }
        field.required &= !column.is_nullable() || field.kind == FieldKind::Timestamp;
    }
    for column in table.fields() {
        let name = column.name();
        if is_lineage(name) || fields.iter().any(|field| field.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        match kind_of(column.data_type()) {
            Some(kind) => {
                fields.push(FieldSpec { required: !column.is_nullable(), ..FieldSpec::optional(name, kind) });
            }
            None if column.is_nullable() => {}
            None => return Err(format!("column '{name}' is required and of type {}", column.data_type())),
        }
    }
    Ok(RecordSchema::new(fields))
}

fn kind_of(data_type: &DataType) -> Option<FieldKind> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(FieldKind::Text),
        DataType::Int32 => Some(FieldKind::Int),
        DataType::Int64 => Some(FieldKind::Long),
        DataType::Float32 => Some(FieldKind::Float),
        DataType::Float64 => Some(FieldKind::Double),
        DataType::Decimal128(precision, scale) => Some(FieldKind::Decimal { precision: *precision, scale: u8::try_from(*scale).ok()? }),
        DataType::Boolean => Some(FieldKind::Boolean),
        DataType::Timestamp(_, _) => Some(FieldKind::Timestamp),
        _ => None,
    }
}

/// The fields of an Avro record schema.
///
/// # Errors
/// Why it is none.
pub fn avro_fields(schema: &str) -> Result<Vec<WriterField>, String> {
    let schema: Value = serde_json::from_str(schema).map_err(|e| format!("not JSON: {e}"))?;
    if schema["type"] != "record" {
        return Err("not an Avro record".to_owned());
    }
    let fields = schema["fields"].as_array().ok_or("an Avro record without fields")?;
    let mut named = BTreeMap::new();
    collect_named(&schema, "", &mut named);
    fields
        .iter()
        .map(|field| {
            let name = field["name"].as_str().ok_or("an Avro field without a name")?.to_owned();
            let (kind, nullable) = avro_type(&field["type"], &named);
            Ok(WriterField { name, kind, nullable })
        })
        .collect()
}

/// The enums and fixed types that a schema defines, by bare and by full name: later fields use them by name alone.
fn collect_named<'a>(schema: &'a Value, namespace: &'a str, named: &mut BTreeMap<String, &'a Value>) {
    match schema {
        Value::Array(parts) => parts.iter().for_each(|part| collect_named(part, namespace, named)),
        Value::Object(object) => {
            let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
            if let (Some("enum" | "fixed"), Some(name)) = (object.get("type").and_then(Value::as_str), object.get("name").and_then(Value::as_str)) {
                named.insert(format!("{namespace}.{name}"), schema);
                named.insert(name.to_owned(), schema);
            }
            for part in ["fields", "type", "items", "values"] {
                object.get(part).into_iter().for_each(|part| collect_named(part, namespace, named));
            }
        }
        _ => {}
    }
}

fn avro_type(schema: &Value, named: &BTreeMap<String, &Value>) -> (Option<FieldKind>, bool) {
    match schema {
        Value::String(name) => match named.get(name) {
            // An object: never looked up again.
            Some(definition) => avro_type(definition, &BTreeMap::new()),
            None => (avro_kind(name, None), name == "null"),
        },
        Value::Array(branches) => {
            let nullable = branches.iter().any(|branch| branch == "null");
            let mut others = branches.iter().filter(|branch| *branch != "null");
            match (others.next(), others.next()) {
                (Some(only), None) => (avro_type(only, named).0, nullable),
                _ => (None, nullable),
            }
        }
        Value::Object(object) => match object.get("type") {
            Some(Value::String(name)) => {
                let logical = object.get("logicalType").and_then(Value::as_str);
                let digits = |key: &str| object.get(key).and_then(Value::as_u64).and_then(|digits| u8::try_from(digits).ok());
                let kind = match (avro_kind(name, logical), logical, digits("precision"), digits("scale").unwrap_or(0)) {
                    (Some(FieldKind::Double), Some("decimal"), Some(precision), scale) if precision <= DECIMAL_DIGITS_MAX && scale <= precision => {
                        Some(FieldKind::Decimal { precision, scale })
                    }
                    (kind, ..) => kind,
                };
                (kind, false)
            }
            Some(inner) => avro_type(inner, named),
            None => (None, false),
        },
        _ => (None, false),
    }
}

/// Digits of a decimal column at most.
const DECIMAL_DIGITS_MAX: u8 = 38;

fn avro_kind(name: &str, logical: Option<&str>) -> Option<FieldKind> {
    match (name, logical) {
        ("long", Some(logical)) if logical.contains("timestamp-") => Some(FieldKind::Timestamp),
        ("int", Some("date")) => Some(FieldKind::Timestamp),
        ("int" | "long", Some(logical)) if logical.starts_with("time-") => None,
        ("bytes" | "fixed", Some("decimal")) => Some(FieldKind::Double),
        ("fixed", Some("uuid")) | ("string" | "enum", _) => Some(FieldKind::Text),
        ("int", _) => Some(FieldKind::Int),
        ("long", _) => Some(FieldKind::Long),
        ("float", _) => Some(FieldKind::Float),
        ("double", _) => Some(FieldKind::Double),
        ("boolean", _) => Some(FieldKind::Boolean),
        _ => None,
    }
}

/// How many `$ref`s may lead from one to the next.
const REFS_MAX: usize = 16;

/// A place in a JSON Schema: the document that `#` means there, and the place. Documents of other subjects stand under `$defs` of
/// `root`, by the names under which they are referred to.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: &'a Value,
    document: &'a Value,
    schema: &'a Value,
    /// Levels down to it, through references too.
    depth: usize,
}

impl<'a> Place<'a> {
    fn at(self, schema: &'a Value) -> Self {
        Self { schema, depth: self.depth + 1, ..self }
    }

    /// Where its `$ref`s lead; itself if it has none or they lead nowhere.
    fn resolved(self) -> Self {
        let mut place = self;
        for _ in 0..REFS_MAX {
            let Some(reference) = place.schema["$ref"].as_str() else { return place };
            let (name, path) = reference.split_once('#').unwrap_or((reference, ""));
            let document = if name.is_empty() { place.document } else { &place.root["$defs"][name] };
            let Some(schema) = document.pointer(path).filter(|schema| !schema.is_null()) else { return place };
            place = Self { document, schema, ..place };
        }
        self
    }
}

/// The properties of a JSON Schema that describes an object. `$ref`s are followed, within it and to what stands under its `$defs`.
///
/// # Errors
/// Why it is none.
pub fn json_schema_fields(schema: &str) -> Result<Vec<WriterField>, String> {
    let schema: Value = serde_json::from_str(schema).map_err(|e| format!("not JSON: {e}"))?;
    let top = Place { root: &schema, document: &schema, schema: &schema, depth: 0 }.resolved();
    let properties = top.schema["properties"].as_object().ok_or("a JSON Schema without properties")?;
    let required: Vec<&str> = top.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Ok(properties
        .iter()
        .map(|(name, property)| {
            let (kind, nullable) = json_type(top.at(property));
            WriterField { name: name.clone(), kind, nullable: nullable || !required.contains(&name.as_str()) }
        })
        .collect())
}

fn json_type(place: Place<'_>) -> (Option<FieldKind>, bool) {
    let place = place.resolved();
    let property = place.schema;
    let named = |name: &str| match name {
        "string" if property["format"] == "date-time" => Some(FieldKind::Timestamp),
        "string" => Some(FieldKind::Text),
        "integer" => Some(FieldKind::Long),
        "number" => Some(FieldKind::Double),
        "boolean" => Some(FieldKind::Boolean),
        _ => None,
    };
    if let Some(branches) = property["oneOf"].as_array().or_else(|| property["anyOf"].as_array()) {
        let nullable = branches.iter().any(|branch| branch["type"] == "null");
        let mut others = branches.iter().filter(|branch| branch["type"] != "null");
        return match (others.next(), others.next()) {
            (Some(only), None) if place.depth < REFS_MAX => (json_type(place.at(only)).0, nullable),
            _ => (None, nullable),
        };
    }
    match &property["type"] {
        Value::String(name) => (named(name), name == "null"),
        Value::Array(names) => {
            let nullable = names.iter().any(|name| name == "null");
            let mut others = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            match (others.next(), others.next()) {
                (Some(only), None) => (named(only), nullable),
                _ => (None, nullable),
            }
        }
        _ => (None, false),
    }
}

/// Compares a writer's fields with the columns that there are.
pub fn fit(schema: &RecordSchema, writer: &[WriterField]) -> SchemaFit {
    let mut fit = SchemaFit::default();
    for field in writer {
        match schema.index_of(&field.name).map(|index| &schema.fields[index]) {
            Some(declared) if !takes(declared.kind, field.kind) => {
                let found = field.kind.map_or("a type that no column takes", FieldKind::name);
                fit.incompatible.get_or_insert_with(|| format!("field '{}' is {found}, the column takes {}", field.name, declared.kind.name()));
                fit.incompatible_fields.push(field.name.clone());
            }
            Some(declared) => {
                if let Some(wider) = field.kind.and_then(|kind| wider(declared.kind, kind)) {
                    fit.widened.push((field.name.clone(), wider));
                }
                if declared.required && field.nullable && declared.kind != FieldKind::Timestamp {
                    fit.relaxed.push(field.name.clone());
                }
            }
            None if is_lineage(&field.name) => {}
            None => match field.kind {
                Some(kind) => fit.new.push(FieldSpec::optional(&field.name, kind)),
                None => fit.untakeable.push(field.name.clone()),
            },
        }
    }
    for declared in schema.fields.iter().filter(|declared| declared.required) {
        if !writer.iter().any(|field| field.name == declared.name) {
            fit.incompatible.get_or_insert_with(|| format!("it lacks the required field '{}'", declared.name));
            fit.incompatible_fields.push(declared.name.clone());
        }
    }
    fit
}

/// The type that a column must become to take all of a writer's values, if Iceberg can make it so.
fn wider(column: FieldKind, writer: FieldKind) -> Option<FieldKind> {
    match (column, writer) {
        (FieldKind::Int, FieldKind::Long) | (FieldKind::Float, FieldKind::Double) => Some(writer),
        (FieldKind::Decimal { precision: digits, scale: now }, FieldKind::Decimal { precision, scale }) if scale == now && precision > digits => Some(writer),
        _ => None,
    }
}

/// Whether some value of the writer's type fits a column. Where only some do, each record is judged by itself.
fn takes(column: FieldKind, writer: Option<FieldKind>) -> bool {
    use FieldKind::{Boolean, Decimal, Double, Float, Id, Int, Long, Text, Timestamp};
    let Some(writer) = writer else { return false };
    match column {
        Text => matches!(writer, Text | Id),
        Id => matches!(writer, Text | Id | Int | Long),
        Decimal { .. } => matches!(writer, Int | Long | Float | Double | Decimal { .. } | Text),
        Int | Long | Float | Double => matches!(writer, Int | Long | Float | Double | Decimal { .. }),
        Boolean => writer == Boolean,
        Timestamp => matches!(writer, Timestamp | Text | Int | Long | Float | Double),
    }
}

/// Declared fields for a writer's schema, where no table says otherwise: what a new table is made with. The event's time
/// and the fields that are never null are required.
pub fn record_of_writer(writer: &[WriterField]) -> RecordSchema {
    let field = |field: &WriterField| {
        let kind = field.kind?;
        let spec = FieldSpec::optional(&field.name, kind);
        (!is_lineage(&field.name)).then_some(FieldSpec { required: !field.nullable, ..spec })
    };
    RecordSchema::new(writer.iter().filter_map(field).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{bronze_schema, platform_topic};
    use super::*;

    const EVENT: &str = r#"{"type":"record","name":"E","fields":[
        {"name":"id","type":"string"},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"value","type":["null","double"]},
        {"name":"kind","type":{"type":"enum","name":"K","symbols":["A"]}},
        {"name":"tags","type":{"type":"array","items":"string"}},
        {"name":"many","type":["int","string"]}]}"#;

    #[test]
    fn avro_types_become_kinds() {
        let fields = avro_fields(EVENT).unwrap();
        let kinds: Vec<_> = fields.iter().map(|field| (field.name.as_str(), field.kind, field.nullable)).collect();
        assert_eq!(
            kinds,
            [
                ("id", Some(FieldKind::Text), false),
                ("at", Some(FieldKind::Timestamp), false),
                ("value", Some(FieldKind::Double), true),
                ("kind", Some(FieldKind::Text), false),
                ("tags", None, false),
                ("many", None, false),
            ]
        );
        assert!(avro_fields(r#""string""#).is_err());
    }

    #[test]
    fn json_schemas_become_kinds() {
        let fields = json_schema_fields(
            r#"{"type":"object","required":["id"],"properties":{
                "id":{"type":"string"},"at":{"type":"string","format":"date-time"},"n":{"type":["null","integer"]},
                "x":{"oneOf":[{"type":"null"},{"type":"number"}]},"list":{"type":"array"}}}"#,
        )
        .unwrap();
        let kind = |name: &str| fields.iter().find(|field| field.name == name).map(|f| (f.kind, f.nullable)).unwrap();
        assert_eq!(kind("id"), (Some(FieldKind::Text), false));
        assert_eq!(kind("at"), (Some(FieldKind::Timestamp), true));
        assert_eq!(kind("n"), (Some(FieldKind::Long), true));
        assert_eq!(kind("x"), (Some(FieldKind::Double), true));
        assert_eq!(kind("list").0, None);
    }

    #[test]
    fn names_stand_for_types_defined_before() {
        let fields = avro_fields(
            r#"{"type":"record","name":"E","namespace":"n","fields":[{"name":"a","type":{"type":"enum","name":"K","symbols":["A"]}},
                {"name":"b","type":["null","K"]},{"name":"c","type":"n.K"}]}"#,
        )
        .unwrap();
        assert!(fields.iter().all(|field| field.kind == Some(FieldKind::Text)), "{fields:?}");
        let fields = json_schema_fields(
            r##"{"$defs":{"money.json":{"$defs":{"amount":{"type":"number"}},"properties":{"x":{"$ref":"#/$defs/amount"}}},"id":{"type":"string"}},
                "required":["id"],"properties":{"id":{"$ref":"#/$defs/id"},"total":{"$ref":"money.json#/properties/x"},
                "loop":{"$ref":"#/properties/loop"},"round":{"oneOf":[{"$ref":"#/properties/round"}]},"gone":{"$ref":"nothing.json"}}}"##,
        )
        .unwrap();
        let kind = |name: &str| fields.iter().find(|field| field.name == name).map(|f| (f.kind, f.nullable)).unwrap();
        assert_eq!((kind("id"), kind("total")), ((Some(FieldKind::Text), false), (Some(FieldKind::Double), true)));
        assert_eq!((kind("loop").0, kind("gone").0), (None, None));
    }

    #[test]
    fn what_a_writer_leaves_out_makes_columns_optional_but_no_times() {
        let declared = RecordSchema::new(vec![FieldSpec::required("value", FieldKind::Double), FieldSpec::required("at", FieldKind::Timestamp)]);
        let nullable = |name: &str, kind| WriterField { name: name.into(), kind: Some(kind), nullable: true };
        let found = fit(&declared, &[nullable("value", FieldKind::Double), nullable("at", FieldKind::Timestamp)]);
        assert_eq!((found.relaxed.as_slice(), found.changes_table()), (["value".to_owned()].as_slice(), true));
        let mut table = bronze_schema(&declared).fields().to_vec();
        for at in 0..2 {
            table[at] = std::sync::Arc::new(table[at].as_ref().clone().with_nullable(true));
        }
        let record = record_of_table(&Schema::new(table), Some(&declared)).unwrap();
        assert_eq!(record.fields.iter().map(|field| field.required).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn new_fields_are_found_and_impossible_ones_named() {
        let schema = RecordSchema::new(vec![FieldSpec::required("id", FieldKind::Id), FieldSpec::optional("value", FieldKind::Long)]);
        let found = fit(&schema, &avro_fields(EVENT).unwrap());
        assert_eq!(found.new.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["at", "kind"]);
        assert_eq!(found.untakeable, ["tags", "many"]);
        assert_eq!(found.incompatible, None);

        let short = RecordSchema::new(vec![FieldSpec::optional("n", FieldKind::Int)]);
        let long = [WriterField { name: "n".into(), kind: Some(FieldKind::Long), nullable: false }];
        assert_eq!(fit(&short, &long).widened, [("n".to_owned(), FieldKind::Long)]);
        let decimal = |precision, scale| FieldKind::Decimal { precision, scale };
        for (column, writer, wide) in [
            (FieldKind::Float, FieldKind::Double, true),
            (FieldKind::Double, FieldKind::Float, false),
            (decimal(9, 2), decimal(18, 2), true),
            (decimal(18, 2), decimal(9, 2), false),
            (decimal(9, 2), decimal(18, 3), false),
        ] {
            let found = fit(&RecordSchema::new(vec![FieldSpec::optional("n", column)]), &[WriterField { name: "n".into(), kind: Some(writer), nullable: true }]);
            assert_eq!((found.incompatible, found.widened.len()), (None, usize::from(wide)), "{column:?} {writer:?}");
        }
        let price = r#"{"type":"record","name":"P","fields":[{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}"#;
        assert_eq!(avro_fields(price).unwrap()[0].kind, Some(decimal(9, 2)));
        let narrow = RecordSchema::new(vec![FieldSpec::optional("id", FieldKind::Double)]);
        assert!(fit(&narrow, &avro_fields(EVENT).unwrap()).incompatible.unwrap().contains("'id'"));
        let demanding = RecordSchema::new(vec![FieldSpec::required("nothing", FieldKind::Text)]);
        assert!(fit(&demanding, &avro_fields(EVENT).unwrap()).incompatible.unwrap().contains("'nothing'"));
    }

    #[test]
    fn a_table_tells_what_was_added_to_it() {
        let declared = platform_topic("products").unwrap().schema;
        let mut fields = bronze_schema(&declared).fields().to_vec();
        assert_eq!(record_of_table(&bronze_schema(&declared), Some(&declared)).unwrap(), declared);
        fields.push(std::sync::Arc::new(arrow::datatypes::Field::new("colour", DataType::Utf8, true)));
        let record = record_of_table(&Schema::new(fields), Some(&declared)).unwrap();
        assert_eq!(record.fields.last().unwrap(), &FieldSpec::optional("colour", FieldKind::Text));
        assert_eq!(record.fields.len(), declared.fields.len() + 1);
    }
}
