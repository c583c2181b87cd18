//! Splits batches by partition value.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{nullif, take_record_batch};
use arrow::datatypes::{DataType, Field as ArrowField, Fields, Schema as ArrowSchema, SchemaRef};
use chainalytics_common::{Error, Result};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use iceberg::spec::{Literal, PartitionSpec, PrimitiveLiteral, PrimitiveType, Schema, Struct, StructType, Transform, Type};
use serde_json::Value;

use super::data_file::partition_json;
use super::transform;
use crate::err;

/// A partition value's number among those of its splitter.
pub(super) type Key = usize;

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

/// Computes partition values of batches that have the table's schema, and knows all that came so far.
pub(super) struct Splitter {
    spec: PartitionSpec,
    schema: Arc<Schema>,
    partition_type: StructType,
    fields: Vec<Field>,
    /// Numbers the values; made for the types of the first batch.
    numbers: Option<Box<dyn GroupValues>>,
    values: Vec<PartitionValue>,
    /// Number of each row's value; kept for its memory.
    row_keys: Vec<Key>,
    /// Rows of each value in a batch; all zero between batches.
    counts: Vec<u32>,
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
        let values = match fields.is_empty() {
            true => vec![PartitionValue { json: Vec::new(), path: String::new() }],
            false => Vec::new(),
        };
        Ok(Self { spec, schema, partition_type, fields, numbers: None, values, row_keys: Vec::new(), counts: Vec::new() })
    }

    /// The partition value of a key that [`Self::split`] gave.
    pub fn value(&self, key: Key) -> Result<&PartitionValue> {
        self.values.get(key).ok_or_else(|| err::internal("a partition key without its value"))
    }

    /// Parts of a batch by partition value, in order of first appearance.
    pub fn split(&mut self, batch: RecordBatch) -> Result<Vec<(Key, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.fields.is_empty() {
            return Ok(vec![(0, batch)]);
        }
        let values: Vec<ArrayRef> =
            self.fields.iter().map(|field| transform::apply(field.transform, &column_at(&batch, &field.path)?)).collect::<Result<_>>()?;
        self.number(&values)?;

        // One copy that brings each value's rows together, of which the parts are slices.
        self.counts.resize(self.values.len(), 0);
        let mut seen: Vec<Key> = Vec::new();
        for key in &self.row_keys {
            let count = &mut self.counts[*key];
            if *count == 0 {
                seen.push(*key);
            }
            *count += 1;
        }
        if let [only] = seen[..] {
            self.counts[only] = 0;
            return Ok(vec![(only, batch)]);
        }
        let mut parts = Vec::with_capacity(seen.len());
        let mut start = 0;
        for key in &seen {
            let count = std::mem::replace(&mut self.counts[*key], start);
            parts.push((*key, start, count));
            start += count;
        }
        let mut order = vec![0_u32; batch.num_rows()];
        for (row, key) in self.row_keys.iter().enumerate() {
            let place = &mut self.counts[*key];
            order[*place as usize] = u32::try_from(row).map_err(|_| err::internal("a batch of more than 2^32 rows"))?;
            *place += 1;
        }
        for key in &seen {
            self.counts[*key] = 0;
        }
        let batch = match order.is_sorted() {
            true => batch,
            false => take_record_batch(&batch, &UInt32Array::from(order)).map_err(err::arrow)?,
        };
        Ok(parts.into_iter().map(|(key, start, count)| (key, batch.slice(start as usize, count as usize))).collect())
    }

    /// Finds the key of each row's value.
    fn number(&mut self, values: &[ArrayRef]) -> Result<()> {
        let numbers = match &mut self.numbers {
            Some(numbers) => numbers,
            None => {
                let fields: Vec<ArrowField> =
                    values.iter().enumerate().map(|(at, array)| ArrowField::new(at.to_string(), array.data_type().clone(), true)).collect();
                let made = new_group_values(Arc::new(ArrowSchema::new(fields)), &GroupOrdering::None);
                self.numbers.insert(made.map_err(Error::from_datafusion)?)
            }
        };
        self.row_keys.clear();
        numbers.intern(values, &mut self.row_keys).map_err(Error::from_datafusion)?;
        let (before, all) = (self.values.len(), numbers.len());
        if all == before {
            return Ok(());
        }
        // New values may be numbered in another order than their rows have.
        let mut first = vec![None; all - before];
        for (row, key) in self.row_keys.iter().enumerate() {
            if let Some(slot) = key.checked_sub(before).and_then(|new| first.get_mut(new)) {
                slot.get_or_insert(row);
            }
        }
        for row in first {
            let row = row.ok_or_else(|| err::internal("a partition value of no row"))?;
            let value = self.value_at(values, row)?;
            self.values.push(value);
        }
        Ok(())
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
        PrimitiveType::String => Literal::string(match array.as_string_view_opt() {
            Some(views) => views.value(row),
            None => array.as_string::<i32>().value(row),
        }),
        PrimitiveType::Uuid => {
            let bytes: [u8; 16] =
                array.as_fixed_size_binary().value(row).try_into().map_err(|_| err::internal("a UUID that is not 16 bytes long"))?;
            Literal::Primitive(PrimitiveLiteral::UInt128(u128::from_be_bytes(bytes)))
        }
        PrimitiveType::Fixed(_) => Literal::fixed(array.as_fixed_size_binary().value(row).iter().copied()),
        PrimitiveType::Binary => Literal::binary(match array.as_binary_view_opt() {
            Some(views) => views.value(row).to_vec(),
            None => array.as_binary::<i32>().value(row).to_vec(),
        }),
    }))
}
