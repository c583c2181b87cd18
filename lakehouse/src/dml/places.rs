//! Rows deleted by where they stand, for callers that have read them: what changes is what these rows are, not what a condition finds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use roaring::RoaringTreemap;

use chainalytics_common::{Error, ErrorCode, Result};

use super::Write;
use super::target::{RowChange, delta, plain_terms};
use crate::commit::ConflictCheck;
use crate::scan::deletes::{DeleteContent, DeleteIndex};
use crate::scan::{FILE_COLUMN, IcebergTableProvider, POSITION_COLUMN, SnapshotSelector};
use crate::table::Table;
use crate::write::{DELETE, OPERATION_COLUMN};

/// Rows of one batch that tells writers what to delete.
const CHUNK_ROWS: usize = 65_536;

/// Where rows stand: positions by data file, as the columns `_file` and `_pos` give them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowPlaces(BTreeMap<String, RoaringTreemap>);

impl RowPlaces {
    /// Adds a row; whether it was new.
    pub fn insert(&mut self, file: &str, position: u64) -> bool {
        match self.0.get_mut(file) {
            Some(positions) => positions.insert(position),
            None => self.0.entry(file.to_owned()).or_default().insert(position),
        }
    }

    /// Rows.
    pub fn len(&self) -> u64 {
        self.0.values().map(RoaringTreemap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Prepares the deletion of rows that were read from this very version of the table. Data files stay, whatever the table's properties say
/// (merge-on-read), except those of which no row is left. All of the rows satisfy `condition`, which spares other files a look.
///
/// What others commit meanwhile conflicts only if it concerns files of these rows: the caller sees to the rest.
///
/// # Errors
/// `CommitConflict` for a file that the table does not have; `InvalidArgument` for a table of format v1; `Unsupported` for one of format v3
/// with position delete files of before.
pub async fn delete_places(write: &Write<'_>, table: &Table, condition: &Expr, places: &RowPlaces) -> Result<RowChange> {
    let vectors = match table.format_version() {
        0 | 1 => {
            let message = format!("table {} has format version 1; rows are deleted by their places from version 2 on", table.ident());
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        version => version >= 3,
    };
    let mut change = RowChange {
        removed: BTreeSet::new(),
        added: Vec::new(),
        rows: places.len(),
        base: table.current_snapshot_id(),
        check: ConflictCheck::Snapshot,
    };
    if places.is_empty() {
        return Ok(change);
    }
    let provider = IcebergTableProvider::try_new(table, &SnapshotSelector::Current)?;
    let planned = provider.plan_files(write.state, &plain_terms(condition)).await?;
    let deletes = DeleteIndex::build(&planned.deletes, table.metadata())?;
    let files: BTreeMap<&str, _> = planned.data.iter().map(|file| (file.path(), file)).collect();
    let (mut marked, mut rows) = (Vec::new(), Vec::new());
    for (path, positions) in &places.0 {
        let Some(file) = files.get(path.as_str()).copied() else {
            return Err(Error::new(ErrorCode::CommitConflict, format!("table {}: {path} is none of its files", table.ident())));
        };
        let gone_before = match deletes.for_file(file).as_slice() {
            [] => Some(0),
            [delete] => match delete.content {
                DeleteContent::Vector { rows, .. } => Some(rows),
                _ => None,
            },
            _ => None,
        };
        if gone_before.is_some_and(|gone| gone + positions.len() == file.data_file().record_count()) {
            change.removed.insert(path.clone());
        } else {
            marked.push(file);
            rows.push((path.as_str(), positions));
        }
    }
    if !marked.is_empty() {
        let delta = delta(table, &marked, &deletes, vectors)?;
        change.added = write.delta_files(table, plan_of(&rows)?, delta, None).await?;
    }
    Ok(change)
}

/// The rows of a delta that deletes these.
fn plan_of(places: &[(&str, &RoaringTreemap)]) -> Result<LogicalPlan> {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
    let columns = [field(FILE_COLUMN, DataType::Utf8), field(POSITION_COLUMN, DataType::Int64), field(OPERATION_COLUMN, DataType::Int8)];
    let schema = Arc::new(Schema::new(columns.to_vec()));
    let mut batches = Vec::new();
    for (file, positions) in places {
        let mut left = positions.iter();
        loop {
            let chunk: Vec<i64> = left.by_ref().take(CHUNK_ROWS).map(|position| i64::try_from(position).unwrap_or(i64::MAX)).collect();
            if chunk.is_empty() {
                break;
            }
            let rows = chunk.len();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(file, rows))),
                Arc::new(Int64Array::from(chunk)),
                Arc::new(Int8Array::from(vec![DELETE; rows])),
            ];
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
            batches.push(batch.map_err(|e| Error::new(ErrorCode::Internal, format!("rows to delete: {e}")))?);
        }
    }
    let table = MemTable::try_new(schema, vec![batches]).map_err(Error::from_datafusion)?;
    let plan = LogicalPlanBuilder::scan("places", provider_as_source(Arc::new(table)), None).and_then(LogicalPlanBuilder::build);
    plan.map_err(Error::from_datafusion)
}
