//! `manifests`, `all_manifests`, `partitions`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ListArray, RecordBatch};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::Field;
use datafusion::common::ScalarValue;
use iceberg::spec::{DataContentType, Datum, ManifestContentType, ManifestFile, TableMetadata, Type};

use chainalytics_common::Result;

use super::columns::{Named, batch, flags, ints, longs, named, signed, structs, texts, times};
use super::files::rows;
use super::partition::PartitionFields;
use crate::scan::files::read_manifest_list;
use crate::table::Table;

/// Manifest lists read at the same time.
const LIST_READS: usize = 16;

/// Which snapshots' files a table lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The current one's.
    Current,
    /// Those of every snapshot that metadata knows, each manifest once.
    All,
}

/// Manifests, each with the snapshot whose list named it.
pub async fn manifest_files(table: &Table, reach: Reach) -> Result<Vec<(i64, ManifestFile)>> {
    let mut files = listed(table, reach).await?;
    let mut seen = HashSet::new();
    files.retain(|(_, file)| seen.insert(file.manifest_path.clone()));
    Ok(files)
}

async fn listed(table: &Table, reach: Reach) -> Result<Vec<(i64, ManifestFile)>> {
    let metadata = table.metadata();
    let snapshots: Vec<i64> = match reach {
        Reach::Current => table.current_snapshot_id().into_iter().collect(),
        Reach::All => table.snapshots().iter().map(|snapshot| snapshot.snapshot_id).collect(),
    };
    let mut files = Vec::new();
    for chunk in snapshots.chunks(LIST_READS) {
        let known = chunk.iter().filter_map(|id| metadata.snapshot_by_id(*id));
        let lists = futures::future::try_join_all(known.clone().map(|snapshot| read_manifest_list(table.store(), metadata, snapshot))).await?;
        for (snapshot, list) in known.zip(lists) {
            files.extend(list.iter().map(|file| (snapshot.snapshot_id(), file.clone())));
        }
    }
    Ok(files)
}

pub async fn manifests(table: &Table, reach: Reach) -> Result<RecordBatch> {
    let all = listed(table, reach).await?;
    let files = || all.iter().map(|(_, file)| file);
    let is_data = |file: &ManifestFile| file.content == ManifestContentType::Data;
    let count = |of: fn(&ManifestFile) -> Option<u32>, data: bool| {
        ints(files().map(|file| {
            let count = if is_data(file) == data { of(file) } else { Some(0) };
            count.and_then(|count| i32::try_from(count).ok())
        }))
    };
    let mut columns = vec![
        named("content", ints(files().map(|file| Some(i32::from(!is_data(file)))))),
        named("path", texts(files().map(|file| Some(file.manifest_path.clone())))),
        named("length", longs(files().map(|file| Some(file.manifest_length)))),
        named("partition_spec_id", ints(files().map(|file| Some(file.partition_spec_id)))),
        named("added_snapshot_id", longs(files().map(|file| Some(file.added_snapshot_id)))),
        named("added_data_files_count", count(|file| file.added_files_count, true)),
        named("existing_data_files_count", count(|file| file.existing_files_count, true)),
        named("deleted_data_files_count", count(|file| file.deleted_files_count, true)),
        named("added_delete_files_count", count(|file| file.added_files_count, false)),
        named("existing_delete_files_count", count(|file| file.existing_files_count, false)),
        named("deleted_delete_files_count", count(|file| file.deleted_files_count, false)),
        named("partition_summaries", summaries(table.metadata(), files())?),
    ];
    if reach == Reach::All {
        columns.push(named("reference_snapshot_id", longs(all.iter().map(|(id, _)| Some(*id)))));
    }
    batch(columns)
}

/// Bounds of each partition field over a manifest's files, as text.
fn summaries<'a>(metadata: &TableMetadata, files: impl Iterator<Item = &'a ManifestFile>) -> Result<ArrayRef> {
    let mut lengths = Vec::new();
    let (mut nulls, mut nans, mut lower, mut upper) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for file in files {
        let fields = file.partitions.as_deref().unwrap_or_default();
        lengths.push(fields.len());
        let spec = metadata.partition_spec_by_id(file.partition_spec_id);
        for (i, field) in fields.iter().enumerate() {
            let text = |bytes: Option<&[u8]>| {
                let field = spec?.fields().get(i)?;
                let source = metadata
                    .current_schema()
                    .field_by_id(field.source_id)
                    .or_else(|| metadata.schemas_iter().find_map(|schema| schema.field_by_id(field.source_id)))?;
                let result = field.transform.result_type(&source.field_type).ok()?;
                let Type::Primitive(primitive) = &result else { return None };
                let datum = Datum::try_from_bytes(bytes?, primitive.clone()).ok()?;
                let literal = iceberg::spec::Literal::Primitive(datum.literal().clone());
                Some(field.transform.to_human_string(&result, Some(&literal)))
            };
            nulls.push(Some(field.contains_null));
            nans.push(field.contains_nan);
            lower.push(text(field.lower_bound.as_ref().map(|bytes| bytes.as_ref())));
            upper.push(text(field.upper_bound.as_ref().map(|bytes| bytes.as_ref())));
        }
    }
    let rows = nulls.len();
    let columns: Vec<Named> = vec![
        named("contains_null", flags(nulls.into_iter())),
        named("contains_nan", flags(nans.into_iter())),
        named("lower_bound", texts(lower.into_iter())),
        named("upper_bound", texts(upper.into_iter())),
    ];
    let values = structs(columns, rows);
    let element = Field::new("element", values.data_type().clone(), true);
    Ok(Arc::new(ListArray::new(Arc::new(element), OffsetBuffer::from_lengths(lengths), values, None)))
}

#[derive(Default)]
struct Totals {
    spec_id: i32,
    rows: i64,
    files: i32,
    bytes: i64,
    position_deletes: (i64, i32),
    equality_deletes: (i64, i32),
    updated: Option<(i64, i64)>,
}

pub async fn partitions(table: &Table) -> Result<RecordBatch> {
    let metadata = table.metadata();
    let fields = PartitionFields::new(metadata)?;
    let mut order: Vec<Vec<Option<ScalarValue>>> = Vec::new();
    let mut totals: Vec<Totals> = Vec::new();
    let mut known: HashMap<Vec<Option<ScalarValue>>, usize> = HashMap::new();
    for row in rows(table, Reach::Current, true).await? {
        let values = fields.values(row.file(), row.spec_id);
        let at = *known.entry(values.clone()).or_insert_with(|| {
            order.push(values);
            totals.push(Totals::default());
            totals.len() - 1
        });
        let total = &mut totals[at];
        let count = signed(row.file().record_count()).unwrap_or(i64::MAX);
        total.spec_id = total.spec_id.max(row.spec_id);
        match row.file().content_type() {
            DataContentType::Data => {
                total.rows += count;
                total.files += 1;
                total.bytes += signed(row.file().file_size_in_bytes()).unwrap_or(i64::MAX);
            }
            DataContentType::PositionDeletes => {
                total.position_deletes = (total.position_deletes.0 + count, total.position_deletes.1 + 1);
            }
            DataContentType::EqualityDeletes => {
                total.equality_deletes = (total.equality_deletes.0 + count, total.equality_deletes.1 + 1);
            }
        }
        let updated = metadata.snapshot_by_id(row.snapshot_id).map(|s| (s.timestamp_ms(), s.snapshot_id()));
        total.updated = total.updated.max(updated);
    }
    if fields.is_empty() && totals.is_empty() {
        totals.push(Totals::default());
    }
    let mut columns = Vec::new();
    if !fields.is_empty() {
        columns.push(named("partition", fields.column(&order)?));
        columns.push(named("spec_id", ints(totals.iter().map(|t| Some(t.spec_id)))));
    }
    columns.extend([
        named("record_count", longs(totals.iter().map(|t| Some(t.rows)))),
        named("file_count", ints(totals.iter().map(|t| Some(t.files)))),
        named("total_data_file_size_in_bytes", longs(totals.iter().map(|t| Some(t.bytes)))),
        named("position_delete_record_count", longs(totals.iter().map(|t| Some(t.position_deletes.0)))),
        named("position_delete_file_count", ints(totals.iter().map(|t| Some(t.position_deletes.1)))),
        named("equality_delete_record_count", longs(totals.iter().map(|t| Some(t.equality_deletes.0)))),
        named("equality_delete_file_count", ints(totals.iter().map(|t| Some(t.equality_deletes.1)))),
        named("last_updated_at", times(totals.iter().map(|t| t.updated.map(|u| u.0)))),
        named("last_updated_snapshot_id", longs(totals.iter().map(|t| t.updated.map(|u| u.1)))),
    ]);
    batch(columns)
}
