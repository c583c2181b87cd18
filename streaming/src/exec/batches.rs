//! Decoded chunks to batches of the bronze tables.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;

use chainalytics_common::Result;

use super::spec::IngestSpec;
use crate::batch::Unit;
use crate::decode::{Decoded, RecordChunk, Reject};
use crate::err;

/// Lineage that all rows of a batch share.
pub(super) struct BatchLineage {
    batch_id: i64,
    run_id: String,
    ingested_at_us: i64,
}

impl BatchLineage {
    pub(super) fn new(spec: &IngestSpec) -> Self {
        Self { batch_id: spec.batch_id, run_id: spec.run_id.clone(), ingested_at_us: spec.ingested_at_us }
    }

    /// The batch of accepted records; `None` if there are none.
    pub(super) fn accepted(&self, schema: &SchemaRef, unit: &Unit, chunk: &RecordChunk, decoded: &Decoded) -> Result<Option<RecordBatch>> {
        let rows = decoded.accepted.as_ref().map_or(chunk.len(), Vec::len);
        if rows == 0 {
            return Ok(None);
        }
        let mut columns = decoded.columns.clone();
        let (offsets, timestamps): (Vec<i64>, Vec<i64>) = match &decoded.accepted {
            None => (chunk.offsets().to_vec(), chunk.timestamps_ms().to_vec()),
            Some(accepted) => accepted.iter().map(|row| (chunk.offsets()[*row as usize], chunk.timestamps_ms()[*row as usize])).unzip(),
        };
        columns.push(repeated(&unit.topic, rows));
        columns.push(Arc::new(Int32Array::from_value(unit.partition, rows)));
        columns.push(Arc::new(Int64Array::from(offsets)));
        columns.push(kafka_timestamps(timestamps));
        self.push_common(&mut columns, rows);
        RecordBatch::try_new(Arc::clone(schema), columns).map(Some).map_err(|e| err::internal(format!("bronze batch of topic '{}': {e}", unit.topic)))
    }

    /// The batch of rejected records: key and value as they came, and why they are no rows.
    pub(super) fn rejected(&self, schema: &SchemaRef, unit: &Unit, chunk: &RecordChunk, rejected: &[Reject]) -> Result<RecordBatch> {
        let rows = rejected.len();
        let (mut keys, mut values) = (BinaryBuilder::new(), BinaryBuilder::new());
        let (mut codes, mut errors) = (StringBuilder::new(), StringBuilder::new());
        let mut offsets = Vec::with_capacity(rows);
        let mut timestamps = Vec::with_capacity(rows);
        for reject in rejected {
            let row = reject.row as usize;
            keys.append_option(chunk.key(row));
            values.append_option(chunk.value(row));
            codes.append_value(reject.code.as_str());
            errors.append_value(&reject.error);
            offsets.push(chunk.offsets()[row]);
            timestamps.push(chunk.timestamps_ms()[row]);
        }
        let schema_ids: Int32Array = rejected.iter().map(|reject| reject.schema_id).collect();
        let mut columns: Vec<ArrayRef> = vec![
            repeated(&unit.topic, rows),
            Arc::new(Int32Array::from_value(unit.partition, rows)),
            Arc::new(Int64Array::from(offsets)),
            Arc::new(keys.finish()),
            Arc::new(values.finish()),
            Arc::new(codes.finish()),
            Arc::new(errors.finish()),
            Arc::new(schema_ids),
            kafka_timestamps(timestamps),
        ];
        self.push_common(&mut columns, rows);
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| err::internal(format!("dead letters of topic '{}': {e}", unit.topic)))
    }

    fn push_common(&self, columns: &mut Vec<ArrayRef>, rows: usize) {
        columns.push(Arc::new(Int64Array::from_value(self.batch_id, rows)));
        columns.push(repeated(&self.run_id, rows));
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(self.ingested_at_us, rows).with_timezone("UTC")));
    }
}

/// One text in every row.
fn repeated(text: &str, rows: usize) -> ArrayRef {
    let offsets = OffsetBuffer::from_repeated_length(text.len(), rows);
    let mut bytes = Vec::with_capacity(text.len() * rows);
    for _ in 0..rows {
        bytes.extend_from_slice(text.as_bytes());
    }
    Arc::new(StringArray::new(offsets, bytes.into(), None))
}

/// Milliseconds to microseconds; a negative time means that there is none.
fn kafka_timestamps(mut timestamps_ms: Vec<i64>) -> ArrayRef {
    let nulls = timestamps_ms.iter().any(|at| *at < 0).then(|| timestamps_ms.iter().map(|at| *at >= 0).collect::<NullBuffer>());
    for at in &mut timestamps_ms {
        *at = at.saturating_mul(1000);
    }
    Arc::new(TimestampMicrosecondArray::new(ScalarBuffer::from(timestamps_ms), nulls).with_timezone("UTC"))
}
