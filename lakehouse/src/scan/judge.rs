//! What the statistics of single files say about a condition: for deletes of whole files and for conflict checks.

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::Session;
use datafusion::common::Column;
use datafusion::logical_expr::Expr;

use chainalytics_common::{Error, ErrorCode, Result};

use super::files::{ScanFile, prune};
use super::provider::IcebergTableProvider;
use super::pruning::{FileStatistics, ScanColumns};
use crate::write::DataFileInfo;

impl IcebergTableProvider {
    /// For each file whether any of its rows may satisfy all of `filters`.
    pub(crate) fn may_match(&self, state: &dyn Session, filters: &[Expr], files: &[ScanFile]) -> Result<Vec<bool>> {
        let predicate = self.pruning_predicate(state, filters).map_err(Error::from_datafusion)?;
        let columns = self.scan_columns()?;
        Ok(prune(predicate.as_ref(), &FileStatistics { columns: &columns, files }))
    }

    /// Whether statistics prove that the file has no NULL (and no NaN) in any of these columns.
    pub(crate) fn without_nulls(&self, file: &ScanFile, columns: &[Column]) -> Result<bool> {
        let scan_columns = self.scan_columns()?;
        let files = std::slice::from_ref(file);
        let statistics = FileStatistics { columns: &scan_columns, files };
        Ok(columns.iter().all(|column| statistics.has_no_nulls(file, column)))
    }

    /// As [`Self::may_match`] for a file that is not in a manifest of the snapshot.
    pub(crate) fn info_may_match(&self, state: &dyn Session, filters: &[Expr], info: &DataFileInfo) -> Result<bool> {
        let metadata = self.loaded_metadata()?;
        let schema = metadata.current_schema();
        let spec = metadata
            .partition_spec_by_id(info.partition_spec_id)
            .ok_or_else(|| Error::new(ErrorCode::TableFormat, format!("unknown partition spec {}", info.partition_spec_id)))?;
        let partition_type =
            spec.partition_type(schema).map_err(|e| Error::new(ErrorCode::TableFormat, format!("partition spec {}: {e}", spec.spec_id())))?;
        let file = ScanFile::new(info.to_iceberg(schema, &partition_type)?, info.partition_spec_id);
        Ok(self.may_match(state, filters, &[file])?.first().copied().unwrap_or(true))
    }

    fn scan_columns(&self) -> Result<ScanColumns> {
        let schema = datafusion::catalog::TableProvider::schema(self);
        Ok(ScanColumns::new(self.loaded_metadata()?, self.iceberg_schema(), &schema))
    }
}

impl FileStatistics<'_> {
    fn has_no_nulls(&self, file: &ScanFile, column: &Column) -> bool {
        let Some((id, data_type)) = self.columns.id_and_type(column) else {
            return false;
        };
        let data = file.data_file();
        let floating = matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64);
        self.null_count(file, id) == Some(0) && (!floating || data.nan_value_counts().get(&id) == Some(&0))
    }
}

/// Whether an expression of non-null columns cannot be NULL, and is one that statistics judge exactly.
pub(crate) fn is_total(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Literal(value, _) => !value.is_null(),
        Expr::BinaryExpr(binary) => is_total(&binary.left) && is_total(&binary.right),
        Expr::Not(inner) | Expr::IsNull(inner) | Expr::IsNotNull(inner) => is_total(inner),
        Expr::Between(between) => is_total(&between.expr) && is_total(&between.low) && is_total(&between.high),
        Expr::InList(list) => is_total(&list.expr) && list.list.iter().all(is_total),
        _ => false,
    }
}
