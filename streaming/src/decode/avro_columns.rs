//! Arrow arrays of any writer schema, handed value by value to the declared columns.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit};

use super::columns::{Columns, Misfit, Scalar, mismatch_of};
use crate::topics::RecordSchema;

/// One declared field's source.
enum Reader {
    /// The writer schema has no such field.
    Absent,
    Text(StringArray),
    Int(Int32Array),
    Long(Int64Array),
    Float(Float32Array),
    Double(Float64Array),
    Boolean(BooleanArray),
    /// With the count of digits behind the point.
    Decimal(Decimal128Array, u8),
    /// Microseconds since the epoch.
    Micros(Int64Array),
    Uuid(FixedSizeBinaryArray),
    /// A type that no declared column takes.
    Other(ArrayRef),
}

/// Sources of all declared fields in one decoded piece.
pub(super) struct FieldReaders {
    readers: Vec<Reader>,
}

impl FieldReaders {
    pub(super) fn new(schema: &RecordSchema, batch: &RecordBatch) -> Self {
        let readers = schema
            .fields
            .iter()
            .map(|field| match batch.column_by_name(&field.name) {
                None => Reader::Absent,
                Some(array) => reader(array),
            })
            .collect();
        Self { readers }
    }

    /// Puts one record into the columns; the caller commits or rolls back.
    pub(super) fn push_row(&self, columns: &mut Columns, row: usize) -> Result<(), Misfit> {
        let mut uuid_text = [0; uuid::fmt::Hyphenated::LENGTH];
        for (index, reader) in self.readers.iter().enumerate() {
            let scalar = match reader {
                // `commit_row` decides about absent fields.
                Reader::Absent => continue,
                Reader::Text(array) if array.is_valid(row) => Scalar::Text(array.value(row)),
                Reader::Int(array) if array.is_valid(row) => Scalar::Int(i64::from(array.value(row))),
                Reader::Long(array) if array.is_valid(row) => Scalar::Int(array.value(row)),
                Reader::Float(array) if array.is_valid(row) => Scalar::Float(f64::from(array.value(row))),
                Reader::Double(array) if array.is_valid(row) => Scalar::Float(array.value(row)),
                Reader::Decimal(array, scale) if array.is_valid(row) => Scalar::Decimal(array.value(row), *scale),
                Reader::Boolean(array) if array.is_valid(row) => Scalar::Bool(array.value(row)),
                Reader::Micros(array) if array.is_valid(row) => Scalar::Micros(array.value(row)),
                Reader::Uuid(array) if array.is_valid(row) => {
                    let bytes = <[u8; 16]>::try_from(array.value(row)).unwrap_or_default();
                    Scalar::Text(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut uuid_text))
                }
                Reader::Other(array) if array.is_valid(row) => {
                    let spec = columns.column(index).spec();
                    return Err(mismatch_of(spec, &format!("a value of type {}", array.data_type())));
                }
                _ => Scalar::Null,
            };
            columns.column(index).push(scalar)?;
        }
        Ok(())
    }
}

fn reader(array: &ArrayRef) -> Reader {
    let known = match array.data_type() {
        DataType::Utf8 => Some(Reader::Text(array.as_string::<i32>().clone())),
        DataType::Int32 => Some(Reader::Int(array.as_primitive::<Int32Type>().clone())),
        DataType::Int64 => Some(Reader::Long(array.as_primitive::<Int64Type>().clone())),
        DataType::Float32 => Some(Reader::Float(array.as_primitive::<Float32Type>().clone())),
        DataType::Float64 => Some(Reader::Double(array.as_primitive::<Float64Type>().clone())),
        DataType::Boolean => Some(Reader::Boolean(array.as_boolean().clone())),
        DataType::FixedSizeBinary(16) => Some(Reader::Uuid(array.as_fixed_size_binary().clone())),
        // Enums come as dictionaries.
        DataType::Dictionary(_, _) | DataType::LargeUtf8 | DataType::Utf8View => {
            cast(array, &DataType::Utf8).ok().map(|text| Reader::Text(text.as_string::<i32>().clone()))
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) | DataType::Decimal128(precision, scale) if *scale >= 0 => {
            let exact = cast(array, &DataType::Decimal128(*precision, *scale)).ok();
            exact.map(|digits| Reader::Decimal(digits.as_primitive::<Decimal128Type>().clone(), scale.cast_unsigned()))
        }
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            cast(array, &DataType::Float64).ok().map(|value| Reader::Double(value.as_primitive::<Float64Type>().clone()))
        }
        DataType::Timestamp(_, _) | DataType::Date32 => {
            // Nanoseconds are cut to microseconds; a date is its midnight.
            cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None))
                .and_then(|at| cast(&at, &DataType::Int64))
                .ok()
                .map(|us| Reader::Micros(us.as_primitive::<Int64Type>().clone()))
        }
        _ => None,
    };
    known.unwrap_or_else(|| Reader::Other(ArrayRef::clone(array)))
}
