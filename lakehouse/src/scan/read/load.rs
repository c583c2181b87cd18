//! Delete files, each read once per partition of a scan.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use roaring::RoaringTreemap;
use tokio::sync::Mutex;

use chainalytics_common::{Error, Result};

use super::open::ParquetOpener;
use super::filter::{DeletedRows, EqualityFilter, RowFilter, rows_size};
use super::spec::{ReadSpec, ReadUnit};
use super::vector;
use crate::err;
use crate::scan::deletes::{DELETE_FILE_PATH_ID, DELETE_POSITION_ID, DeleteContent, DeleteRef};
use crate::scan::evolution::footer_names;

/// Delete files that one partition of a scan has read so far. The memory pool bounds them.
#[derive(Default)]
pub(super) struct Loader {
    positions: Mutex<HashMap<String, Arc<PositionsByFile>>>,
    equality: Mutex<HashMap<String, Arc<DeletedRows>>>,
}

type PositionsByFile = HashMap<String, Arc<RoaringTreemap>>;

/// The rows of a unit's data file that `deletes` name.
pub(super) async fn load(
    loader: &Loader,
    opener: &ParquetOpener,
    reservation: &MemoryReservation,
    unit: &ReadUnit,
    deletes: &[DeleteRef],
    spec: &ReadSpec,
    columns: &[FieldRef],
) -> Result<RowFilter> {
    let mut filter = RowFilter::default();
    let mut equality: HashMap<&[i32], Vec<Arc<DeletedRows>>> = HashMap::new();
    for delete in deletes {
        match &delete.content {
            DeleteContent::Vector { offset, length, rows } => {
                let location = opener.store.resolve(&delete.path)?;
                let range = *offset..offset.saturating_add(*length);
                let blob = location.store.get_range(&location.path, range).await;
                let blob = blob.map_err(|e| err::table_file("delete file", &delete.path, e.into()))?;
                let rows = vector::decode(&blob, &delete.path, *rows).map_err(|e| err::table_metadata("delete file", &delete.path, e))?;
                filter.positions.push(Arc::new(rows));
            }
            DeleteContent::Positions => {
                let all = positions(loader, opener, reservation, delete).await?;
                filter.positions.extend(all.get(&unit.path).cloned());
            }
            DeleteContent::Equality { ids } => {
                let rows = deleted_rows(loader, opener, reservation, delete, ids, spec, columns).await?;
                equality.entry(ids).or_default().push(rows);
            }
        }
    }
    for (ids, deleted) in equality {
        let at = indices(ids, spec, &unit.path)?;
        filter.equality.push(EqualityFilter { converter: converter(&at, columns)?, columns: at, deleted });
    }
    Ok(filter)
}

async fn positions(loader: &Loader, opener: &ParquetOpener, reservation: &MemoryReservation, delete: &DeleteRef) -> Result<Arc<PositionsByFile>> {
    let mut loaded = loader.positions.lock().await;
    if let Some(known) = loaded.get(&delete.path) {
        return Ok(Arc::clone(known));
    }
    let names = footer_names(&opener.store, &delete.path, delete.size).await.map_err(|e| read_error(delete)(e.into()))?;
    let name = |id: i32, default: &str| names.get(id).unwrap_or(default).to_owned();
    let columns: Vec<FieldRef> = vec![
        Arc::new(Field::new(name(DELETE_FILE_PATH_ID, "file_path"), DataType::Utf8, false)),
        Arc::new(Field::new(name(DELETE_POSITION_ID, "pos"), DataType::Int64, false)),
    ];
    let (mut batches, _) = opener.open(&delete.path, delete.size, None, columns, false, None).map_err(read_error(delete))?;
    let mut found: HashMap<String, RoaringTreemap> = HashMap::new();
    while let Some(batch) = batches.try_next().await.map_err(read_error(delete))? {
        let paths = batch.column(0).as_string_opt::<i32>();
        let positions = batch.column(1).as_primitive_opt::<Int64Type>();
        let (Some(paths), Some(positions)) = (paths, positions) else {
            return Err(err::metadata(format!("position delete file {} has other columns than it must", delete.path)));
        };
        if paths.null_count() > 0 || positions.null_count() > 0 {
            return Err(err::metadata(format!("position delete file {} holds nulls", delete.path)));
        }
        // Sorted by path: look up only where it changes.
        let mut start = 0;
        while start < paths.len() {
            let path = paths.value(start);
            let mut end = start + 1;
            while end < paths.len() && paths.value(end) == path {
                end += 1;
            }
            let of_file = match found.get_mut(path) {
                Some(of_file) => of_file,
                None => found.entry(path.to_owned()).or_default(),
            };
            for position in &positions.values()[start..end] {
                let position =
                    u64::try_from(*position).map_err(|_| err::metadata(format!("position delete file {}: position {position}", delete.path)))?;
                of_file.insert(position);
            }
            start = end;
        }
    }
    let size = found.iter().map(|(path, rows)| path.len() + rows.serialized_size()).sum();
    reserve(reservation, size)?;
    let found = Arc::new(found.into_iter().map(|(path, rows)| (path, Arc::new(rows))).collect::<PositionsByFile>());
    loaded.insert(delete.path.clone(), Arc::clone(&found));
    Ok(found)
}

async fn deleted_rows(
    loader: &Loader,
    opener: &ParquetOpener,
    reservation: &MemoryReservation,
    delete: &DeleteRef,
    ids: &[i32],
    spec: &ReadSpec,
    columns: &[FieldRef],
) -> Result<Arc<DeletedRows>> {
    let mut loaded = loader.equality.lock().await;
    if let Some(known) = loaded.get(&delete.path) {
        return Ok(Arc::clone(known));
    }
    let names = footer_names(&opener.store, &delete.path, delete.size).await.map_err(|e| read_error(delete)(e.into()))?;
    let at = indices(ids, spec, &delete.path)?;
    let fields: Vec<FieldRef> = ids
        .iter()
        .zip(&at)
        .map(|(id, at)| {
            let name = names.get(*id).unwrap_or(columns[*at].name());
            Arc::new(columns[*at].as_ref().clone().with_name(name).with_nullable(true)) as FieldRef
        })
        .collect();
    let converter = converter(&at, columns)?;
    let (mut batches, _) = opener.open(&delete.path, delete.size, None, fields, false, None).map_err(read_error(delete))?;
    let mut found = DeletedRows::new();
    while let Some(batch) = batches.try_next().await.map_err(read_error(delete))? {
        let rows = converter.convert_columns(batch.columns()).map_err(err::arrow)?;
        found.extend(rows.iter().map(|row| Box::<[u8]>::from(row.as_ref())));
    }
    reserve(reservation, rows_size(&found))?;
    let found = Arc::new(found);
    loaded.insert(delete.path.clone(), Arc::clone(&found));
    Ok(found)
}

/// Where the spec has the columns with these ids.
fn indices(ids: &[i32], spec: &ReadSpec, file: &str) -> Result<Vec<usize>> {
    let fields = spec.schema.as_struct().fields();
    ids.iter()
        .map(|id| {
            fields
                .iter()
                .position(|f| f.id == *id)
                .ok_or_else(|| err::metadata(format!("{file}: equality deletes by field {id}, which table {} never had", spec.table)))
        })
        .collect()
}

fn converter(at: &[usize], columns: &[FieldRef]) -> Result<RowConverter> {
    let fields = at.iter().map(|at| SortField::new(columns[*at].data_type().clone())).collect();
    RowConverter::new(fields).map_err(err::arrow)
}

fn reserve(reservation: &MemoryReservation, bytes: usize) -> Result<()> {
    reservation.try_grow(bytes).map_err(Error::from_datafusion)
}

fn read_error(delete: &DeleteRef) -> impl Fn(datafusion::error::DataFusionError) -> Error + '_ {
    move |e| err::table_file("delete file", &delete.path, e)
}
