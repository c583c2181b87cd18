//! A data file's entry from the footer of a file that someone else wrote.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use chainalytics_common::{Error, ErrorCode, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::spec::{PrimitiveType, Schema, Type};
use object_store::ObjectStoreExt;
use parquet::arrow::async_reader::MetadataFetch;
use parquet::basic::Type as PhysicalType;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::ColumnDescriptor;

use super::partition::Folder;
use crate::maintenance::files::ListedFile;
use crate::store::{Location, StoreRegistry};
use crate::table::Table;
use crate::write::{DataFileInfo, FileContent, fill_from_footer};

/// A file ready to be added.
pub(super) struct Imported {
    pub info: DataFileInfo,
    /// Whether its columns carry field ids.
    pub has_ids: bool,
}

/// Reads a file's footer and makes its entry.
pub(super) async fn describe(table: &Table, file: ListedFile, folder: Folder) -> Result<Imported> {
    let footer = read_footer(table.store(), &file).await?;
    let schema = table.metadata().current_schema();
    let columns = footer.file_metadata().schema_descr().columns();
    let has_ids = columns.iter().any(|column| column.self_type().get_basic_info().has_id());
    let mut known = 0;
    for column in columns {
        let Some(id) = field_id(schema, column, has_ids) else { continue };
        check_column(schema, column, id, &file.uri)?;
        known += 1;
    }
    if known == 0 {
        return Err(mismatch(&file.uri, &format!("it has no column of table {}", table.ident())));
    }
    check_required(table, columns.iter().filter_map(|c| field_id(schema, c, has_ids)).collect(), &file.uri)?;
    let mut info = DataFileInfo {
        path: file.uri,
        content: FileContent::Data,
        format: "PARQUET".to_owned(),
        partition_spec_id: table.metadata().default_partition_spec_id(),
        partition: folder.values,
        record_count: 0,
        file_size_bytes: file.bytes,
        column_sizes: Default::default(),
        value_counts: Default::default(),
        null_value_counts: Default::default(),
        nan_value_counts: Default::default(),
        lower_bounds: Default::default(),
        upper_bounds: Default::default(),
        split_offsets: Vec::new(),
        sort_order_id: None,
        equality_ids: None,
        referenced_data_file: None,
        references: Vec::new(),
        content_offset: None,
        content_size_bytes: None,
    };
    fill_from_footer(&mut info, &footer, schema, &|column| field_id(schema, column, has_ids))?;
    Ok(Imported { info, has_ids })
}

pub(super) async fn read_footer(store: &Arc<StoreRegistry>, file: &ListedFile) -> Result<ParquetMetaData> {
    let location = store.resolve(&file.uri)?;
    ParquetMetaDataReader::new()
        .load_and_finish(Ranges(location), file.bytes)
        .await
        .map_err(|e| Error::new(ErrorCode::StorageRead, format!("{} cannot be read as Parquet: {e}", file.uri)))
}

/// Ranges of one file, for Parquet's footer reader.
struct Ranges(Location);

impl MetadataFetch for Ranges {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let read = self.0.store.get_range(&self.0.path, range).await;
            read.map_err(|e| ParquetError::External(Box::new(e)))
        }
        .boxed()
    }
}

/// The table's column that a file's column is: by its id, in files without ids by its name.
fn field_id(schema: &Schema, column: &ColumnDescriptor, has_ids: bool) -> Option<i32> {
    if has_ids {
        let info = column.self_type().get_basic_info();
        return info.has_id().then(|| info.id()).filter(|id| schema.field_by_id(*id).is_some());
    }
    // Parquet's extra levels of lists and maps have no name in Iceberg.
    let parts = column.path().parts();
    let name = parts
        .iter()
        .enumerate()
        .filter(|(at, part)| {
            let inner = *at > 0 && *at + 1 < parts.len();
            !(inner && matches!(part.as_str(), "list" | "key_value" | "bag" | "map" | "entries"))
        })
        .map(|(_, part)| if part == "array_element" || part == "item" { "element" } else { part.as_str() })
        .collect::<Vec<_>>()
        .join(".");
    schema.field_id_by_name(&name).or_else(|| schema.field_by_name_case_insensitive(&name).map(|field| field.id))
}

fn check_column(schema: &Schema, column: &ColumnDescriptor, id: i32, uri: &str) -> Result<()> {
    let Some(Type::Primitive(primitive)) = schema.field_by_id(id).map(|field| field.field_type.as_ref()) else {
        return Err(mismatch(uri, &format!("column '{}' is nested in the table", column.path().string())));
    };
    let physical = column.physical_type();
    let fits = match primitive {
        PrimitiveType::Boolean => physical == PhysicalType::BOOLEAN,
        PrimitiveType::Int | PrimitiveType::Date => physical == PhysicalType::INT32,
        PrimitiveType::Long => matches!(physical, PhysicalType::INT32 | PhysicalType::INT64),
        PrimitiveType::Float => physical == PhysicalType::FLOAT,
        PrimitiveType::Double => matches!(physical, PhysicalType::FLOAT | PhysicalType::DOUBLE),
        PrimitiveType::Decimal { .. } => {
            !matches!(physical, PhysicalType::BOOLEAN | PhysicalType::FLOAT | PhysicalType::DOUBLE | PhysicalType::INT96)
        }
        PrimitiveType::Time | PrimitiveType::Timestamp | PrimitiveType::Timestamptz | PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => {
            physical == PhysicalType::INT64
        }
        PrimitiveType::String | PrimitiveType::Binary => physical == PhysicalType::BYTE_ARRAY,
        PrimitiveType::Uuid | PrimitiveType::Fixed(_) => physical == PhysicalType::FIXED_LEN_BYTE_ARRAY,
    };
    if fits {
        return Ok(());
    }
    Err(mismatch(uri, &format!("column '{}' is {physical}, which no {primitive} can be read from", column.path().string())))
}

/// Columns that may not be NULL must be in the file, or be told by its folder.
fn check_required(table: &Table, present: Vec<i32>, uri: &str) -> Result<()> {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    for field in schema.as_struct().fields().iter().filter(|field| field.required && field.field_type.is_primitive()) {
        let of_folder = metadata.default_partition_spec().fields().iter().any(|part| part.source_id == field.id);
        if !present.contains(&field.id) && !of_folder {
            return Err(mismatch(uri, &format!("the required column '{}' is missing", field.name)));
        }
    }
    Ok(())
}

fn mismatch(uri: &str, what: &str) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("{uri} cannot be added: {what}"))
}
