//! What an executor must know to read data files, and the units that its tasks share.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema as ArrowSchema, SchemaRef};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DfResult;
use datafusion::physical_plan::ExecutionPlan;
use iceberg::spec::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use chainalytics_common::Result;

use crate::err;
use crate::scan::build::change_fields;
use crate::scan::changes::Change;
use crate::scan::deletes::DeleteRef;
use crate::scan::metadata_columns::{Lineage, MetadataColumn};
use crate::scan::partition_column::PartitionColumn;
use crate::scan::provider::without_metadata;
use crate::table::arrow_schema;

/// A column of the operator's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Column of the spec's schema, by index.
    Column(usize),
    Metadata(MetadataColumn),
    /// Columns of the change log.
    ChangeType,
    ChangeOrdinal,
    CommitSnapshot,
}

/// How to read; the same for all units.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadSpec {
    /// Table name, for messages.
    pub table: String,
    /// Columns to read: those of the output and those that equality deletes compare. Top-level fields only.
    pub schema: Schema,
    pub outputs: Vec<Output>,
    /// Whether files may have other names or nested types than the schema: then their own schemas are consulted.
    #[serde(default)]
    pub by_id: bool,
    /// Names by field id in files without ids, where they may differ from the schema's.
    #[serde(default)]
    pub names: Option<BTreeMap<i32, Vec<String>>>,
    /// The fields of `_partition`, if it is an output.
    #[serde(default)]
    pub partition: Option<PartitionColumn>,
    /// Whether no row of the units was deleted.
    #[serde(default)]
    pub undeleted: bool,
    /// Condition on the output that lets row groups and pages be skipped: a `PhysicalExprNode`, only on the wire.
    #[serde(default)]
    pub filter: Option<Vec<u8>>,
    /// Rows after which a partition may stop.
    #[serde(default)]
    pub fetch: Option<usize>,
    /// Rows of all units before deletes.
    pub rows: u64,
    /// Stored bytes of all units.
    pub bytes: u64,
}

impl ReadSpec {
    /// The schema's columns as Arrow fields, without field ids.
    pub fn columns(&self) -> Result<Vec<FieldRef>> {
        let arrow = arrow_schema::to_arrow(&self.schema)?;
        Ok(arrow.fields().iter().map(|f| Arc::new(without_metadata(f))).collect())
    }

    /// Schema of the operator's rows.
    pub fn output_schema(&self) -> Result<SchemaRef> {
        let columns = self.columns()?;
        let fields: Vec<FieldRef> = self
            .outputs
            .iter()
            .map(|output| match output {
                Output::Column(at) => columns.get(*at).cloned().ok_or_else(|| err::internal("a read of a column that is not there")),
                Output::Metadata(column) => column.field(self.partition.as_ref()),
                Output::ChangeType => Ok(Arc::clone(&change_fields()[0])),
                Output::ChangeOrdinal => Ok(Arc::clone(&change_fields()[1])),
                Output::CommitSnapshot => Ok(Arc::clone(&change_fields()[2])),
            })
            .collect::<Result<_>>()?;
        Ok(Arc::new(ArrowSchema::new(fields)))
    }
}

/// A data file, or whole row groups of one, with what was deleted from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadUnit {
    pub path: String,
    /// Size of the file, bytes.
    pub size: u64,
    /// Bytes `[start, end)` whose row groups are read; `None` reads all.
    #[serde(default)]
    pub range: Option<(i64, i64)>,
    /// Values by field id, Iceberg's JSON, of columns that an imported file lacks because its folder tells them.
    #[serde(default)]
    pub constants: BTreeMap<i32, Value>,
    #[serde(default)]
    pub deletes: Vec<DeleteRef>,
    #[serde(default)]
    pub spec_id: i32,
    /// What rows inherit that hold no lineage of their own; `None` if they have none.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// The file's values of `_partition`, if it is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<Value>,
    /// Only rows that one of these deletes are given; empty gives all.
    #[serde(default)]
    pub among: Vec<DeleteRef>,
    /// What happened to the rows, in a read of changes.
    #[serde(default)]
    pub change: Option<Change>,
}

/// Schema of a unit row: `unit` Utf8, JSON.
fn unit_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(ArrowSchema::new(vec![Field::new("unit", DataType::Utf8, false)])));
    Arc::clone(&SCHEMA)
}

/// A memory source with one partition per group: a leaf that the scheduler knows how to divide among tasks.
pub fn unit_source(groups: &[Vec<ReadUnit>]) -> Result<Arc<dyn ExecutionPlan>> {
    let partitions = groups
        .iter()
        .map(|group| {
            let units: Vec<String> = group
                .iter()
                .map(|unit| serde_json::to_string(unit).map_err(|e| err::internal(format!("a unit of a scan: {e}"))))
                .collect::<Result<_>>()?;
            let batch = RecordBatch::try_new(unit_schema(), vec![Arc::new(StringArray::from(units))]);
            Ok(vec![batch.map_err(err::arrow)?])
        })
        .collect::<Result<Vec<_>>>()?;
    let source: DfResult<_> = MemorySourceConfig::try_new_exec(&partitions, unit_schema(), None);
    Ok(source.map_err(chainalytics_common::Error::from_datafusion)?)
}

/// Units of a batch that [`unit_source`] made.
pub(super) fn from_batch(batch: &RecordBatch) -> Result<Vec<ReadUnit>> {
    let malformed = |why: &dyn std::fmt::Display| err::internal(format!("a batch of units does not parse: {why}"));
    let texts = batch.columns().first().and_then(|c| c.as_string_opt::<i32>()).ok_or_else(|| malformed(&"columns"))?;
    (0..texts.len()).map(|row| serde_json::from_str(texts.value(row)).map_err(|e| malformed(&e))).collect()
}
