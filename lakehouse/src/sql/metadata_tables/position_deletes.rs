//! `position_deletes`: the deleted positions themselves, from position delete files and deletion vectors.

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;
use iceberg::spec::{DataContentType, DataFileFormat};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::columns::{batch, ints, longs, named, texts};
use super::files::{Row, rows};
use super::manifests::Reach;
use super::partition::PartitionFields;
use crate::err;
use crate::scan::read::vector;
use crate::table::Table;

/// Positions that one look at the table may give: they are all in memory.
const POSITIONS_MAX: usize = 10_000_000;

/// Deleted rows, one entry a row.
#[derive(Default)]
struct Positions {
    file_path: Vec<Option<String>>,
    pos: Vec<Option<i64>>,
    /// Which delete file an entry is from.
    source: Vec<usize>,
}

impl Positions {
    fn push(&mut self, table: &Table, path: &str, pos: i64, source: usize) -> Result<()> {
        if self.pos.len() >= POSITIONS_MAX {
            return Err(Error::new(
                ErrorCode::ResourcesExhausted,
                format!("table {} has more than {POSITIONS_MAX} deleted positions, which is all that position_deletes shows", table.ident()),
            ));
        }
        self.file_path.push(Some(path.to_owned()));
        self.pos.push(Some(pos));
        self.source.push(source);
        Ok(())
    }
}

pub async fn position_deletes(table: &Table) -> Result<RecordBatch> {
    let mut files = rows(table, Reach::Current, true).await?;
    files.retain(|row| row.file().content_type() == DataContentType::PositionDeletes);
    let mut found = Positions::default();
    for (source, row) in files.iter().enumerate() {
        match row.file().file_format() {
            DataFileFormat::Puffin => read_vector(table, row, source, &mut found).await?,
            _ => read_positions(table, row, source, &mut found).await?,
        }
    }
    let of = |source: &usize| &files[*source];
    let partition = PartitionFields::new(table.metadata())?;
    let mut columns = vec![named("file_path", texts(found.file_path.into_iter())), named("pos", longs(found.pos.into_iter()))];
    if !partition.is_empty() {
        let known: Vec<Vec<Option<ScalarValue>>> = files.iter().map(|row| partition.values(row.file(), row.spec_id)).collect();
        let values: Vec<_> = found.source.iter().map(|source| known[*source].clone()).collect();
        columns.push(named("partition", partition.column(&values)?));
    }
    columns.push(named("spec_id", ints(found.source.iter().map(|source| Some(of(source).spec_id)))));
    columns.push(named("delete_file_path", texts(found.source.iter().map(|source| Some(of(source).file().file_path().to_owned())))));
    if table.format_version() >= 3 {
        columns.push(named("content_offset", longs(found.source.iter().map(|source| of(source).file().content_offset()))));
        let sizes = longs(found.source.iter().map(|source| of(source).file().content_size_in_bytes()));
        columns.push(named("content_size_in_bytes", sizes));
    }
    batch(columns)
}

async fn read_vector(table: &Table, row: &Row, source: usize, found: &mut Positions) -> Result<()> {
    let file = row.file();
    let path = file.file_path();
    let range = file.content_offset().zip(file.content_size_in_bytes()).and_then(|(offset, size)| {
        let start = u64::try_from(offset).ok()?;
        Some(start..start.checked_add(u64::try_from(size).ok()?)?)
    });
    let (Some(range), Some(data_file)) = (range, file.referenced_data_file()) else {
        return Err(err::metadata(format!("the entry of deletion vector {path} lacks its place or its data file")));
    };
    let location = table.store().resolve(path)?;
    let blob = location.store.get_range(&location.path, range).await.map_err(|e| err::storage_read(path, e))?;
    for position in vector::decode(&blob, path, file.record_count())? {
        found.push(table, &data_file, i64::try_from(position).unwrap_or(i64::MAX), source)?;
    }
    Ok(())
}

async fn read_positions(table: &Table, row: &Row, source: usize, found: &mut Positions) -> Result<()> {
    let path = row.file().file_path();
    let broken = |why: &dyn std::fmt::Display| err::metadata(format!("position delete file {path}: {why}"));
    let bytes = table.store().read(path).await?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build());
    for batch in reader.map_err(|e| broken(&e))? {
        let batch = batch.map_err(|e| broken(&e))?;
        let column = |name: &str, data_type: &DataType| {
            let column = batch.column_by_name(name).ok_or_else(|| broken(&format!("it has no column {name}")))?;
            cast(column, data_type).map_err(|e| broken(&e))
        };
        let (paths, positions) = (column("file_path", &DataType::Utf8)?, column("pos", &DataType::Int64)?);
        let (paths, positions) = (paths.as_string::<i32>(), positions.as_primitive::<Int64Type>());
        for i in 0..batch.num_rows() {
            if paths.is_null(i) || positions.is_null(i) {
                return Err(broken(&"it holds nulls"));
            }
            found.push(table, paths.value(i), positions.value(i), source)?;
        }
    }
    Ok(())
}
