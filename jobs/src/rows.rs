//! Small results in the driver: rows of a query with their columns by name, and rows made here as a frame to write.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::exec::QueryExecutor;
use datafusion::dataframe::DataFrame;
use futures::TryStreamExt;

/// Rows that a driver takes into its memory at most, for one query.
const ROWS_MAX: usize = 5_000_000;

/// Type of moments in the platform's tables.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The rows of a query, in memory.
#[derive(Debug)]
pub(crate) struct Rows {
    batch: RecordBatch,
}

/// Runs a query and takes its rows.
///
/// # Errors
/// Of the query; `ResourcesExhausted` beyond five million rows.
pub(crate) async fn fetch(session: &Session, query: &str) -> Result<Rows> {
    fetch_frame(session, session.dataframe(query).await?, query).await
}

/// As [`fetch`], of a frame; `what` names it in errors.
pub(crate) async fn fetch_frame(session: &Session, frame: DataFrame, what: &str) -> Result<Rows> {
    let (_, plan) = frame.into_parts();
    let mut stream = session.execute_logical(plan).await?;
    let schema = stream.schema();
    let (mut batches, mut rows) = (Vec::new(), 0);
    while let Some(batch) = stream.try_next().await.map_err(Error::from_datafusion)? {
        rows += batch.num_rows();
        if rows > ROWS_MAX {
            return Err(Error::new(ErrorCode::ResourcesExhausted, format!("a driver's query gives more than {ROWS_MAX} rows: {what}")));
        }
        batches.push(batch);
    }
    let batch = concat_batches(&schema, &batches).map_err(|e| Error::internal(format!("rows of a driver's query: {e}")))?;
    Ok(Rows { batch: canonical(&batch)? })
}

/// Few types to read from: text, 64-bit integers and floats, microseconds.
fn canonical(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let wanted = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
            t if t.is_integer() => DataType::Int64,
            t if t.is_floating() => DataType::Float64,
            DataType::Decimal128(..) | DataType::Decimal256(..) => DataType::Float64,
            DataType::Timestamp(..) => timestamp_type(),
            other => other.clone(),
        };
        let array = cast(column, &wanted).map_err(|e| Error::internal(format!("column {}: {e}", field.name())))?;
        Ok((field.name().clone(), array, true))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    if columns.is_empty() {
        return Ok(batch.clone());
    }
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| Error::internal(format!("rows of a driver's query: {e}")))
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    fn column(&self, name: &str, row: usize) -> Option<&ArrayRef> {
        self.batch.column_by_name(name).filter(|column| row < column.len() && column.is_valid(row))
    }

    pub(crate) fn text(&self, row: usize, name: &str) -> Option<String> {
        Some(self.column(name, row)?.as_string_opt::<i32>()?.value(row).to_owned())
    }

    pub(crate) fn long(&self, row: usize, name: &str) -> Option<i64> {
        Some(self.column(name, row)?.as_primitive_opt::<Int64Type>()?.value(row))
    }

    /// A count; zero where there is none.
    pub(crate) fn count(&self, row: usize, name: &str) -> u64 {
        self.long(row, name).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
    }

    pub(crate) fn int(&self, row: usize, name: &str) -> Option<i32> {
        i32::try_from(self.long(row, name)?).ok()
    }

    pub(crate) fn double(&self, row: usize, name: &str) -> Option<f64> {
        let column = self.column(name, row)?;
        let float = column.as_primitive_opt::<Float64Type>().map(|a| a.value(row));
        #[allow(clippy::cast_precision_loss)]
        float.or_else(|| column.as_primitive_opt::<Int64Type>().map(|a| a.value(row) as f64))
    }

    pub(crate) fn boolean(&self, row: usize, name: &str) -> Option<bool> {
        Some(self.column(name, row)?.as_boolean_opt()?.value(row))
    }

    /// Microseconds since the epoch.
    pub(crate) fn micros(&self, row: usize, name: &str) -> Option<i64> {
        Some(self.column(name, row)?.as_primitive_opt::<TimestampMicrosecondType>()?.value(row))
    }

    /// Days since the epoch.
    pub(crate) fn day(&self, row: usize, name: &str) -> Option<i32> {
        Some(self.column(name, row)?.as_primitive_opt::<Date32Type>()?.value(row))
    }
}

/// Rows made by the driver, as something to write. Columns fit a table by name.
///
/// # Errors
/// `Internal` for columns of different lengths.
pub(crate) fn frame(session: &Session, columns: Vec<(&str, ArrayRef)>) -> Result<DataFrame> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .map_err(|e| Error::internal(format!("rows of the driver: {e}")))?;
    session.ctx().read_batch(batch).map_err(Error::from_datafusion)
}

/// A column of moments, microseconds since the epoch.
pub(crate) fn moments(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(arrow::array::TimestampMicrosecondArray::from_iter(values).with_timezone("UTC"))
}

/// A column of text.
pub(crate) fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(arrow::array::StringArray::from_iter(values))
}

/// A column of 64-bit integers.
pub(crate) fn longs(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(arrow::array::Int64Array::from_iter(values))
}

/// A column of 32-bit integers.
pub(crate) fn ints(values: impl IntoIterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(arrow::array::Int32Array::from_iter(values))
}

/// A column of floats.
pub(crate) fn doubles(values: impl IntoIterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(arrow::array::Float64Array::from_iter(values))
}

/// A column of booleans.
pub(crate) fn booleans(values: impl IntoIterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(arrow::array::BooleanArray::from_iter(values))
}

/// A column of days since the epoch.
pub(crate) fn days(values: impl IntoIterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(arrow::array::Date32Array::from_iter(values))
}

/// A count as tables have it.
pub(crate) fn as_long(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
