use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DfResult;
use datafusion::physical_plan::ExecutionPlan;

use chainalytics_common::Result;

use crate::batch::Unit;
use crate::err;

/// Schema of a unit row: `topic` Utf8, `partition` Int32, `start_offset` Int64, `end_offset` Int64 (not covered).
pub fn unit_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("topic", DataType::Utf8, false),
            Field::new("partition", DataType::Int32, false),
            Field::new("start_offset", DataType::Int64, false),
            Field::new("end_offset", DataType::Int64, false),
        ]))
    });
    Arc::clone(&SCHEMA)
}

/// A memory source with one partition per group: a leaf that the scheduler knows how to divide among tasks.
pub fn unit_source(groups: &[Vec<Unit>]) -> DfResult<Arc<dyn ExecutionPlan>> {
    let partitions = groups.iter().map(|group| Ok(vec![to_batch(group)?])).collect::<DfResult<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(&partitions, unit_schema(), None)?)
}

fn to_batch(units: &[Unit]) -> DfResult<RecordBatch> {
    let topics: StringArray = units.iter().map(|unit| Some(unit.topic.as_str())).collect();
    let partitions: Int32Array = units.iter().map(|unit| unit.partition).collect();
    let starts: Int64Array = units.iter().map(|unit| unit.start).collect();
    let ends: Int64Array = units.iter().map(|unit| unit.end).collect();
    let columns = vec![Arc::new(topics) as _, Arc::new(partitions) as _, Arc::new(starts) as _, Arc::new(ends) as _];
    Ok(RecordBatch::try_new(unit_schema(), columns)?)
}

/// Units of a batch that [`unit_source`] made.
pub(super) fn from_batch(batch: &RecordBatch) -> Result<Vec<Unit>> {
    let malformed = || err::internal("a batch of units has other columns than it should");
    if batch.num_columns() != 4 {
        return Err(malformed());
    }
    let topics = batch.column(0).as_string_opt::<i32>().ok_or_else(malformed)?;
    let partitions = batch.column(1).as_primitive_opt::<Int32Type>().ok_or_else(malformed)?;
    let starts = batch.column(2).as_primitive_opt::<Int64Type>().ok_or_else(malformed)?;
    let ends = batch.column(3).as_primitive_opt::<Int64Type>().ok_or_else(malformed)?;
    Ok((0..topics.len())
        .map(|row| Unit { topic: topics.value(row).to_owned(), partition: partitions.value(row), start: starts.value(row), end: ends.value(row) })
        .collect())
}
