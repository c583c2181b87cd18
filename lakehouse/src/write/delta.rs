//! Row-level changes that leave data files in place (merge-on-read): each input row says which row of which file goes,
//! and what takes its place. Source: Iceberg spec, "Position Delete Files" and "Deletion Vectors".

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::types::Int64Type;
use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int8Type, Schema as ArrowSchema, SchemaRef};
use bytes::Bytes;
use chainalytics_common::Result;
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::data_file::{DataFileInfo, FileContent, to_hex};
use super::puffin::PuffinWriter;
use super::spec::WriteSpec;
use super::writer::{DataFileWriter, writer_properties};
use crate::err;
use crate::scan::deletes::{DELETE_FILE_PATH_ID, DELETE_POSITION_ID};
use crate::scan::read::vector;
use crate::scan::{FILE_COLUMN, POSITION_COLUMN};
use crate::store::StoreRegistry;
use crate::table::arrow_schema::FIELD_ID_KEY;

/// Column of a delta's rows that says what each row is, Int8: [`DELETE`], [`UPDATE`] or [`INSERT`].
pub const OPERATION_COLUMN: &str = "_operation";
/// The row at `_file`, `_pos` goes.
pub const DELETE: i8 = 1;
/// The row at `_file`, `_pos` goes, this one comes.
pub const UPDATE: i8 = 2;
/// This row comes.
pub const INSERT: i8 = 3;

/// Rows of a position delete file written at once.
const CHUNK_ROWS: usize = 65_536;

/// How deletes are written; part of a [`WriteSpec`] whose rows carry `_file`, `_pos` and [`OPERATION_COLUMN`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct RowDelta {
    /// JSON object: path of each data file that may lose rows to [`DeltaTarget`].
    pub targets_json: String,
    /// Deletion vectors (v3) instead of position delete files (v2). All rows of a data file must be in one partition
    /// of the input then.
    pub vectors: bool,
}

/// A data file that may lose rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeltaTarget {
    pub spec_id: i32,
    /// Partition values, Iceberg's JSON.
    pub partition: Vec<Value>,
    /// The deletion vector that it has: file, offset, length, rows.
    #[serde(default)]
    pub vector: Option<(String, u64, u64, u64)>,
}

/// Writes the data files and delete files of a delta. Belongs to one task.
pub(super) struct RowDeltaWriter {
    data: DataFileWriter,
    deletes: DeleteWriter,
    deleted: BTreeMap<String, RoaringTreemap>,
}

/// Writes delete files.
struct DeleteWriter {
    spec: WriteSpec,
    store: Arc<StoreRegistry>,
    targets: HashMap<String, DeltaTarget>,
    vectors: bool,
}

impl RowDeltaWriter {
    pub fn new(spec: WriteSpec, delta: &RowDelta, store: Arc<StoreRegistry>) -> Result<Self> {
        let targets = serde_json::from_str(&delta.targets_json).map_err(|e| err::internal(format!("the files of a delta do not parse: {e}")))?;
        let data = DataFileWriter::new(spec.clone(), Arc::clone(&store))?;
        let deletes = DeleteWriter { spec, store, targets, vectors: delta.vectors };
        Ok(Self { data, deletes, deleted: BTreeMap::new() })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let column = |name: &str, data_type: &DataType| {
            let column = batch.column_by_name(name).ok_or_else(|| err::internal(format!("a delta without {name}")))?;
            cast(column, data_type).map_err(err::arrow)
        };
        let operations = column(OPERATION_COLUMN, &DataType::Int8)?;
        let operations = operations.as_primitive::<Int8Type>();
        let files = column(FILE_COLUMN, &DataType::Utf8)?;
        let files = files.as_string::<i32>();
        let positions = column(POSITION_COLUMN, &DataType::Int64)?;
        let positions = positions.as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            if !matches!(operations.value(row), DELETE | UPDATE) {
                continue;
            }
            let position = u64::try_from(positions.value(row)).map_err(|_| err::internal("a negative position"))?;
            if files.is_null(row) || positions.is_null(row) {
                return Err(err::internal("a deleted row without its place"));
            }
            match self.deleted.get_mut(files.value(row)) {
                Some(of_file) => of_file.insert(position),
                None => self.deleted.entry(files.value(row).to_owned()).or_default().insert(position),
            };
        }
        let coming: BooleanArray = operations.iter().map(|op| Some(matches!(op, Some(UPDATE | INSERT)))).collect();
        if coming.true_count() == 0 {
            return Ok(());
        }
        let ours = [OPERATION_COLUMN, FILE_COLUMN, POSITION_COLUMN];
        let kept: Vec<usize> = (0..batch.num_columns()).filter(|i| !ours.contains(&batch.schema_ref().field(*i).name().as_str())).collect();
        let rows = batch.project(&kept).and_then(|rows| filter_record_batch(&rows, &coming)).map_err(err::arrow)?;
        self.data.write(&rows).await
    }

    /// Finishes all files and reports them, data files first.
    pub async fn close(self) -> Result<Vec<DataFileInfo>> {
        let Self { data, deletes: writer, deleted } = self;
        let mut deletes = Vec::new();
        let written = match writer.vectors {
            true => writer.write_vectors(deleted, &mut deletes).await,
            false => writer.write_positions(deleted, &mut deletes).await,
        };
        let closed = match written {
            Ok(()) => data.close().await,
            Err(error) => {
                data.abort().await;
                Err(error)
            }
        };
        match closed {
            Ok(mut files) => {
                files.extend(deletes);
                Ok(files)
            }
            Err(error) => {
                writer.store.delete_best_effort(deletes.into_iter().map(|file| file.path).collect()).await;
                Err(error)
            }
        }
    }

    pub async fn abort(self) {
        self.data.abort().await;
    }
}

impl DeleteWriter {
    fn target(&self, path: &str) -> Result<&DeltaTarget> {
        self.targets.get(path).ok_or_else(|| err::internal(format!("a row of {path}, which this change does not cover")))
    }

    /// One position delete file per partition, sorted by path and position.
    async fn write_positions(&self, deleted: BTreeMap<String, RoaringTreemap>, done: &mut Vec<DataFileInfo>) -> Result<()> {
        let mut partitions: BTreeMap<(i32, String), Vec<(String, RoaringTreemap)>> = BTreeMap::new();
        for (path, positions) in deleted {
            let target = self.target(&path)?;
            let key = (target.spec_id, Value::from(target.partition.clone()).to_string());
            partitions.entry(key).or_default().push((path, positions));
        }
        for files in partitions.into_values() {
            let Some((first, _)) = files.first() else { continue };
            let target = self.target(first)?.clone();
            done.push(self.write_position_file(&target, &files).await?);
        }
        Ok(())
    }

    async fn write_position_file(&self, target: &DeltaTarget, files: &[(String, RoaringTreemap)]) -> Result<DataFileInfo> {
        let path = format!("{}/{}-deletes.parquet", self.spec.data_location, Uuid::now_v7());
        let at = self.store.resolve(&path)?;
        let schema = position_schema();
        let options = ArrowWriterOptions::new().with_properties(writer_properties(&self.spec, true)?).with_skip_arrow_metadata(true);
        let failed = |e: parquet::errors::ParquetError| err::storage_write(&path, e);
        let upload = BufWriter::new(Arc::clone(&at.store), at.path.clone());
        let mut writer = AsyncArrowWriter::try_new_with_options(upload, Arc::clone(&schema), options).map_err(failed)?;
        let mut rows = 0;
        let (mut low, mut high) = (u64::MAX, 0);
        for (file, positions) in files {
            let mut left = positions.iter();
            low = low.min(positions.min().unwrap_or(u64::MAX));
            high = high.max(positions.max().unwrap_or(0));
            loop {
                let chunk: Vec<i64> = left.by_ref().take(CHUNK_ROWS).map(|p| i64::try_from(p).unwrap_or(i64::MAX)).collect();
                if chunk.is_empty() {
                    break;
                }
                rows += chunk.len() as u64;
                let paths = StringArray::from_iter_values(std::iter::repeat_n(file, chunk.len()));
                let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(paths), Arc::new(Int64Array::from(chunk))]);
                writer.write(&batch.map_err(err::arrow)?).await.map_err(failed)?;
            }
        }
        writer.finish().await.map_err(failed)?;
        let size = writer.bytes_written() as u64;
        let bound = |path: Option<&(String, RoaringTreemap)>, position: u64| {
            let text = path.map(|(path, _)| to_hex(path.as_bytes())).unwrap_or_default();
            BTreeMap::from([(DELETE_FILE_PATH_ID, text), (DELETE_POSITION_ID, to_hex(&position.to_le_bytes()))])
        };
        Ok(DataFileInfo {
            record_count: rows,
            file_size_bytes: size,
            value_counts: [(DELETE_FILE_PATH_ID, rows), (DELETE_POSITION_ID, rows)].into(),
            null_value_counts: [(DELETE_FILE_PATH_ID, 0), (DELETE_POSITION_ID, 0)].into(),
            references: files.iter().map(|(file, _)| file.clone()).collect(),
            lower_bounds: bound(files.first(), low),
            upper_bounds: bound(files.last(), high),
            ..delete_file(path, "PARQUET", target)
        })
    }

    /// All deletion vectors of the task in one Puffin file; each takes over what its predecessor held.
    async fn write_vectors(&self, deleted: BTreeMap<String, RoaringTreemap>, done: &mut Vec<DataFileInfo>) -> Result<()> {
        if deleted.is_empty() {
            return Ok(());
        }
        let path = format!("{}/{}-deletes.puffin", self.spec.data_location, Uuid::now_v7());
        let mut puffin = PuffinWriter::default();
        let mut files = Vec::with_capacity(deleted.len());
        for (file, mut positions) in deleted {
            let target = self.target(&file)?.clone();
            if let Some((old, offset, length, rows)) = &target.vector {
                let at = self.store.resolve(old)?;
                let blob = at.store.get_range(&at.path, *offset..offset.saturating_add(*length)).await;
                positions |= vector::decode(&blob.map_err(|e| err::storage_read(old, e))?, old, *rows)?;
            }
            let rows = positions.len();
            let (offset, length) = puffin.add_vector(&vector::encode(&positions)?, &file, rows);
            files.push(DataFileInfo {
                record_count: rows,
                references: vec![file.clone()],
                referenced_data_file: Some(file),
                content_offset: Some(i64::try_from(offset).unwrap_or(i64::MAX)),
                content_size_bytes: Some(i64::try_from(length).unwrap_or(i64::MAX)),
                ..delete_file(path.clone(), "PUFFIN", &target)
            });
        }
        let bytes: Bytes = puffin.finish()?.into();
        let size = bytes.len() as u64;
        self.store.write(&path, bytes).await?;
        for mut file in files {
            file.file_size_bytes = size;
            done.push(file);
        }
        Ok(())
    }
}

fn position_schema() -> SchemaRef {
    let field = |name: &str, data_type: DataType, id: i32| {
        Field::new(name, data_type, false).with_metadata(HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]))
    };
    Arc::new(ArrowSchema::new(vec![field("file_path", DataType::Utf8, DELETE_FILE_PATH_ID), field("pos", DataType::Int64, DELETE_POSITION_ID)]))
}

fn delete_file(path: String, format: &str, target: &DeltaTarget) -> DataFileInfo {
    DataFileInfo {
        path,
        content: FileContent::PositionDeletes,
        format: format.to_owned(),
        partition_spec_id: target.spec_id,
        partition: target.partition.clone(),
        record_count: 0,
        file_size_bytes: 0,
        column_sizes: BTreeMap::new(),
        value_counts: BTreeMap::new(),
        null_value_counts: BTreeMap::new(),
        nan_value_counts: BTreeMap::new(),
        lower_bounds: BTreeMap::new(),
        upper_bounds: BTreeMap::new(),
        split_offsets: Vec::new(),
        sort_order_id: None,
        equality_ids: None,
        referenced_data_file: None,
        references: Vec::new(),
        content_offset: None,
        content_size_bytes: None,
    }
}
