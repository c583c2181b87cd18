//! A data file as executors report it: everything that its manifest entry will say.

use std::collections::{BTreeMap, HashMap};

use chainalytics_common::Result;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Literal, PrimitiveType, Schema, Struct, StructType, Type};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::err;
use crate::scan::deletes::{DELETE_FILE_PATH_ID, DELETE_POSITION_ID};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileContent {
    #[default]
    Data,
    /// Positions of deleted rows, or a deletion vector.
    PositionDeletes,
    EqualityDeletes,
}

/// One Parquet data file (or delete file) that a writer has closed. Crosses the wire as JSON, one row per file.
///
/// Column maps are keyed by Iceberg field id. Bounds are Iceberg's binary single-value serialisation
/// (spec, Appendix D) in hexadecimal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFileInfo {
    /// Full URI.
    pub path: String,
    #[serde(default)]
    pub content: FileContent,
    /// `PARQUET` for files that we write, `PUFFIN` for deletion vectors.
    pub format: String,
    /// Partition spec that `partition` belongs to.
    pub partition_spec_id: i32,
    /// Partition values in the order of the spec's fields, Iceberg's JSON single-value serialisation; `null` for null.
    pub partition: Vec<Value>,
    /// Rows.
    pub record_count: u64,
    /// Size of the whole file, bytes.
    pub file_size_bytes: u64,
    /// Compressed bytes per column.
    #[serde(default)]
    pub column_sizes: BTreeMap<i32, u64>,
    /// Values per column, nulls included.
    #[serde(default)]
    pub value_counts: BTreeMap<i32, u64>,
    /// Nulls per column.
    #[serde(default)]
    pub null_value_counts: BTreeMap<i32, u64>,
    /// NaNs per column; absent where the footer does not tell.
    #[serde(default)]
    pub nan_value_counts: BTreeMap<i32, u64>,
    /// Lower bounds, hexadecimal.
    #[serde(default)]
    pub lower_bounds: BTreeMap<i32, String>,
    /// Upper bounds, hexadecimal.
    #[serde(default)]
    pub upper_bounds: BTreeMap<i32, String>,
    /// Byte offsets of the row groups.
    #[serde(default)]
    pub split_offsets: Vec<i64>,
    /// Sort order the rows are in, if any.
    #[serde(default)]
    pub sort_order_id: Option<i32>,
    /// Columns of equality deletes, field ids.
    #[serde(default)]
    pub equality_ids: Option<Vec<i32>>,
    /// The only data file that position deletes refer to.
    #[serde(default)]
    pub referenced_data_file: Option<String>,
    /// All data files that position deletes refer to; not part of the manifest.
    #[serde(default)]
    pub references: Vec<String>,
    /// Place of a deletion vector in its file, bytes.
    #[serde(default)]
    pub content_offset: Option<i64>,
    #[serde(default)]
    pub content_size_bytes: Option<i64>,
}

impl DataFileInfo {
    /// Reads one row of a write plan's output.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| err::internal(format!("a data file row does not parse: {e}")))
    }

    /// The row of a write plan's output.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| err::internal(format!("a data file does not serialise: {e}")))
    }

    /// Manifest form. `partition_type` is that of the spec `self.partition_spec_id`.
    pub(crate) fn to_iceberg(&self, schema: &Schema, partition_type: &StructType) -> Result<DataFile> {
        let mut builder = DataFileBuilder::default();
        builder
            .content(match self.content {
                FileContent::Data => DataContentType::Data,
                FileContent::PositionDeletes => DataContentType::PositionDeletes,
                FileContent::EqualityDeletes => DataContentType::EqualityDeletes,
            })
            .file_path(self.path.clone())
            .file_format(self.format.parse::<DataFileFormat>().map_err(err::iceberg)?)
            .partition(partition_struct(&self.partition, partition_type)?)
            .partition_spec_id(self.partition_spec_id)
            .record_count(self.record_count)
            .file_size_in_bytes(self.file_size_bytes)
            .column_sizes(self.column_sizes.clone().into_iter().collect())
            .value_counts(self.value_counts.clone().into_iter().collect())
            .null_value_counts(self.null_value_counts.clone().into_iter().collect())
            .nan_value_counts(self.nan_value_counts.clone().into_iter().collect())
            .lower_bounds(bounds(&self.lower_bounds, schema)?)
            .upper_bounds(bounds(&self.upper_bounds, schema)?)
            .split_offsets((!self.split_offsets.is_empty()).then(|| self.split_offsets.clone()))
            .equality_ids(self.equality_ids.clone())
            .referenced_data_file(self.referenced_data_file.clone())
            .content_offset(self.content_offset)
            .content_size_in_bytes(self.content_size_bytes);
        if let Some(order) = self.sort_order_id {
            builder.sort_order_id(order);
        }
        builder.build().map_err(|e| err::internal(format!("incomplete data file {}: {e}", self.path)))
    }

    /// Our form of a manifest entry's data file.
    pub(crate) fn from_iceberg(file: &DataFile, spec_id: i32, partition_type: &StructType) -> Result<Self> {
        Ok(Self {
            path: file.file_path().to_owned(),
            content: match file.content_type() {
                DataContentType::Data => FileContent::Data,
                DataContentType::PositionDeletes => FileContent::PositionDeletes,
                DataContentType::EqualityDeletes => FileContent::EqualityDeletes,
            },
            format: file.file_format().to_string().to_uppercase(),
            partition_spec_id: spec_id,
            partition: partition_json(file.partition(), partition_type)?,
            record_count: file.record_count(),
            file_size_bytes: file.file_size_in_bytes(),
            column_sizes: sorted(file.column_sizes()),
            value_counts: sorted(file.value_counts()),
            null_value_counts: sorted(file.null_value_counts()),
            nan_value_counts: sorted(file.nan_value_counts()),
            lower_bounds: hex_bounds(file.lower_bounds())?,
            upper_bounds: hex_bounds(file.upper_bounds())?,
            split_offsets: file.split_offsets().unwrap_or_default().to_vec(),
            sort_order_id: file.sort_order_id(),
            equality_ids: file.equality_ids(),
            referenced_data_file: file.referenced_data_file(),
            references: Vec::new(),
            content_offset: file.content_offset(),
            content_size_bytes: file.content_size_in_bytes(),
        })
    }
}

fn sorted(map: &HashMap<i32, u64>) -> BTreeMap<i32, u64> {
    map.iter().map(|(id, count)| (*id, *count)).collect()
}

fn partition_struct(values: &[Value], partition_type: &StructType) -> Result<Struct> {
    let fields = partition_type.fields();
    if values.len() != fields.len() {
        return Err(err::internal(format!("{} partition values for {} fields", values.len(), fields.len())));
    }
    let literals: Vec<Option<Literal>> = values
        .iter()
        .zip(fields)
        .map(|(value, field)| match value {
            Value::Null => Ok(None),
            value => Literal::try_from_json(value.clone(), &field.field_type).map_err(err::iceberg),
        })
        .collect::<Result<_>>()?;
    Ok(Struct::from_iter(literals))
}

/// Partition values as Iceberg's JSON.
pub(crate) fn partition_json(partition: &Struct, partition_type: &StructType) -> Result<Vec<Value>> {
    partition
        .iter()
        .zip(partition_type.fields())
        .map(|(literal, field)| match literal {
            None => Ok(Value::Null),
            Some(literal) => literal.clone().try_into_json(&field.field_type).map_err(err::iceberg),
        })
        .collect()
}

fn bounds(bounds: &BTreeMap<i32, String>, schema: &Schema) -> Result<HashMap<i32, Datum>> {
    let mut decoded = HashMap::with_capacity(bounds.len());
    for (id, hex) in bounds {
        let reserved = match *id {
            DELETE_FILE_PATH_ID => Some(&PrimitiveType::String),
            DELETE_POSITION_ID => Some(&PrimitiveType::Long),
            _ => None,
        };
        // A column that was dropped between write and commit keeps no bounds.
        let of_schema = || match schema.field_by_id(*id)?.field_type.as_ref() {
            Type::Primitive(primitive) => Some(primitive),
            _ => None,
        };
        let Some(primitive) = reserved.or_else(of_schema) else { continue };
        decoded.insert(*id, datum(&from_hex(hex)?, primitive)?);
    }
    Ok(decoded)
}

fn datum(bytes: &[u8], primitive: &PrimitiveType) -> Result<Datum> {
    Datum::try_from_bytes(bytes, primitive.clone()).map_err(err::iceberg)
}

fn hex_bounds(bounds: &HashMap<i32, Datum>) -> Result<BTreeMap<i32, String>> {
    bounds.iter().map(|(id, datum)| Ok((*id, to_hex(&datum.to_bytes().map_err(err::iceberg)?)))).collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

pub(crate) fn from_hex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(err::internal("a bound is not hexadecimal"));
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| err::internal("a bound is not hexadecimal"))).collect()
}
