use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::DataFileInfo;

use crate::batch::Unit;
use crate::err;

const DATA: &str = "data";
const DEAD_LETTER: &str = "dead_letter";
const CONSUMED: &str = "consumed";
const FAILED: &str = "failed";

/// Schema of the operator's rows.
///
/// `target`: `data` or `dead_letter` for a data file, `consumed` for a unit that was read to its end, `failed` for a task
/// that could not do its work. `table`: the file's table, the unit's topic. `data_file`: JSON of the file, else null.
/// `rows`, `bytes`: of the file, or the records read. `unit`: JSON of [`ConsumedUnit`] or [`TaskFailure`], else null.
pub fn report_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("target", DataType::Utf8, false),
            Field::new("table", DataType::Utf8, false),
            Field::new("data_file", DataType::Utf8, true),
            Field::new("rows", DataType::Int64, false),
            Field::new("bytes", DataType::Int64, false),
            Field::new("unit", DataType::Utf8, true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

/// What reading one unit came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumedUnit {
    /// The unit; its range was read completely.
    pub unit: Unit,
    /// Records read: accepted, rejected, skipped and settled.
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Records that became rows.
    pub accepted: u64,
    /// Records that became dead letters, by code.
    pub rejected: BTreeMap<String, u64>,
    /// Records that are neither, as they were to be skipped, by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// Records that an earlier attempt at the batch had made dead letters.
    #[serde(default)]
    pub settled: u64,
    /// Earliest event time among the accepted, microseconds since the epoch.
    pub event_time_min_us: Option<i64>,
    /// Latest event time among the accepted.
    pub event_time_max_us: Option<i64>,
    /// Time the reader had nothing to read, milliseconds.
    pub idle_ms: u64,
}

impl ConsumedUnit {
    /// Records that became dead letters.
    pub fn rejected_rows(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Records that were skipped.
    pub fn skipped_rows(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Positions without a record: control records, aborted ones, and what compaction removed.
    pub fn holes(&self) -> u64 {
        self.unit.len().saturating_sub(self.records)
    }
}

/// Why a task could not do its work. It travels as a row: an error would reach the driver as text without its code,
/// after the cluster had tried the task again in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// Stable code of the error.
    pub code: String,
    /// Its message.
    pub message: String,
    /// The writer's schema that the table must be given columns for first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<NewerSchema>,
}

/// A writer's schema with fields that a topic's table has no columns for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewerSchema {
    /// Topic.
    pub topic: String,
    /// The registry's id.
    pub schema_id: i32,
}

/// A data file and the table that it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenFile {
    /// Name of the table as its write spec has it.
    pub table: String,
    /// The file.
    pub file: DataFileInfo,
}

/// What a batch's tasks came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskReport {
    /// Files of bronze tables.
    pub data: Vec<WrittenFile>,
    /// Files of the dead-letter table.
    pub dead_letters: Vec<WrittenFile>,
    /// Units.
    pub consumed: Vec<ConsumedUnit>,
    /// Failures: if there is one, nothing may be committed.
    pub failures: Vec<TaskFailure>,
}

impl TaskReport {
    /// Report of a task that failed.
    pub(super) fn failed(error: &Error) -> Self {
        let (code, message) = (error.code().as_str().to_owned(), error.message().to_owned());
        Self { failures: vec![TaskFailure { code, message, newer: None }], ..Self::default() }
    }

    /// Report of a task that cannot go on before the table has columns for `newer`.
    pub(super) fn behind(newer: NewerSchema) -> Self {
        let message = format!("schema {} of topic '{}' has fields that the table lacks", newer.schema_id, newer.topic);
        let code = ErrorCode::SchemaMismatch.as_str().to_owned();
        Self { failures: vec![TaskFailure { code, message, newer: Some(newer) }], ..Self::default() }
    }

    pub(super) fn to_batch(&self) -> Result<RecordBatch> {
        let mut rows = Rows::default();
        for (target, files) in [(DATA, &self.data), (DEAD_LETTER, &self.dead_letters)] {
            for written in files {
                rows.target.push(target);
                rows.table.push(written.table.clone());
                rows.data_file.push(Some(written.file.to_json()?));
                rows.rows.push(signed(written.file.record_count));
                rows.bytes.push(signed(written.file.file_size_bytes));
                rows.unit.push(None);
            }
        }
        for consumed in &self.consumed {
            rows.target.push(CONSUMED);
            rows.table.push(consumed.unit.topic.clone());
            rows.data_file.push(None);
            rows.rows.push(signed(consumed.records));
            rows.bytes.push(signed(consumed.bytes));
            rows.unit.push(Some(serde_json::to_string(consumed).map_err(|e| err::internal(format!("unit: {e}")))?));
        }
        for failure in &self.failures {
            rows.target.push(FAILED);
            rows.table.push(String::new());
            rows.data_file.push(None);
            rows.rows.push(0);
            rows.bytes.push(0);
            rows.unit.push(Some(serde_json::to_string(failure).map_err(|e| err::internal(format!("failure: {e}")))?));
        }
        rows.into_batch()
    }

    /// Paths of all files, to delete them if the batch is not committed.
    pub fn paths(&self) -> Vec<String> {
        self.data.iter().chain(&self.dead_letters).map(|written| written.file.path.clone()).collect()
    }
}

#[derive(Default)]
struct Rows {
    target: Vec<&'static str>,
    table: Vec<String>,
    data_file: Vec<Option<String>>,
    rows: Vec<i64>,
    bytes: Vec<i64>,
    unit: Vec<Option<String>>,
}

impl Rows {
    fn into_batch(self) -> Result<RecordBatch> {
        let columns = vec![
            Arc::new(StringArray::from(self.target)) as _,
            Arc::new(StringArray::from(self.table)) as _,
            Arc::new(StringArray::from(self.data_file)) as _,
            Arc::new(Int64Array::from(self.rows)) as _,
            Arc::new(Int64Array::from(self.bytes)) as _,
            Arc::new(StringArray::from(self.unit)) as _,
        ];
        RecordBatch::try_new(report_schema(), columns).map_err(|e| err::internal(format!("task report: {e}")))
    }
}

/// Puts the operator's rows together again, and checks each file's row against what it says of itself.
pub fn read_reports(batches: &[RecordBatch]) -> Result<TaskReport> {
    let malformed = || err::internal("a task report has other columns than it should");
    let mut report = TaskReport::default();
    for batch in batches {
        if batch.num_columns() != report_schema().fields().len() {
            return Err(malformed());
        }
        let text = |column: usize| batch.column(column).as_string_opt::<i32>().ok_or_else(malformed);
        let (targets, tables, files, units) = (text(0)?, text(1)?, text(2)?, text(5)?);
        let rows = batch.column(3).as_primitive_opt::<Int64Type>().ok_or_else(malformed)?;
        for row in 0..batch.num_rows() {
            match targets.value(row) {
                CONSUMED if units.is_valid(row) => {
                    let unit = serde_json::from_str(units.value(row)).map_err(|e| err::internal(format!("unit: {e}")))?;
                    report.consumed.push(unit);
                }
                FAILED if units.is_valid(row) => {
                    let failure = serde_json::from_str(units.value(row)).map_err(|e| err::internal(format!("failure: {e}")))?;
                    report.failures.push(failure);
                }
                target @ (DATA | DEAD_LETTER) if files.is_valid(row) => {
                    let file = DataFileInfo::from_json(files.value(row))?;
                    if signed(file.record_count) != rows.value(row) {
                        return Err(malformed());
                    }
                    let written = WrittenFile { table: tables.value(row).to_owned(), file };
                    if target == DATA { report.data.push(written) } else { report.dead_letters.push(written) }
                }
                _ => return Err(malformed()),
            }
        }
    }
    Ok(report)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
