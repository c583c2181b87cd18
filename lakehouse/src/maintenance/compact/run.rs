//! One file group to new data files: scan → (sort) → write, as a physical plan that the executor runs as it is, so that
//! the number of output files is the one planned.

use std::collections::BTreeSet;
use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::expressions::{Column, col, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, ScalarFunctionExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;
use iceberg::spec::{NullOrder, SortDirection, Transform};

use super::RewriteOptions;
use super::options::{Settings, SortBy, Strategy};
use super::plan::FileGroup;
use super::zorder::{is_orderable, zorder_function};
use crate::dml::{Write, lineage_columns};
use crate::err;
use crate::scan::{IcebergTableProvider, ScanOptions, SnapshotSelector};
use crate::table::Table;
use crate::write::{DataFileInfo, IcebergWriteExec, WriteSpec};

/// Column of the plan that rows in z-order are sorted by; no table's column is called so.
const ZORDER_COLUMN: &str = "\u{1}zorder";

/// Rewrites file groups of one table.
pub(super) struct GroupWriter<'a> {
    write: &'a Write<'a>,
    table: &'a Table,
    settings: &'a Settings,
    sort: Vec<SortBy>,
    /// Columns to sort by the interleaved bits of.
    zorder: Vec<String>,
    spec: WriteSpec,
}

impl<'a> GroupWriter<'a> {
    pub fn new(write: &'a Write<'a>, table: &'a Table, settings: &'a Settings, options: &RewriteOptions) -> Result<Self> {
        let (strategy, buffer_bytes_max) = (&options.strategy, options.buffer_bytes_max);
        let spec = WriteSpec::from_table(table)?;
        let mut spec = if lineage_columns(table).is_empty() { spec } else { spec.with_lineage()? };
        spec.target_file_size_bytes = settings.roll_bytes();
        spec.buffer_bytes_max = buffer_bytes_max.map_or(spec.buffer_bytes_max, |most| spec.buffer_bytes_max.min(most));
        let of_table = table_order(table);
        let sort = match strategy {
            Strategy::BinPack | Strategy::ZOrder(_) => Vec::new(),
            Strategy::Sort(terms) if terms.is_empty() => match &of_table {
                Some(terms) => terms.clone(),
                None => {
                    return Err(Error::new(
                        ErrorCode::ProcedureArgument,
                        format!("table {} has no sort order by columns; give one: sort_order => 'a DESC NULLS LAST, b'", table.ident()),
                    ));
                }
            },
            Strategy::Sort(terms) => terms.iter().map(|term| resolve(table, term)).collect::<Result<_>>()?,
        };
        if !sort.is_empty() && of_table.as_ref() == Some(&sort) {
            spec.sort_order_id = i32::try_from(table.metadata().default_sort_order_id()).ok();
        }
        let zorder = match strategy {
            Strategy::ZOrder(columns) => zorder_columns(table, columns)?,
            _ => Vec::new(),
        };
        Ok(Self { write, table, settings, sort, zorder, spec })
    }

    /// Writes the live rows of a group; the files written.
    pub async fn run(&self, group: &FileGroup) -> Result<Vec<DataFileInfo>> {
        let plan = self.plan(group).await?;
        let mut rows = self.write.executor.execute_physical(plan).await?;
        let mut files = Vec::new();
        while let Some(batch) = rows.try_next().await.map_err(Error::from_datafusion)? {
            let column = batch.column_by_name("data_file").ok_or_else(|| err::internal("no column 'data_file'"))?;
            let texts = cast(column, &DataType::Utf8).map_err(err::arrow)?;
            let texts = texts.as_string::<i32>();
            for text in (0..texts.len()).filter(|at| texts.is_valid(*at)).map(|at| texts.value(at)) {
                files.push(DataFileInfo::from_json(text)?);
            }
        }
        Ok(files)
    }

    async fn plan(&self, group: &FileGroup) -> Result<Arc<dyn ExecutionPlan>> {
        let only: BTreeSet<String> = group.files.iter().map(|file| file.path.clone()).collect();
        let options = ScanOptions { only_files: Some(Arc::new(only)), metadata_columns: lineage_columns(self.table).to_vec(), ..ScanOptions::default() };
        let provider = IcebergTableProvider::with_options(self.table, &SnapshotSelector::Current, options)?;
        let outputs = usize::try_from(self.settings.output_files(group.bytes())).unwrap_or(usize::MAX);
        let mut state = self.write.state.clone();
        let slots = state.config().target_partitions().max(1);
        // Sorting reads on all slots and merges; otherwise each output file is one partition's work.
        let sorts = !self.sort.is_empty() || !self.zorder.is_empty();
        let partitions = if sorts { slots } else { outputs };
        state.config_mut().options_mut().execution.target_partitions = partitions;
        let mut plan = provider.scan(&state, None, &[], None).await.map_err(Error::from_datafusion)?;
        if !sorts {
            if outputs == 1 && plan.output_partitioning().partition_count() > 1 {
                plan = Arc::new(CoalescePartitionsExec::new(plan));
            }
        } else {
            plan = self.sorted(plan)?;
        }
        Ok(Arc::new(IcebergWriteExec::new(plan, self.spec.clone(), Arc::clone(self.table.store()))))
    }

    fn sorted(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = plan.schema();
        if !self.zorder.is_empty() {
            return self.zordered(plan);
        }
        let terms = self
            .sort
            .iter()
            .map(|term| {
                let options = SortOptions { descending: term.descending, nulls_first: term.nulls_first };
                Ok(PhysicalSortExpr { expr: col(&term.column, &schema).map_err(Error::from_datafusion)?, options })
            })
            .collect::<Result<Vec<_>>>()?;
        sort_merged(plan, terms)
    }

    /// Rows in z-order: its value is computed once, sorted by, and left out again.
    fn zordered(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let failed = Error::from_datafusion;
        let schema = plan.schema();
        let size = |size: i32| lit(ScalarValue::Int32(Some(size)));
        let mut arguments = vec![size(self.settings.zorder_bytes_max), size(self.settings.zorder_text_bytes)];
        for column in &self.zorder {
            arguments.push(col(column, &schema).map_err(failed)?);
        }
        let options = Arc::clone(self.write.state.config().options());
        let value = ScalarFunctionExpr::try_new(zorder_function(), arguments, &schema, options).map_err(failed)?;
        let all = |schema: &SchemaRef| -> Result<Vec<ProjectionExpr>> {
            let fields = schema.fields().iter().enumerate().filter(|(_, field)| field.name() != ZORDER_COLUMN);
            Ok(fields.map(|(at, field)| ProjectionExpr { expr: Arc::new(Column::new(field.name(), at)), alias: field.name().clone() }).collect())
        };
        let mut exprs = all(&schema)?;
        exprs.push(ProjectionExpr { expr: Arc::new(value), alias: ZORDER_COLUMN.to_owned() });
        let valued: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new(exprs, plan).map_err(failed)?);
        let by = PhysicalSortExpr::new_default(col(ZORDER_COLUMN, &valued.schema()).map_err(failed)?);
        let sorted = sort_merged(valued, vec![by])?;
        let plain = all(&sorted.schema())?;
        Ok(Arc::new(ProjectionExec::try_new(plain, sorted).map_err(failed)?))
    }
}

/// Sorts each partition and merges them to one.
fn sort_merged(plan: Arc<dyn ExecutionPlan>, terms: Vec<PhysicalSortExpr>) -> Result<Arc<dyn ExecutionPlan>> {
    let ordering = LexOrdering::new(terms).ok_or_else(|| err::internal("a sort without terms"))?;
    let several = plan.output_partitioning().partition_count() > 1;
    let sorted: Arc<dyn ExecutionPlan> = Arc::new(SortExec::new(ordering.clone(), plan).with_preserve_partitioning(several));
    Ok(if several { Arc::new(SortPreservingMergeExec::new(ordering, sorted)) } else { sorted })
}

/// The columns of a z-order as the table spells them, without those that are the same all over a partition.
fn zorder_columns(table: &Table, columns: &[String]) -> Result<Vec<String>> {
    let constant: Vec<String> =
        table.partition_fields().into_iter().filter(|field| field.transform == "identity").map(|field| field.source).collect();
    let mut kept = Vec::with_capacity(columns.len());
    for column in columns {
        let term = resolve(table, &SortBy { column: column.clone(), descending: false, nulls_first: true })?;
        let field = table.schema().field_with_name(&term.column).map_err(err::arrow)?;
        if !is_orderable(field.data_type()) {
            return Err(Error::new(
                ErrorCode::ProcedureArgument,
                format!("column '{}' of table {} has type {}, which has no z-order", term.column, table.ident(), field.data_type()),
            ));
        }
        if !constant.contains(&term.column) {
            kept.push(term.column);
        }
    }
    if kept.is_empty() {
        let message = format!("all columns of the z-order are identity partitions of table {}: their values are the same in each file", table.ident());
        return Err(Error::new(ErrorCode::ProcedureArgument, message));
    }
    Ok(kept)
}

/// The table's sort order, if it is by columns alone.
fn table_order(table: &Table) -> Option<Vec<SortBy>> {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    let order = metadata.default_sort_order();
    if order.fields.is_empty() {
        return None;
    }
    order
        .fields
        .iter()
        .map(|field| {
            let column = schema.name_by_field_id(field.source_id).filter(|_| field.transform == Transform::Identity)?;
            Some(SortBy {
                column: column.to_owned(),
                descending: field.direction == SortDirection::Descending,
                nulls_first: field.null_order == NullOrder::First,
            })
        })
        .collect()
}

/// A term with its column as the table spells it.
fn resolve(table: &Table, term: &SortBy) -> Result<SortBy> {
    let fields = table.schema().fields();
    let exact = fields.iter().find(|field| *field.name() == term.column);
    let found = exact.or_else(|| fields.iter().find(|field| field.name().eq_ignore_ascii_case(&term.column)));
    match found {
        Some(field) => Ok(SortBy { column: field.name().clone(), ..term.clone() }),
        None => Err(Error::new(ErrorCode::ColumnNotFound, format!("table {} has no column '{}' to sort by", table.ident(), term.column))),
    }
}
