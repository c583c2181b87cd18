//! Arrays for metadata tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::builder::BinaryBuilder;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int32Array, Int32Builder, Int64Array, Int64Builder, ListBuilder, MapBuilder, MapFieldNames,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, new_empty_array,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;

use chainalytics_common::{Error, ErrorCode, Result};

/// A column's name and values.
pub type Named = (String, ArrayRef);

pub fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let micros: TimestampMicrosecondArray = values.map(|ms| ms.map(|ms| ms.saturating_mul(1000))).collect();
    Arc::new(micros.with_timezone("UTC"))
}

pub fn longs(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

pub fn ints(values: impl Iterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.collect::<Int32Array>())
}

pub fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub fn flags(values: impl Iterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.collect::<BooleanArray>())
}

pub fn blobs(values: impl Iterator<Item = Option<Vec<u8>>>) -> ArrayRef {
    Arc::new(values.collect::<BinaryArray>())
}

/// Lists of longs; null where there is none.
pub fn long_lists<'a>(values: impl Iterator<Item = Option<&'a [i64]>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int64Builder::new()).with_field(Field::new("element", DataType::Int64, true));
    for value in values {
        match value {
            Some(value) => {
                lists.values().append_slice(value);
                lists.append(true);
            }
            None => lists.append(false),
        }
    }
    Arc::new(lists.finish())
}

/// Lists of ints; null where there is none.
pub fn int_lists(values: impl Iterator<Item = Option<Vec<i32>>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int32Builder::new()).with_field(Field::new("element", DataType::Int32, true));
    for value in values {
        match value {
            Some(value) => {
                lists.values().append_slice(&value);
                lists.append(true);
            }
            None => lists.append(false),
        }
    }
    Arc::new(lists.finish())
}

fn map_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() }
}

/// Counters by field id, in order of the id; null where there are none.
pub fn count_maps<'a>(values: impl Iterator<Item = &'a HashMap<i32, u64>>) -> Result<ArrayRef> {
    let mut maps = MapBuilder::new(Some(map_names()), Int32Builder::new(), Int64Builder::new());
    for value in values {
        let sorted: BTreeMap<&i32, &u64> = value.iter().collect();
        for (key, count) in sorted {
            maps.keys().append_value(*key);
            maps.values().append_option(signed(*count));
        }
        maps.append(!value.is_empty()).map_err(arrow_error)?;
    }
    Ok(Arc::new(maps.finish()))
}

/// Serialised bounds by field id, in order of the id; null where there are none.
pub fn bound_maps(values: impl Iterator<Item = BTreeMap<i32, Vec<u8>>>) -> Result<ArrayRef> {
    let mut maps = MapBuilder::new(Some(map_names()), Int32Builder::new(), BinaryBuilder::new());
    for value in values {
        for (key, bytes) in &value {
            maps.keys().append_value(*key);
            maps.values().append_value(bytes);
        }
        maps.append(!value.is_empty()).map_err(arrow_error)?;
    }
    Ok(Arc::new(maps.finish()))
}

/// Scalars of one type, null where there is none or it is of another type.
pub fn scalars(values: Vec<Option<ScalarValue>>, data_type: &DataType) -> Result<ArrayRef> {
    if values.is_empty() {
        return Ok(new_empty_array(data_type));
    }
    let null = ScalarValue::try_from(data_type).map_err(Error::from_datafusion)?;
    let values = values.into_iter().map(|value| value.unwrap_or_else(|| null.clone()));
    ScalarValue::iter_to_array(values).map_err(Error::from_datafusion)
}

/// Columns as one struct column; all of its fields may be null.
pub fn structs(columns: Vec<Named>, rows: usize) -> ArrayRef {
    if columns.is_empty() {
        return Arc::new(StructArray::new_empty_fields(rows, None));
    }
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) =
        columns.into_iter().map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array)).unzip();
    Arc::new(StructArray::new(fields.into(), arrays, None))
}

/// Columns as a batch; all of them may be null.
pub fn batch(columns: Vec<Named>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).map_err(arrow_error)
}

pub fn named(name: &str, array: ArrayRef) -> Named {
    (name.to_owned(), array)
}

pub fn signed(n: u64) -> Option<i64> {
    i64::try_from(n).ok()
}

pub fn arrow_error(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(ErrorCode::Internal, format!("metadata table: {error}"))
}
