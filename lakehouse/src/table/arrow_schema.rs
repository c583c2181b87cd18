//! Iceberg schema <-> Arrow schema (our arrow 59; iceberg's own conversion speaks arrow 58).
//!
//! Field ids travel in the Arrow field metadata under `PARQUET:field_id`, which the Parquet writer stores in the file
//! and readers project by. Source: Iceberg spec, "Schemas and Data Types".

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, TimeUnit};
use chainalytics_common::Result;
use iceberg::spec::{ListType, Literal, MapType, NestedField, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Schema, StructType, Type};

use crate::err;

/// Arrow metadata key of a field's Iceberg id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";
/// Arrow metadata key of a field's comment.
pub const DOC_KEY: &str = "doc";
/// Arrow metadata key that names the Iceberg primitive of a field where the Arrow type leaves it open: `uuid`,
/// `timestamp_ns`, `timestamptz_ns`.
pub const TYPE_KEY: &str = "iceberg.type";
/// Arrow metadata key of the value (Iceberg's JSON form) that rows written before a column was added have in it.
pub const INITIAL_DEFAULT_KEY: &str = "iceberg.initial-default";
/// Arrow metadata key of the value (Iceberg's JSON form) of rows that are written without one.
pub const WRITE_DEFAULT_KEY: &str = "iceberg.write-default";
/// Zone of every `timestamptz` column.
const UTC: &str = "UTC";

/// Arrow schema of an Iceberg schema, with field ids.
pub fn to_arrow(schema: &Schema) -> Result<ArrowSchema> {
    Ok(ArrowSchema::new(struct_fields(schema.as_struct())?))
}

fn struct_fields(fields: &StructType) -> Result<Fields> {
    fields.fields().iter().map(|field| arrow_field(field, &field.name)).collect()
}

fn arrow_field(field: &NestedField, name: &str) -> Result<Field> {
    let mut metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), field.id.to_string())]);
    if let Some(doc) = &field.doc {
        metadata.insert(DOC_KEY.to_owned(), doc.clone());
    }
    if let Some(default) = &field.write_default {
        let json = default.clone().try_into_json(&field.field_type).map_err(err::iceberg)?;
        metadata.insert(WRITE_DEFAULT_KEY.to_owned(), json.to_string());
    }
    Ok(Field::new(name, arrow_type(&field.field_type)?, !field.required).with_metadata(metadata))
}

/// Arrow type of an Iceberg type.
pub(crate) fn arrow_type(data_type: &Type) -> Result<DataType> {
    Ok(match data_type {
        Type::Primitive(primitive) => arrow_primitive(primitive)?,
        Type::Struct(fields) => DataType::Struct(struct_fields(fields)?),
        Type::List(list) => DataType::List(Arc::new(arrow_field(&list.element_field, "element")?)),
        Type::Map(map) => {
            let entries = Fields::from(vec![arrow_field(&map.key_field, "key")?, arrow_field(&map.value_field, "value")?]);
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
        }
    })
}

/// Arrow type of an Iceberg primitive.
pub(crate) fn arrow_primitive(primitive: &PrimitiveType) -> Result<DataType> {
    Ok(match primitive {
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Int => DataType::Int32,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Decimal { precision, scale } => DataType::Decimal128(
            u8::try_from(*precision).map_err(|_| err::invalid("decimal precision above 38"))?,
            i8::try_from(*scale).map_err(|_| err::invalid("decimal scale above 38"))?,
        ),
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Time => DataType::Time64(TimeUnit::Microsecond),
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        PrimitiveType::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
        PrimitiveType::TimestamptzNs => DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into())),
        PrimitiveType::String => DataType::Utf8,
        PrimitiveType::Uuid => DataType::FixedSizeBinary(16),
        PrimitiveType::Fixed(len) => DataType::FixedSizeBinary(i32::try_from(*len).map_err(|_| err::invalid("fixed type longer than 2 GiB"))?),
        PrimitiveType::Binary => DataType::Binary,
    })
}

/// Iceberg schema of an Arrow schema; ids are numbered afresh (fields of one level first, as Iceberg's own writers do).
pub fn from_arrow(schema: &ArrowSchema) -> Result<Schema> {
    let fields = fields_from_arrow(schema.fields(), 0)?;
    Schema::builder().with_fields(fields).build().map_err(err::iceberg)
}

/// Iceberg fields for new columns, with ids above `last_id`.
pub(crate) fn fields_from_arrow(fields: &Fields, last_id: i32) -> Result<Vec<NestedFieldRef>> {
    let mut ids = Ids { last: last_id };
    ids.fields(fields)
}

struct Ids {
    last: i32,
}

impl Ids {
    fn next(&mut self) -> i32 {
        self.last += 1;
        self.last
    }

    fn fields(&mut self, fields: &Fields) -> Result<Vec<NestedFieldRef>> {
        let ids: Vec<i32> = fields.iter().map(|_| self.next()).collect();
        fields.iter().zip(ids).map(|(field, id)| Ok(Arc::new(self.field(field, id, field.name())?))).collect()
    }

    fn field(&mut self, field: &FieldRef, id: i32, name: &str) -> Result<NestedField> {
        let nested = NestedField::new(id, name, self.type_of(field)?, !field.is_nullable());
        let mut nested = match field.metadata().get(DOC_KEY) {
            Some(doc) => nested.with_doc(doc),
            None => nested,
        };
        nested.initial_default = default_of(field, INITIAL_DEFAULT_KEY, &nested.field_type)?;
        nested.write_default = default_of(field, WRITE_DEFAULT_KEY, &nested.field_type)?;
        Ok(nested)
    }

    fn type_of(&mut self, field: &FieldRef) -> Result<Type> {
        match field.metadata().get(TYPE_KEY) {
            Some(name) => {
                let name = serde_json::Value::String(name.clone());
                let primitive = serde_json::from_value(name).map_err(|e| err::invalid(format!("column type: {e}")))?;
                Ok(Type::Primitive(primitive))
            }
            None => self.data_type(field.data_type()),
        }
    }

    fn data_type(&mut self, data_type: &DataType) -> Result<Type> {
        Ok(match data_type {
            DataType::Struct(fields) => Type::Struct(StructType::new(self.fields(fields)?)),
            DataType::List(element)
            | DataType::LargeList(element)
            | DataType::FixedSizeList(element, _)
            | DataType::ListView(element)
            | DataType::LargeListView(element) => {
                let id = self.next();
                let element_type = self.type_of(element)?;
                Type::List(ListType::new(Arc::new(NestedField::list_element(id, element_type, !element.is_nullable()))))
            }
            DataType::Map(entries, _) => {
                let DataType::Struct(entries) = entries.data_type() else {
                    return Err(err::invalid("a map without key and value"));
                };
                let [key, value] = entries.iter().as_slice() else {
                    return Err(err::invalid("a map without key and value"));
                };
                let (key_id, value_id) = (self.next(), self.next());
                let key_field = NestedField::map_key_element(key_id, self.type_of(key)?);
                let value_field = NestedField::map_value_element(value_id, self.type_of(value)?, !value.is_nullable());
                Type::Map(MapType::new(Arc::new(key_field), Arc::new(value_field)))
            }
            DataType::Dictionary(_, value) => self.data_type(value)?,
            other => Type::Primitive(primitive_from_arrow(other)?),
        })
    }
}

fn default_of(field: &Field, key: &str, field_type: &Type) -> Result<Option<Literal>> {
    field.metadata().get(key).map_or(Ok(None), |json| default_from_json(json, field_type))
}

/// A default in Iceberg's JSON form as a literal.
pub(crate) fn default_from_json(json: &str, field_type: &Type) -> Result<Option<Literal>> {
    let json = serde_json::from_str(json).map_err(|e| err::invalid(format!("a column's default: {e}")))?;
    Literal::try_from_json(json, field_type).map_err(err::iceberg_input)
}

/// The value that a column of a table's schema gets where a write gives none, if it has such a default.
pub(crate) fn write_default(field: &Field) -> Option<PrimitiveLiteral> {
    let primitive = primitive_from_arrow(field.data_type()).ok()?;
    let literal = default_of(field, WRITE_DEFAULT_KEY, &Type::Primitive(primitive)).ok()??;
    literal.as_primitive_literal()
}

/// Iceberg primitive that holds every value of an Arrow type. Unsigned and nanosecond types widen or lose precision
/// only where format v2 has no other type.
pub(crate) fn primitive_from_arrow(data_type: &DataType) -> Result<PrimitiveType> {
    Ok(match data_type {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => PrimitiveType::Int,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => PrimitiveType::Long,
        DataType::Float16 | DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let (precision, scale) = (u32::from(*precision), u32::try_from(*scale).unwrap_or(0));
            PrimitiveType::Decimal { precision: precision.min(38), scale }
        }
        DataType::Date32 | DataType::Date64 => PrimitiveType::Date,
        DataType::Time32(_) | DataType::Time64(_) => PrimitiveType::Time,
        DataType::Timestamp(_, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(_, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => PrimitiveType::String,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => PrimitiveType::Binary,
        DataType::FixedSizeBinary(len) => PrimitiveType::Fixed(u64::try_from(*len).unwrap_or(0)),
        // A column of nothing but nulls (`SELECT NULL AS x`) needs some type; text reads back everywhere.
        DataType::Null => PrimitiveType::String,
        other => return Err(err::unsupported(format!("Iceberg has no type for Arrow's {other}"))),
    })
}

/// Iceberg field id of an Arrow field.
pub fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID_KEY)?.parse().ok()
}
