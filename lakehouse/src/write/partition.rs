//! Splits batches by partition value.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{nullif, take_record_batch};
use arrow::datatypes::{DataType, Fields, SchemaRef};
use arrow::row::{RowConverter, SortField};
use chainalytics_common::Result;
use iceberg::spec::{Literal, PartitionSpec, PrimitiveLiteral, PrimitiveType, Schema, Struct, StructType, Transform, Type};
use serde_json::Value;

use super::data_file::partition_json;
use super::transform;
use crate::err;

/// Row-encoded partition value: equal bytes mean the same partition.
pub(super) type Key = Box<[u8]>;

/// Partition value of a file, in the forms that the writer needs.
#[derive(Debug, Clone)]
pub(super) struct PartitionValue {
    /// Values for the manifest.
    pub json: Vec<Value>,
    /// Folder below the data location, empty for an unpartitioned table.
    pub path: String,
}

struct Field {
    /// Column of the batch, then fields of structs within it.
    path: Vec<usize>,
    transform: Transform,
    result: PrimitiveType,
}

/// Computes partition values of batches that have the table's schema.
pub(super) struct Splitter {
    spec: PartitionSpec,
    schema: Arc<Schema>,
    partition_type: StructType,
    fields: Vec<Field>,
    converter: Option<RowConverter>,
}

impl Splitter {
    pub fn new(spec: PartitionSpec, schema: Arc<Schema>, arrow: &SchemaRef) -> Result<Self> {
        let partition_type = spec.partition_type(&schema).map_err(err::iceberg)?;
        let mut fields = Vec::new();
        for (field, result) in spec.fields().iter().zip(partition_type.fields()) {
            let name = schema.name_by_field_id(field.source_id).unwrap_or_default();
            let path = path_of(arrow.fields(), name)
                .ok_or_else(|| err::unsupported(format!("partition field {} over a list, a map or a column that is gone", field.name)))?;
            let Type::Primitive(result) = result.field_type.as_ref() else {
                return Err(err::metadata(format!("partition field {} is not a primitive", field.name)));
            };
            fields.push(Field { path, transform: field.transform, result: result.clone() });
        }
        Ok(Self { spec, schema, partition_type, fields, converter: None })
    }

    /// Parts of a batch by partition value, in order of first appearance. `known` says whether a key's value is
    /// needed at all: it is computed only for new ones.
    pub fn split(&mut self, batch: RecordBatch, known: impl Fn(&[u8]) -> bool) -> Result<Vec<(Key, Option<PartitionValue>, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.fields.is_empty() {
            let value = (!known(&[])).then(|| PartitionValue { json: Vec::new(), path: String::new() });
            return Ok(vec![(Key::default(), value, batch)]);
        }
        let values: Vec<ArrayRef> =
            self.fields.iter().map(|field| transform::apply(field.transform, &column_at(&batch, &field.path)?)).collect::<Result<_>>()?;
        let converter = match &mut self.converter {
            Some(converter) => converter,
            None => {
                let fields = values.iter().map(|array| SortField::new(array.data_type().clone())).collect();
                self.converter.insert(RowConverter::new(fields).map_err(err::arrow)?)
            }
        };
        let rows = converter.convert_columns(&values).map_err(err::arrow)?;

        // Rows of one partition tend to follow each other: look up only where the value changes.
        let mut groups: Vec<(Key, u32, Vec<u32>)> = Vec::new();
        let mut index: HashMap<Key, usize> = HashMap::new();
        let mut current = usize::MAX;
        for row in 0..batch.num_rows() {
            let bytes = rows.row(row);
            let bytes: &[u8] = bytes.as_ref();
            let row = u32::try_from(row).map_err(|_| err::internal("a batch of more than 2^32 rows"))?;
            if current == usize::MAX || groups[current].0.as_ref() != bytes {
                current = match index.get(bytes) {
                    Some(at) => *at,
                    None => {
                        index.insert(bytes.into(), groups.len());
                        groups.push((bytes.into(), row, Vec::new()));
                        groups.len() - 1
                    }
                };
            }
            groups[current].2.push(row);
        }
        let whole = groups.len() == 1;
        groups
            .into_iter()
            .map(|(key, first, rows)| {
                let value = if known(&key) { None } else { Some(self.value_at(&values, first as usize)?) };
                let part = match whole {
                    true => batch.clone(),
                    false => take_record_batch(&batch, &UInt32Array::from(rows)).map_err(err::arrow)?,
                };
                Ok((key, value, part))
            })
            .collect()
    }

    fn value_at(&self, values: &[ArrayRef], row: usize) -> Result<PartitionValue> {
        let literals: Vec<Option<Literal>> =
            values.iter().zip(&self.fields).map(|(array, field)| literal_at(array, row, &field.result)).collect::<Result<_>>()?;
        let partition = Struct::from_iter(literals);
        let json = partition_json(&partition, &self.partition_type)?;
        let path = self.spec.partition_to_path(&partition, Arc::clone(&self.schema));
        Ok(PartitionValue { json, path: path.split('/').map(clean).collect::<Vec<_>>().join("/") })
    }
}

/// Where a column stands whose name has its structs before it, separated by dots.
fn path_of(fields: &Fields, name: &str) -> Option<Vec<usize>> {
    if let Some((at, _)) = fields.find(name) {
        return Some(vec![at]);
    }
    fields.iter().enumerate().find_map(|(at, field)| {
        let rest = name.strip_prefix(field.name().as_str())?.strip_prefix('.')?;
        match field.data_type() {
            DataType::Struct(inner) => path_of(inner, rest).map(|path| std::iter::once(at).chain(path).collect()),
            _ => None,
        }
    })
}

/// The column at a path; null where a struct around it is.
fn column_at(batch: &RecordBatch, path: &[usize]) -> Result<ArrayRef> {
    let Some((first, inner)) = path.split_first() else { return Err(err::internal("a partition field of no column")) };
    let mut column = Arc::clone(batch.column(*first));
    for at in inner {
        let parent = column.as_struct();
        let child = parent.column(*at);
        column = match parent.nulls() {
            None => Arc::clone(child),
            Some(nulls) => nullif(child, &BooleanArray::new(!nulls.inner(), None)).map_err(err::arrow)?,
        };
    }
    Ok(column)
}

/// Iceberg never parses paths, so that any spelling will do: one that no reader could decode in another way.
fn clean(segment: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '=' | '-' | '_' | '.' | '+');
    let cleaned: String = segment.chars().take(120).map(|c| if allowed(c) { c } else { '_' }).collect();
    // A value such as `a/../b` must not climb out of the table's folder.
    if cleaned.chars().all(|c| c == '.') { "_".to_owned() } else { cleaned }
}

/// One value of an array as an Iceberg literal of type `primitive`; `None` for null.
fn literal_at(array: &ArrayRef, row: usize, primitive: &PrimitiveType) -> Result<Option<Literal>> {
    if array.is_null(row) {
        return Ok(None);
    }
    let long = |value: i64| Literal::Primitive(PrimitiveLiteral::Long(value));
    Ok(Some(match primitive {
        PrimitiveType::Boolean => Literal::bool(array.as_boolean().value(row)),
        PrimitiveType::Int => Literal::int(array.as_primitive::<Int32Type>().value(row)),
        // Day partitions are dates, some writers' metadata types them as int; both are 32 bits.
        PrimitiveType::Date => Literal::date(array.as_primitive::<Date32Type>().value(row)),
        PrimitiveType::Long => Literal::long(array.as_primitive::<Int64Type>().value(row)),
        PrimitiveType::Float => Literal::float(array.as_primitive::<Float32Type>().value(row)),
        PrimitiveType::Double => Literal::double(array.as_primitive::<Float64Type>().value(row)),
        PrimitiveType::Decimal { .. } => Literal::decimal(array.as_primitive::<Decimal128Type>().value(row)),
        PrimitiveType::Time => long(array.as_primitive::<Time64MicrosecondType>().value(row)),
        PrimitiveType::Timestamp | PrimitiveType::Timestamptz => long(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => long(array.as_primitive::<TimestampNanosecondType>().value(row)),
        PrimitiveType::String => Literal::string(array.as_string::<i32>().value(row)),
        PrimitiveType::Uuid => {
            let bytes: [u8; 16] =
                array.as_fixed_size_binary().value(row).try_into().map_err(|_| err::internal("a UUID that is not 16 bytes long"))?;
            Literal::Primitive(PrimitiveLiteral::UInt128(u128::from_be_bytes(bytes)))
        }
        PrimitiveType::Fixed(_) => Literal::fixed(array.as_fixed_size_binary().value(row).iter().copied()),
        PrimitiveType::Binary => Literal::binary(array.as_binary::<i32>().value(row).iter().copied()),
    }))
}
