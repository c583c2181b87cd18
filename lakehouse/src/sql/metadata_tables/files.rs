//! `files`, `data_files`, `delete_files`, `entries` and their `all_` forms: rows of manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use iceberg::spec::{DataContentType, DataFile, ManifestEntryRef, ManifestStatus, PrimitiveType, Schema, Type};

use chainalytics_common::Result;

use super::columns::{Named, batch, blobs, bound_maps, count_maps, int_lists, ints, long_lists, longs, named, scalars, signed, structs, texts};
use super::manifests::{Reach, manifest_files};
use super::partition::PartitionFields;
use crate::scan::files::RowIds;
use crate::scan::values::literal_to_scalar;
use crate::table::Table;
use crate::table::arrow_schema::arrow_primitive;

/// Manifests read at the same time.
const MANIFEST_READS: usize = 16;

/// One row of a manifest with the values it inherits.
pub struct Row {
    pub entry: ManifestEntryRef,
    pub spec_id: i32,
    pub sequence_number: i64,
    pub snapshot_id: i64,
    /// Row id of the file's first row.
    pub first_row_id: Option<i64>,
}

impl Row {
    pub fn file(&self) -> &DataFile {
        self.entry.data_file()
    }
}

/// Which files a table lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    All,
    Data,
    Deletes,
}

/// The rows of the reachable manifests; `live`: without those of removed files.
pub async fn rows(table: &Table, reach: Reach, live: bool) -> Result<Vec<Row>> {
    let files = manifest_files(table, reach).await?;
    let mut rows = Vec::new();
    for chunk in files.chunks(MANIFEST_READS) {
        let manifests = futures::future::try_join_all(chunk.iter().map(|(_, file)| table.manifest(file))).await?;
        for ((_, file), manifest) in chunk.iter().zip(manifests) {
            let mut row_ids = RowIds::of(file);
            for entry in manifest.entries() {
                let first_row_id = row_ids.next(entry);
                if live && !entry.is_alive() {
                    continue;
                }
                rows.push(Row {
                    first_row_id,
                    entry: Arc::clone(entry),
                    spec_id: file.partition_spec_id,
                    sequence_number: entry.sequence_number().unwrap_or(file.sequence_number),
                    snapshot_id: entry.snapshot_id().unwrap_or(file.added_snapshot_id),
                });
            }
        }
    }
    Ok(rows)
}

pub async fn files(table: &Table, reach: Reach, content: Content) -> Result<RecordBatch> {
    let mut rows = rows(table, reach, true).await?;
    rows.retain(|row| match content {
        Content::All => true,
        Content::Data => row.file().content_type() == DataContentType::Data,
        Content::Deletes => row.file().content_type() != DataContentType::Data,
    });
    let mut columns = file_columns(table, &rows)?;
    columns.push(named("readable_metrics", readable_metrics(table, &rows)?));
    batch(columns)
}

pub async fn entries(table: &Table, reach: Reach) -> Result<RecordBatch> {
    let rows = rows(table, reach, false).await?;
    let status = |row: &Row| match row.entry.status() {
        ManifestStatus::Existing => 0,
        ManifestStatus::Added => 1,
        ManifestStatus::Deleted => 2,
    };
    let sequence = |row: &Row| row.entry.file_sequence_number.or(Some(row.sequence_number));
    batch(vec![
        named("status", ints(rows.iter().map(|row| Some(status(row))))),
        named("snapshot_id", longs(rows.iter().map(|row| Some(row.snapshot_id)))),
        named("sequence_number", longs(rows.iter().map(|row| Some(row.sequence_number)))),
        named("file_sequence_number", longs(rows.iter().map(sequence))),
        named("data_file", structs(file_columns(table, &rows)?, rows.len())),
        named("readable_metrics", readable_metrics(table, &rows)?),
    ])
}

fn file_columns(table: &Table, rows: &[Row]) -> Result<Vec<Named>> {
    let content = |file: &DataFile| match file.content_type() {
        DataContentType::Data => 0,
        DataContentType::PositionDeletes => 1,
        DataContentType::EqualityDeletes => 2,
    };
    let files = || rows.iter().map(Row::file);
    let partition = PartitionFields::new(table.metadata())?;
    let mut columns = vec![
        named("content", ints(files().map(|f| Some(content(f))))),
        named("file_path", texts(files().map(|f| Some(f.file_path().to_owned())))),
        named("file_format", texts(files().map(|f| Some(f.file_format().to_string().to_uppercase())))),
        named("spec_id", ints(rows.iter().map(|row| Some(row.spec_id)))),
    ];
    if !partition.is_empty() {
        let values: Vec<_> = rows.iter().map(|row| partition.values(row.file(), row.spec_id)).collect();
        columns.push(named("partition", partition.column(&values)?));
    }
    let bounds = |upper: bool| {
        bound_maps(files().map(|f| {
            let bounds = if upper { f.upper_bounds() } else { f.lower_bounds() };
            bounds.iter().filter_map(|(id, datum)| Some((*id, datum.to_bytes().ok()?.into_vec()))).collect::<BTreeMap<_, _>>()
        }))
    };
    columns.extend([
        named("record_count", longs(files().map(|f| signed(f.record_count())))),
        named("file_size_in_bytes", longs(files().map(|f| signed(f.file_size_in_bytes())))),
        named("column_sizes", count_maps(files().map(DataFile::column_sizes))?),
        named("value_counts", count_maps(files().map(DataFile::value_counts))?),
        named("null_value_counts", count_maps(files().map(DataFile::null_value_counts))?),
        named("nan_value_counts", count_maps(files().map(DataFile::nan_value_counts))?),
        named("lower_bounds", bounds(false)?),
        named("upper_bounds", bounds(true)?),
        named("key_metadata", blobs(files().map(|f| f.key_metadata().map(<[u8]>::to_vec)))),
        named("split_offsets", long_lists(files().map(DataFile::split_offsets))),
        named("equality_ids", int_lists(files().map(DataFile::equality_ids))),
        named("sort_order_id", ints(files().map(DataFile::sort_order_id))),
        named("first_row_id", longs(rows.iter().map(|row| row.first_row_id))),
        named("referenced_data_file", texts(files().map(DataFile::referenced_data_file))),
        named("content_offset", longs(files().map(DataFile::content_offset))),
        named("content_size_in_bytes", longs(files().map(DataFile::content_size_in_bytes))),
    ]);
    Ok(columns)
}

/// The metrics of each primitive column by its name, bounds as values of its type.
fn readable_metrics(table: &Table, rows: &[Row]) -> Result<ArrayRef> {
    let schema = table.metadata().current_schema();
    let mut columns: Vec<Named> = Vec::new();
    for (name, id, primitive) in leaves(schema) {
        let data_type = arrow_primitive(&primitive)?;
        let count = |of: fn(&DataFile) -> &std::collections::HashMap<i32, u64>| {
            longs(rows.iter().map(|row| of(row.file()).get(&id).and_then(|n| signed(*n))))
        };
        let bound = |upper: bool| {
            let of = |row: &Row| {
                let bounds = if upper { row.file().upper_bounds() } else { row.file().lower_bounds() };
                bounds.get(&id).and_then(|datum| literal_to_scalar(datum.literal(), &data_type))
            };
            scalars(rows.iter().map(of).collect(), &data_type)
        };
        let metrics = vec![
            named("column_size", count(DataFile::column_sizes)),
            named("value_count", count(DataFile::value_counts)),
            named("null_value_count", count(DataFile::null_value_counts)),
            named("nan_value_count", count(DataFile::nan_value_counts)),
            named("lower_bound", bound(false)?),
            named("upper_bound", bound(true)?),
        ];
        columns.push((name, structs(metrics, rows.len())));
    }
    Ok(structs(columns, rows.len()))
}

fn leaves(schema: &Schema) -> Vec<(String, i32, PrimitiveType)> {
    let mut leaves: Vec<(String, i32, PrimitiveType)> = schema
        .field_id_to_fields()
        .iter()
        .filter_map(|(id, field)| match field.field_type.as_ref() {
            Type::Primitive(primitive) => Some((schema.name_by_field_id(*id)?.to_owned(), *id, primitive.clone())),
            _ => None,
        })
        .collect();
    leaves.sort_by(|a, b| a.0.cmp(&b.0));
    leaves
}
