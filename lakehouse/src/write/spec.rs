//! What a writer must know about its table: everything an executor needs, with no catalog at hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chainalytics_common::Result;
use iceberg::spec::{NullOrder, PartitionSpec, Schema, SortDirection, Transform};
use serde::{Deserialize, Serialize};

use super::delta::RowDelta;
use crate::err;
use crate::scan::MetadataColumn;
use crate::store::LentCredentials;
use crate::table::{Table, arrow_schema};

const MIB: u64 = 1024 * 1024;

/// Property: data file size to aim at, bytes (default 512 MiB, Iceberg's own).
pub const TARGET_FILE_SIZE: &str = "write.target-file-size-bytes";
/// Property: Parquet codec: `zstd` (default), `snappy`, `gzip`, `lz4`, `uncompressed`.
pub const COMPRESSION_CODEC: &str = "write.parquet.compression-codec";
/// Property: level of the codec (zstd: 3).
pub const COMPRESSION_LEVEL: &str = "write.parquet.compression-level";
/// Property: row group size to aim at, encoded bytes.
pub const ROW_GROUP_SIZE: &str = "write.parquet.row-group-size-bytes";
/// Property: rows after which a row group is closed whatever its size.
pub const ROW_GROUP_LIMIT: &str = "write.parquet.row-group-limit";
/// Property: base URI of data files instead of `<table location>/data`.
pub const DATA_PATH: &str = "write.data.path";
/// Property: files one task keeps open, one per partition value; the least recently used is closed beyond.
pub const FANOUT_MAX: &str = "write.fanout.max-open-files";

/// A column that written rows are sorted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct SortKey {
    pub column: String,
    pub descending: bool,
    pub nulls_first: bool,
}

/// Plan of a table's data files, fixed at planning time. Serialises into physical plans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct WriteSpec {
    /// Table name, for messages and metrics.
    pub table: String,
    /// Base URI of data files.
    pub data_location: String,
    /// Iceberg schema, JSON.
    pub schema_json: String,
    /// Iceberg partition spec, JSON.
    pub partition_spec_json: String,
    /// Sort order that the plan's rows are in; `None` when unsorted.
    pub sort_order_id: Option<i32>,
    /// File size to aim at, bytes.
    pub target_file_size_bytes: u64,
    /// Row group size to aim at, encoded bytes.
    pub row_group_size_bytes: u64,
    /// Rows of a row group at most.
    pub row_group_rows_max: u64,
    /// Parquet codec name.
    pub compression: String,
    /// Codec level, where the codec has one.
    pub compression_level: Option<i32>,
    /// Open files of one task at most.
    pub open_files_max: usize,
    /// Encoded bytes that one task buffers over all its open files before it flushes the largest row group.
    pub buffer_bytes_max: u64,
    /// Iceberg format version.
    pub format_version: u8,
    /// Table properties with the prefix `write.`.
    pub properties: BTreeMap<String, String>,
    /// Each task sorts its rows by these columns; empty for rows that stay as they come.
    #[serde(default)]
    pub sort: Vec<SortKey>,
    /// The rows change others rather than only come.
    #[serde(default)]
    pub row_delta: Option<RowDelta>,
    /// Credentials that the catalog lent for the table's files, as of planning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lent: Vec<LentCredentials>,
}

impl WriteSpec {
    /// Spec of the table's current schema, default partition spec and properties.
    pub fn from_table(table: &Table) -> Result<Self> {
        let metadata = table.metadata();
        let number = |key: &str, default: u64| table.property(key).and_then(|v| v.parse().ok()).unwrap_or(default);
        let data_location = match table.property(DATA_PATH) {
            Some(path) => path.trim_end_matches('/').to_owned(),
            None => format!("{}/data", table.location().trim_end_matches('/')),
        };
        Ok(Self {
            table: table.ident().to_string(),
            data_location,
            schema_json: json(metadata.current_schema().as_ref())?,
            partition_spec_json: json(metadata.default_partition_spec().as_ref())?,
            sort_order_id: None,
            target_file_size_bytes: number(TARGET_FILE_SIZE, 512 * MIB).max(MIB),
            row_group_size_bytes: number(ROW_GROUP_SIZE, 128 * MIB).max(MIB),
            row_group_rows_max: number(ROW_GROUP_LIMIT, 1_048_576).max(1024),
            compression: table.property(COMPRESSION_CODEC).unwrap_or("zstd").to_ascii_lowercase(),
            compression_level: table.property(COMPRESSION_LEVEL).and_then(|level| level.parse().ok()),
            open_files_max: usize::try_from(number(FANOUT_MAX, 64)).unwrap_or(64).clamp(1, 1024),
            buffer_bytes_max: 256 * MIB,
            format_version: table.format_version(),
            properties: table
                .properties()
                .iter()
                .filter(|(key, _)| key.starts_with("write."))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            sort: Vec::new(),
            row_delta: None,
            lent: table.store().lent_at(table.lent_prefixes())?,
        })
    }

    /// With the columns that carry rows' lineage to another file: the plan has them too.
    pub fn with_lineage(mut self) -> Result<Self> {
        let schema = self.iceberg_schema()?;
        let mut fields = schema.as_struct().fields().to_vec();
        fields.extend(MetadataColumn::LINEAGE.iter().filter_map(|column| column.stored_field()).map(Arc::new));
        let identifiers = schema.identifier_field_ids();
        let schema = Schema::builder().with_schema_id(schema.schema_id()).with_fields(fields).with_identifier_field_ids(identifiers);
        self.schema_json = json(&schema.build().map_err(err::iceberg)?)?;
        Ok(self)
    }

    /// Sorted as the table's sort order says, as far as an order of columns is that order: a transform that keeps the
    /// order of its column may stand last. Identity partitions come first, so that few files are open at a time.
    pub fn in_table_order(mut self, table: &Table) -> Self {
        let metadata = table.metadata();
        let schema = metadata.current_schema();
        let order = metadata.default_sort_order();
        let last = order.fields.len().saturating_sub(1);
        let name = |id: i32| schema.as_struct().fields().iter().find(|f| f.id == id).map(|f| f.name.clone());
        let keys: Option<Vec<SortKey>> = order
            .fields
            .iter()
            .enumerate()
            .map(|(at, field)| {
                let ordered = match field.transform {
                    Transform::Identity => true,
                    Transform::Year | Transform::Month | Transform::Day | Transform::Hour | Transform::Truncate(_) => at == last,
                    _ => false,
                };
                Some(SortKey {
                    column: name(field.source_id).filter(|_| ordered)?,
                    descending: field.direction == SortDirection::Descending,
                    nulls_first: field.null_order == NullOrder::First,
                })
            })
            .collect();
        let (Some(keys), false) = (keys, order.fields.is_empty()) else { return self };
        let partition = table.partition_fields().into_iter().filter(|field| field.transform == "identity");
        self.sort = partition
            .map(|field| SortKey { column: field.source, descending: false, nulls_first: true })
            .filter(|first| keys.iter().all(|key| key.column != first.column))
            .collect();
        self.sort.extend(keys);
        self.sort_order_id = i32::try_from(metadata.default_sort_order_id()).ok();
        self
    }

    /// Schema that written batches are cast to, with field ids.
    pub fn arrow_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(arrow_schema::to_arrow(&self.iceberg_schema()?)?))
    }

    pub(crate) fn iceberg_schema(&self) -> Result<Schema> {
        serde_json::from_str(&self.schema_json).map_err(|e| err::internal(format!("write spec's schema: {e}")))
    }

    pub(crate) fn partition_spec(&self) -> Result<PartitionSpec> {
        serde_json::from_str(&self.partition_spec_json).map_err(|e| err::internal(format!("write spec's partition spec: {e}")))
    }
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| err::internal(format!("metadata does not serialise: {e}")))
}
