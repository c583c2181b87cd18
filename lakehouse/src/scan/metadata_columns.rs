//! Columns that rows have beside the table's: where a row stands, and its lineage.
//! Source: Iceberg spec, "Reserved Field IDs" and "Row Lineage".

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use iceberg::spec::{NestedField, PrimitiveType, Type};
use serde::{Deserialize, Serialize};

use chainalytics_common::Result;

use super::partition_column::PartitionColumn;
use crate::err;

/// Name of the metadata column that holds the path of the data file a row came from.
pub const FILE_COLUMN: &str = "_file";
/// Name of the metadata column that holds a row's position in its data file.
pub const POSITION_COLUMN: &str = "_pos";
/// Name of the metadata column that holds the id of the partition spec of a row's data file.
pub const SPEC_ID_COLUMN: &str = "_spec_id";
/// Name of the metadata column that holds the partition values of a row's data file.
pub const PARTITION_COLUMN: &str = "_partition";
/// Name of the metadata column that holds a row's id, which it keeps when it moves to another file (format v3).
pub const ROW_ID_COLUMN: &str = "_row_id";
/// Name of the metadata column that holds the sequence number of the commit that changed a row last (format v3).
pub const LAST_UPDATED_COLUMN: &str = "_last_updated_sequence_number";

/// A metadata column of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataColumn {
    File,
    Position,
    SpecId,
    Partition,
    RowId,
    LastUpdated,
}

impl MetadataColumn {
    pub const ALL: [Self; 6] = [Self::File, Self::Position, Self::SpecId, Self::Partition, Self::RowId, Self::LastUpdated];
    /// What a row keeps when it moves to another file.
    pub const LINEAGE: [Self; 2] = [Self::RowId, Self::LastUpdated];

    /// The column with this name, letter case ignored.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name().eq_ignore_ascii_case(name))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::File => FILE_COLUMN,
            Self::Position => POSITION_COLUMN,
            Self::SpecId => SPEC_ID_COLUMN,
            Self::Partition => PARTITION_COLUMN,
            Self::RowId => ROW_ID_COLUMN,
            Self::LastUpdated => LAST_UPDATED_COLUMN,
        }
    }

    /// `partition` gives `_partition` its type, which is another in each table.
    pub(crate) fn field(self, partition: Option<&PartitionColumn>) -> Result<FieldRef> {
        let (data_type, nullable) = match self {
            Self::Partition => return partition.map_or_else(|| Err(err::internal("a read of _partition without its fields")), PartitionColumn::field),
            Self::File => (DataType::Utf8, false),
            Self::Position => (DataType::Int64, false),
            Self::SpecId => (DataType::Int32, false),
            // Rows of files that were written before the table had format v3 have none.
            Self::RowId | Self::LastUpdated => (DataType::Int64, true),
        };
        Ok(Arc::new(Field::new(self.name(), data_type, nullable)))
    }

    /// The reserved field of a column that data files may hold.
    pub(crate) fn stored_field(self) -> Option<NestedField> {
        let id = match self {
            Self::RowId => 2_147_483_540,
            Self::LastUpdated => 2_147_483_539,
            Self::File | Self::Position | Self::SpecId | Self::Partition => return None,
        };
        Some(NestedField::optional(id, self.name(), Type::Primitive(PrimitiveType::Long)))
    }
}

/// From what the rows of a data file inherit their lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Row id of the file's first row.
    pub first_row_id: i64,
    /// Data sequence number of the file.
    pub sequence_number: i64,
}

impl Lineage {
    /// Row ids: those stored, else counted from the file's first.
    pub(crate) fn row_ids(self, stored: &Int64Array, positions: &Int64Array) -> ArrayRef {
        let inherited = |at: usize| self.first_row_id.saturating_add(positions.value(at));
        let ids = (0..positions.len()).map(|at| if stored.is_valid(at) { stored.value(at) } else { inherited(at) });
        Arc::new(Int64Array::from_iter_values(ids))
    }

    /// Sequence numbers: those stored, else the file's.
    pub(crate) fn last_updated(self, stored: &Int64Array) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(stored.iter().map(|stored| stored.unwrap_or(self.sequence_number))))
    }
}

/// An array of 64-bit integers as such.
pub(crate) fn longs(array: &ArrayRef) -> Option<&Int64Array> {
    array.as_primitive_opt::<Int64Type>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_stored_wins_over_what_is_inherited() {
        let lineage = Lineage { first_row_id: 100, sequence_number: 7 };
        let stored = Int64Array::from(vec![Some(3), None, Some(5)]);
        let ids = lineage.row_ids(&stored, &Int64Array::from(vec![0, 1, 9]));
        assert_eq!(longs(&ids).unwrap().values(), &[3, 101, 5]);
        assert_eq!(longs(&lineage.last_updated(&stored)).unwrap().values(), &[3, 7, 5]);
    }
}
