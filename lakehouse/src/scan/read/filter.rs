//! Takes deleted rows out of batches.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder, Int64Array};
use datafusion::arrow::row::RowConverter;
use datafusion::error::{DataFusionError, Result};
use roaring::RoaringTreemap;

/// Values that equality deletes name: rows of one set of columns, in Arrow's row encoding.
pub(super) type DeletedRows = HashSet<Box<[u8]>>;

/// Deletes by value: a row goes if its columns hold one of the deleted rows. Nulls are equal to each other.
pub(super) struct EqualityFilter {
    /// Columns of the spec, by index, in the order of the encoding.
    pub columns: Vec<usize>,
    pub converter: RowConverter,
    /// One set per delete file.
    pub deleted: Vec<Arc<DeletedRows>>,
}

/// Everything that was deleted from one data file.
#[derive(Default)]
pub(super) struct RowFilter {
    pub positions: Vec<Arc<RoaringTreemap>>,
    pub equality: Vec<EqualityFilter>,
}

impl RowFilter {
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.equality.is_empty()
    }

    /// Whether rows must come with their positions.
    pub fn needs_positions(&self) -> bool {
        !self.positions.is_empty()
    }

    /// The rows to keep; `None` keeps all. `column` gives a column of the spec.
    pub fn kept(&self, rows: usize, positions: Option<&Int64Array>, column: &dyn Fn(usize) -> Result<ArrayRef>) -> Result<Option<BooleanArray>> {
        let mut keep = BooleanBufferBuilder::new(rows);
        keep.append_n(rows, true);
        let mut dropped = false;
        if let (false, Some(positions)) = (self.positions.is_empty(), positions) {
            for (row, position) in positions.values().iter().enumerate() {
                let position = u64::try_from(*position).map_err(|_| DataFusionError::Internal("a negative row number".to_owned()))?;
                if self.positions.iter().any(|deleted| deleted.contains(position)) {
                    keep.set_bit(row, false);
                    dropped = true;
                }
            }
        }
        for filter in &self.equality {
            let columns = filter.columns.iter().map(|at| column(*at)).collect::<Result<Vec<_>>>()?;
            let encoded = filter.converter.convert_columns(&columns)?;
            for row in 0..rows {
                if keep.get_bit(row) && filter.deleted.iter().any(|deleted| deleted.contains(encoded.row(row).as_ref())) {
                    keep.set_bit(row, false);
                    dropped = true;
                }
            }
        }
        Ok(dropped.then(|| BooleanArray::new(keep.finish(), None)))
    }
}

/// Bytes that a set of rows takes, roughly.
pub(super) fn rows_size(rows: &DeletedRows) -> usize {
    rows.iter().map(|row| row.len() + 2 * size_of::<Box<[u8]>>()).sum()
}
