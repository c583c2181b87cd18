//! Rows of results.

use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

pub fn long(value: impl Into<Option<i64>>) -> ArrayRef {
    longs([value.into()])
}

pub fn longs(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

/// A count that Spark shows as a long.
pub fn long_count(count: u64) -> ArrayRef {
    long(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A count that Spark shows as an int.
pub fn count(count: u64) -> ArrayRef {
    Arc::new(Int32Array::from(vec![i32::try_from(count).unwrap_or(i32::MAX)]))
}

pub fn texts(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Points in time from milliseconds since 1970 UTC.
pub fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    let micros = values.into_iter().map(|ms| ms.saturating_mul(1000));
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("+00:00"))
}

pub fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .map_err(|e| Error::new(ErrorCode::Internal, format!("result of a procedure: {e}")))
}
