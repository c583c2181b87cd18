//! Tables of rows that live in the driver's memory (`VALUES` in a view, `ctx.read_batch`, collected table functions) inside a logical plan.
//!
//! Ballista cannot ship them. They are small by nature, so the codec carries their rows as Arrow IPC, up to [`MAX_BYTES`].

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};

/// A table of more bytes than this is refused: write it to a table instead.
pub const MAX_BYTES: usize = 12 * 1024 * 1024;

/// Rows of `table` as one Arrow IPC stream. Fails if it is being written to, or larger than [`MAX_BYTES`].
pub(crate) fn encode(table: &MemTable, schema: &SchemaRef, buf: &mut Vec<u8>) -> Result<()> {
    let mut writer = StreamWriter::try_new(&mut *buf, schema)?;
    let mut bytes = 0usize;
    for partition in &table.batches {
        let batches = partition
            .try_read()
            .map_err(|_| DataFusionError::Execution("an in-memory table is being written to while a query that reads it is submitted".to_owned()))?;
        for batch in batches.iter() {
            bytes = bytes.saturating_add(batch.get_array_memory_size());
            if bytes > MAX_BYTES {
                return Err(DataFusionError::ResourcesExhausted(format!(
                    "an in-memory table of more than {MAX_BYTES} bytes cannot be sent to a cluster; write it to a table first"
                )));
            }
            writer.write(batch)?;
        }
    }
    writer.finish()?;
    Ok(())
}

/// The inverse of [`encode`]; one partition.
pub(crate) fn decode(buf: &[u8], schema: SchemaRef) -> Result<MemTable> {
    let reader = StreamReader::try_new(Cursor::new(buf), None)?;
    let batches: Vec<RecordBatch> = reader.collect::<std::result::Result<_, _>>()?;
    let batches = batches.into_iter().map(|batch| batch.with_schema(Arc::clone(&schema))).collect::<std::result::Result<Vec<_>, _>>()?;
    MemTable::try_new(schema, vec![batches])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use datafusion::arrow::array::{ArrayRef, Int64Array};

    #[test]
    fn rows_survive() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let batch = RecordBatch::try_from_iter(vec![("a", column)]).unwrap();
        let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()], vec![batch.clone()]]).unwrap();
        let mut buf = vec![];
        encode(&table, &batch.schema(), &mut buf).unwrap();
        let back = decode(&buf, batch.schema()).unwrap();
        let rows = back.batches[0].try_read().unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], batch);
    }

    #[test]
    fn a_large_table_is_refused() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7_i64; 2_000_000]));
        let batch = RecordBatch::try_from_iter(vec![("a", column)]).unwrap();
        let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
        let error = encode(&table, &batch.schema(), &mut vec![]).unwrap_err();
        assert!(error.to_string().contains("write it to a table first"), "{error}");
    }
}
