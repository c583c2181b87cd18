//! Statistics of files and of a whole scan from manifest metrics: they decide join sides, build sizes and
//! whether `count(*)`, `min` and `max` need to read anything at all.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};

use super::files::ScanFile;
use super::values::literal_to_scalar;

/// Parquet pages decode to a few times their stored size; used only to compare inputs with each other.
const DECODED_PER_STORED_BYTE: u64 = 3;

/// A column of a scan for the statistics: its field id and Arrow type. Id `None` is a column without metrics.
#[derive(Debug, Clone)]
pub struct StatColumn {
    pub id: Option<i32>,
    pub data_type: DataType,
}

/// Statistics of one file.
pub fn file_statistics(file: &ScanFile, columns: &[StatColumn]) -> Statistics {
    scan_statistics(std::slice::from_ref(file), columns)
}

/// Statistics of all files together. The row count is exact: the caller must not use it for files with deletes.
pub fn scan_statistics(files: &[ScanFile], columns: &[StatColumn]) -> Statistics {
    let rows: u64 = files.iter().map(|f| f.data_file().record_count()).sum();
    let stored: u64 = files.iter().map(|f| f.data_file().file_size_in_bytes()).sum();
    Statistics {
        num_rows: Precision::Exact(count(rows)),
        total_byte_size: Precision::Inexact(count(stored.saturating_mul(DECODED_PER_STORED_BYTE))),
        column_statistics: columns.iter().map(|column| column_statistics(files, column)).collect(),
    }
}

fn column_statistics(files: &[ScanFile], column: &StatColumn) -> ColumnStatistics {
    let mut statistics = ColumnStatistics::new_unknown();
    let Some(id) = column.id else {
        return statistics;
    };
    let nulls: Option<u64> = files.iter().map(|f| f.data_file().null_value_counts().get(&id).copied()).sum();
    statistics.null_count = nulls.map_or(Precision::Absent, |n| Precision::Exact(count(n)));
    let stored: Option<u64> = files.iter().map(|f| f.data_file().column_sizes().get(&id).copied()).sum();
    statistics.byte_size = stored.map_or(Precision::Absent, |bytes| Precision::Inexact(count(bytes.saturating_mul(DECODED_PER_STORED_BYTE))));
    statistics.min_value = extreme(files, column, id, false);
    statistics.max_value = extreme(files, column, id, true);
    statistics
}

fn extreme(files: &[ScanFile], column: &StatColumn, id: i32, upper: bool) -> Precision<ScalarValue> {
    let mut best: Option<ScalarValue> = None;
    for file in files {
        let data = file.data_file();
        if data.null_value_counts().get(&id) == Some(&data.record_count()) {
            continue; // only nulls: no say in the extreme
        }
        let bounds = if upper { data.upper_bounds() } else { data.lower_bounds() };
        let Some(value) = bounds.get(&id).and_then(|d| literal_to_scalar(d.literal(), &column.data_type)) else {
            return Precision::Absent;
        };
        let better = match &best {
            None => true,
            Some(best) => match value.partial_cmp(best) {
                Some(order) => {
                    if upper {
                        order.is_gt()
                    } else {
                        order.is_lt()
                    }
                }
                None => return Precision::Absent,
            },
        };
        if better {
            best = Some(value);
        }
    }
    match best {
        None => Precision::Absent,
        Some(value) if bounds_are_values(&column.data_type) => Precision::Exact(value),
        Some(value) => Precision::Inexact(value),
    }
}

/// Whether bounds of this type are values of the column. Strings and binaries may be truncated, and floating
/// point bounds leave out NaN.
fn bounds_are_values(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Time64(_)
            | DataType::Timestamp(_, _)
            | DataType::Decimal128(_, _)
    )
}

fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
