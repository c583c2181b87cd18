//! Metadata tables: `t.snapshots`, `t.history`, `t.refs`, `t.manifests`, `t.files`, `t.partitions` (also `t$snapshots`),
//! with the column names of Iceberg's Spark tables. They describe the current snapshot, except the first three.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, ManifestContentType, PartitionSpec, Struct, TableMetadata};

use chainalytics_common::{Error, ErrorCode, Result};

use crate::scan::files::{ScanFile, live_files, read_manifest_list};
use crate::table::Table;

/// Manifests read at the same time.
const MANIFEST_READS: usize = 16;

/// Which metadata table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    Snapshots,
    History,
    Refs,
    Manifests,
    Files,
    Partitions,
}

impl MetadataKind {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "snapshots" => Self::Snapshots,
            "history" => Self::History,
            "refs" => Self::Refs,
            "manifests" => Self::Manifests,
            "files" => Self::Files,
            "partitions" => Self::Partitions,
            _ => return None,
        })
    }
}

/// The metadata table of `table`, its rows in memory.
pub async fn metadata_table(table: &Table, kind: MetadataKind) -> Result<Arc<dyn TableProvider>> {
    let batch = match kind {
        MetadataKind::Snapshots => snapshots(table)?,
        MetadataKind::History => history(table)?,
        MetadataKind::Refs => refs(table)?,
        MetadataKind::Manifests => manifests(table).await?,
        MetadataKind::Files => files(table, &current_files(table).await?)?,
        MetadataKind::Partitions => partitions(table, &current_files(table).await?)?,
    };
    let provider = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(Error::from_datafusion)?;
    Ok(Arc::new(provider))
}

fn snapshots(table: &Table) -> Result<RecordBatch> {
    let all = table.snapshots();
    let mut summary = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for snapshot in &all {
        let sorted: BTreeMap<&String, &String> = snapshot.summary.iter().collect();
        for (key, value) in sorted {
            summary.keys().append_value(key);
            summary.values().append_value(value);
        }
        summary.append(true).map_err(arrow_error)?;
    }
    batch(vec![
        ("committed_at", times(all.iter().map(|s| s.timestamp_ms))),
        ("snapshot_id", longs(all.iter().map(|s| Some(s.snapshot_id)))),
        ("parent_id", longs(all.iter().map(|s| s.parent_id))),
        ("operation", texts(all.iter().map(|s| Some(s.operation.clone())))),
        ("manifest_list", texts(all.iter().map(|s| Some(s.manifest_list.clone())))),
        ("summary", Arc::new(summary.finish())),
    ])
}

fn history(table: &Table) -> Result<RecordBatch> {
    let metadata = table.metadata();
    let ancestors: HashSet<i64> = table.ancestry().map(|s| s.snapshot_id).collect();
    let log = metadata.history();
    let parent = |id: i64| metadata.snapshot_by_id(id).and_then(|s| s.parent_snapshot_id());
    batch(vec![
        ("made_current_at", times(log.iter().map(|l| l.timestamp_ms()))),
        ("snapshot_id", longs(log.iter().map(|l| Some(l.snapshot_id)))),
        ("parent_id", longs(log.iter().map(|l| parent(l.snapshot_id)))),
        (
            "is_current_ancestor",
            Arc::new(log.iter().map(|l| Some(ancestors.contains(&l.snapshot_id))).collect::<BooleanArray>()),
        ),
    ])
}

fn refs(table: &Table) -> Result<RecordBatch> {
    let refs = ref_entries(table.metadata())?;
    batch(vec![
        ("name", texts(refs.iter().map(|r| Some(r.0.clone())))),
        ("type", texts(refs.iter().map(|r| Some(r.1.to_uppercase())))),
        ("snapshot_id", longs(refs.iter().map(|r| Some(r.2)))),
    ])
}

/// Name, `branch` or `tag`, and snapshot of every ref. The library offers no accessor, its JSON form does.
fn ref_entries(metadata: &TableMetadata) -> Result<Vec<(String, String, i64)>> {
    let json = serde_json::to_value(metadata)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("cannot encode table metadata: {e}")))?;
    let refs = json.get("refs").and_then(|r| r.as_object()).cloned().unwrap_or_default();
    Ok(refs
        .into_iter()
        .filter_map(|(name, entry)| {
            let kind = entry.get("type")?.as_str()?.to_string();
            Some((name, kind, entry.get("snapshot-id")?.as_i64()?))
        })
        .collect())
}

async fn manifests(table: &Table) -> Result<RecordBatch> {
    let metadata = table.metadata();
    let all = match metadata.current_snapshot() {
        Some(snapshot) => read_manifest_list(table.store(), metadata, snapshot).await?,
        None => Arc::new(Vec::new()),
    };
    let count = |n: Option<u32>| n.map(i64::from);
    batch(vec![
        ("content", ints(all.iter().map(|m| Some(if m.content == ManifestContentType::Data { 0 } else { 1 })))),
        ("path", texts(all.iter().map(|m| Some(m.manifest_path.clone())))),
        ("length", longs(all.iter().map(|m| Some(m.manifest_length)))),
        ("partition_spec_id", ints(all.iter().map(|m| Some(m.partition_spec_id)))),
        ("added_snapshot_id", longs(all.iter().map(|m| Some(m.added_snapshot_id)))),
        ("added_files_count", longs(all.iter().map(|m| count(m.added_files_count)))),
        ("existing_files_count", longs(all.iter().map(|m| count(m.existing_files_count)))),
        ("deleted_files_count", longs(all.iter().map(|m| count(m.deleted_files_count)))),
    ])
}

async fn current_files(table: &Table) -> Result<Vec<ScanFile>> {
    let metadata = table.metadata();
    let Some(snapshot) = metadata.current_snapshot() else {
        return Ok(Vec::new());
    };
    let manifests = read_manifest_list(table.store(), metadata, snapshot).await?;
    let files: Vec<Vec<ScanFile>> = futures::stream::iter(manifests.iter().cloned())
        .map(|manifest| live_files(table.store(), manifest))
        .buffered(MANIFEST_READS)
        .try_collect()
        .await?;
    Ok(files.into_iter().flatten().collect())
}

fn files(table: &Table, files: &[ScanFile]) -> Result<RecordBatch> {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    let bounds = |upper: bool| {
        texts(files.iter().map(|f| {
            let bounds = if upper { f.data_file().upper_bounds() } else { f.data_file().lower_bounds() };
            let named: BTreeMap<String, String> = bounds
                .iter()
                .filter_map(|(id, datum)| Some((schema.name_by_field_id(*id)?.to_string(), datum.to_human_string())))
                .collect();
            serde_json::to_string(&named).ok()
        }))
    };
    let content = |f: &ScanFile| match f.data_file().content_type() {
        DataContentType::Data => 0,
        DataContentType::PositionDeletes => 1,
        DataContentType::EqualityDeletes => 2,
    };
    batch(vec![
        ("content", ints(files.iter().map(|f| Some(content(f))))),
        ("file_path", texts(files.iter().map(|f| Some(f.path().to_string())))),
        ("file_format", texts(files.iter().map(|f| Some(f.data_file().file_format().to_string().to_uppercase())))),
        ("spec_id", ints(files.iter().map(|f| Some(f.spec_id)))),
        ("partition", texts(files.iter().map(|f| Some(partition_of(metadata, f))))),
        ("record_count", longs(files.iter().map(|f| signed(f.data_file().record_count())))),
        ("file_size_in_bytes", longs(files.iter().map(|f| signed(f.data_file().file_size_in_bytes())))),
        ("sort_order_id", ints(files.iter().map(|f| f.data_file().sort_order_id()))),
        ("sequence_number", longs(files.iter().map(|f| Some(f.sequence_number)))),
        ("snapshot_id", longs(files.iter().map(|f| Some(f.snapshot_id)))),
        ("lower_bounds", bounds(false)),
        ("upper_bounds", bounds(true)),
    ])
}

fn partitions(table: &Table, files: &[ScanFile]) -> Result<RecordBatch> {
    #[derive(Default)]
    struct Totals {
        rows: i64,
        files: i64,
        bytes: i64,
        delete_files: i64,
    }
    let metadata = table.metadata();
    let mut totals: BTreeMap<(i32, String), Totals> = BTreeMap::new();
    for file in files {
        let total = totals.entry((file.spec_id, partition_of(metadata, file))).or_default();
        if file.data_file().content_type() == DataContentType::Data {
            total.rows += signed(file.data_file().record_count()).unwrap_or(i64::MAX);
            total.files += 1;
            total.bytes += signed(file.data_file().file_size_in_bytes()).unwrap_or(i64::MAX);
        } else {
            total.delete_files += 1;
        }
    }
    batch(vec![
        ("partition", texts(totals.keys().map(|(_, p)| Some(p.clone())))),
        ("spec_id", ints(totals.keys().map(|(s, _)| Some(*s)))),
        ("record_count", longs(totals.values().map(|t| Some(t.rows)))),
        ("file_count", longs(totals.values().map(|t| Some(t.files)))),
        ("total_data_file_size_in_bytes", longs(totals.values().map(|t| Some(t.bytes)))),
        ("delete_file_count", longs(totals.values().map(|t| Some(t.delete_files)))),
    ])
}

/// A file's partition as a path, `day=2024-01-01/bucket=3`; empty for an unpartitioned file.
fn partition_of(metadata: &TableMetadata, file: &ScanFile) -> String {
    match metadata.partition_spec_by_id(file.spec_id) {
        Some(spec) => partition_text(spec, file.data_file().partition(), metadata),
        None => String::new(),
    }
}

fn partition_text(spec: &PartitionSpec, values: &Struct, metadata: &TableMetadata) -> String {
    let types = spec.partition_type(metadata.current_schema()).ok();
    let texts: Vec<String> = spec
        .fields()
        .iter()
        .zip(values.fields())
        .enumerate()
        .map(|(i, (field, value))| {
            let text = match types.as_ref().and_then(|t| t.fields().get(i)) {
                Some(part) => field.transform.to_human_string(&part.field_type, value.as_ref()),
                None => format!("{value:?}"),
            };
            format!("{}={text}", field.name)
        })
        .collect();
    texts.join("/")
}

fn signed(n: u64) -> Option<i64> {
    i64::try_from(n).ok()
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(|ms| ms.saturating_mul(1000))).with_timezone("+00:00"))
}

fn longs(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn ints(values: impl Iterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.collect::<Int32Array>())
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .map_err(arrow_error)
}

fn arrow_error(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(ErrorCode::Internal, format!("metadata table: {error}"))
}
