//! `IcebergTableProvider`: a table at one snapshot, as DataFusion's planner sees it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as DfResult, Statistics};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::conjunction as physical_conjunction;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{FormatVersion, Schema, TableMetadata};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use chainalytics_common::{Error, ErrorCode, Result};

use super::build::{NamedFile, ScanRequest, external};
use super::deletes::{DeleteIndex, DeleteRef, equality_ids, field_by_id};
use super::evolution::{folder_values, has_defaults, has_folder_values, name_mapping, names_are_stable, names_in_file};
use super::files::{PlannedFiles, ScanFile, plan_files};
use super::groups::{FileShape, balance};
use super::metadata_columns::MetadataColumn;
use super::pruning::ScanColumns;
use super::read::{IcebergReadExec, Output, ReadSpec, ReadUnit, unit_source};
use super::selector::SnapshotSelector;
use crate::ident::TableIdent;
use crate::store::StoreRegistry;
use crate::table::{Table, arrow_schema};

/// Footers read at the same time when a table's columns were renamed.
const FOOTER_READS: usize = 16;

/// How a provider reads its table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanOptions {
    /// Columns behind the table's.
    #[serde(default)]
    pub metadata_columns: Vec<MetadataColumn>,
    /// Reads only these data files (their paths as the manifests give them).
    #[serde(default)]
    pub only_files: Option<Arc<BTreeSet<String>>>,
}

/// An Iceberg table pinned to a snapshot. What later commits do is not seen; planning reads the manifests lazily.
pub struct IcebergTableProvider {
    ident: TableIdent,
    store: Arc<StoreRegistry>,
    metadata_location: String,
    /// `None` for a table without snapshots: it has no rows.
    snapshot_id: Option<i64>,
    iceberg_schema: Arc<Schema>,
    columns: Vec<(i32, FieldRef)>,
    schema: SchemaRef,
    options: ScanOptions,
    metadata: OnceCell<Arc<TableMetadata>>,
}

/// The wire form of a provider in a logical plan.
#[derive(Serialize, Deserialize)]
struct Wire {
    ident: TableIdent,
    metadata_location: String,
    snapshot_id: Option<i64>,
    schema: Schema,
    #[serde(default)]
    options: ScanOptions,
}

impl IcebergTableProvider {
    /// The table at the selected snapshot.
    pub fn try_new(table: &Table, at: &SnapshotSelector) -> Result<Self> {
        Self::with_options(table, at, ScanOptions::default())
    }

    /// The table at the selected snapshot, read with options.
    pub fn with_options(table: &Table, at: &SnapshotSelector, options: ScanOptions) -> Result<Self> {
        let metadata = Arc::clone(table.metadata());
        let snapshot_id = match at {
            // The head of the branch that the table stands for.
            SnapshotSelector::Current => table.current_snapshot_id(),
            at => at.resolve(&table.ident().to_string(), &metadata)?,
        };
        let schema = match snapshot_id.and_then(|id| metadata.snapshot_by_id(id)) {
            Some(snapshot) if at.uses_snapshot_schema() => snapshot
                .schema(&metadata)
                .map_err(|e| Error::new(ErrorCode::TableFormat, format!("table {}: schema of a snapshot: {e}", table.ident())))?,
            _ => Arc::clone(metadata.current_schema()),
        };
        let provider =
            Self::from_parts(table.ident().clone(), Arc::clone(table.store()), table.metadata_location().to_owned(), snapshot_id, schema, options)?;
        Ok(Self { metadata: OnceCell::new_with(Some(metadata)), ..provider })
    }

    fn from_parts(
        ident: TableIdent,
        store: Arc<StoreRegistry>,
        metadata_location: String,
        snapshot_id: Option<i64>,
        iceberg_schema: Arc<Schema>,
        options: ScanOptions,
    ) -> Result<Self> {
        let arrow = arrow_schema::to_arrow(&iceberg_schema)?;
        // Field ids stay out of the plan's schemas: they would differ from those of computed columns for no gain.
        let columns: Vec<(i32, FieldRef)> = iceberg_schema
            .as_struct()
            .fields()
            .iter()
            .zip(arrow.fields())
            .map(|(field, arrow)| (field.id, Arc::new(without_metadata(arrow))))
            .collect();
        let mut fields: Vec<FieldRef> = columns.iter().map(|(_, f)| Arc::clone(f)).collect();
        for column in &options.metadata_columns {
            if fields.iter().any(|field| field.name() == column.name()) {
                let message = format!("table {ident} has a column '{}', which Iceberg reserves for its own of that name", column.name());
                return Err(Error::new(ErrorCode::Unsupported, message));
            }
            fields.push(column.field());
        }
        Ok(Self {
            ident,
            store,
            metadata_location,
            snapshot_id,
            iceberg_schema,
            columns,
            schema: Arc::new(ArrowSchema::new(fields)),
            options,
            metadata: OnceCell::new(),
        })
    }

    /// The metadata columns that the table can give: lineage from format v3 on, none whose name a column of its own has.
    pub fn metadata_columns(&self) -> Vec<MetadataColumn> {
        let v3 = self.metadata.get().is_some_and(|metadata| metadata.format_version() == FormatVersion::V3);
        let given = |column: &MetadataColumn| v3 || !MetadataColumn::LINEAGE.contains(column);
        MetadataColumn::ALL.into_iter().filter(given).filter(|column| self.schema.index_of(column.name()).is_err()).collect()
    }

    /// The same table with metadata columns behind its own.
    pub fn with_metadata_columns(&self, columns: Vec<MetadataColumn>) -> Result<Self> {
        let options = ScanOptions { metadata_columns: columns, ..self.options.clone() };
        let (store, location, schema) = (Arc::clone(&self.store), self.metadata_location.clone(), Arc::clone(&self.iceberg_schema));
        let provider = Self::from_parts(self.ident.clone(), store, location, self.snapshot_id, schema, options)?;
        Ok(Self { metadata: self.metadata.clone(), ..provider })
    }

    pub fn ident(&self) -> &TableIdent {
        &self.ident
    }

    /// The snapshot whose rows are read; `None` for a table that was never written.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.snapshot_id
    }

    pub fn metadata_location(&self) -> &str {
        &self.metadata_location
    }

    /// The provider for a logical plan's wire form.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&Wire {
            ident: self.ident.clone(),
            metadata_location: self.metadata_location.clone(),
            snapshot_id: self.snapshot_id,
            schema: self.iceberg_schema.as_ref().clone(),
            options: self.options.clone(),
        })
        .map_err(|e| Error::new(ErrorCode::Internal, format!("cannot encode table {}: {e}", self.ident)))
    }

    /// The inverse of [`Self::to_bytes`]; reads nothing yet.
    pub fn from_bytes(bytes: &[u8], store: Arc<StoreRegistry>) -> Result<Self> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|e| Error::new(ErrorCode::Internal, format!("cannot decode a table of a plan: {e}")))?;
        Self::from_parts(wire.ident, store, wire.metadata_location, wire.snapshot_id, Arc::new(wire.schema), wire.options)
    }

    async fn metadata(&self) -> Result<&Arc<TableMetadata>> {
        self.metadata.get_or_try_init(|| self.store.metadata_cache().load_metadata(&self.store, &self.metadata_location)).await
    }

    /// The files whose rows may satisfy all of `filters` (over the table's columns, names unqualified).
    pub(crate) async fn plan_files(&self, state: &dyn Session, filters: &[Expr]) -> Result<PlannedFiles> {
        let metadata = self.metadata().await?;
        let Some(snapshot) = self.snapshot_id.and_then(|id| metadata.snapshot_by_id(id)) else {
            return match self.snapshot_id {
                None => Ok(PlannedFiles::default()),
                Some(id) => Err(Error::new(
                    ErrorCode::SnapshotNotFound,
                    format!("table {} has no snapshot {id}: it expired while the query was planned", self.ident),
                )),
            };
        };
        let scan_columns = ScanColumns::new(metadata, &self.iceberg_schema, &self.schema);
        let predicate = self.pruning_predicate(state, filters).map_err(Error::from_datafusion)?;
        let only: Option<HashSet<String>> = self.options.only_files.as_ref().map(|files| files.iter().cloned().collect());
        plan_files(&self.store, metadata, snapshot, &scan_columns, predicate.as_ref(), only.as_ref()).await
    }

    pub(super) fn iceberg_schema(&self) -> &Schema {
        &self.iceberg_schema
    }

    /// The metadata, for callers that made the provider from a loaded table.
    pub(super) fn loaded_metadata(&self) -> Result<&TableMetadata> {
        self.metadata
            .get()
            .map(Arc::as_ref)
            .ok_or_else(|| Error::new(ErrorCode::Internal, format!("the metadata of table {} is not loaded", self.ident)))
    }

    pub(super) fn pruning_predicate(&self, state: &dyn Session, filters: &[Expr]) -> DfResult<Option<PruningPredicate>> {
        let schema = Arc::new(DFSchema::try_from(Arc::clone(&self.schema))?);
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&schema))
            .with_config_options(Arc::clone(state.config().options()))
            .with_query_execution_start_time(state.execution_props().query_execution_start_time)
            .build();
        // Simplified first: a negation must become the opposite comparison to be judged.
        let simplifier = ExprSimplifier::new(context);
        let judged = filters.iter().filter(|f| is_plain(f)).filter_map(|filter| {
            let filter = simplifier.coerce(filter.clone(), &schema).and_then(|f| simplifier.simplify(f));
            filter.and_then(|f| state.create_physical_expr(f, &schema)).ok()
        });
        let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema)).try_build(physical_conjunction(judged));
        Ok(predicate.ok().filter(|p| !p.always_true()))
    }

    /// Gives each file the names of `schema`'s columns where they may differ from today's.
    async fn named(&self, metadata: &TableMetadata, schema: &Schema, files: Vec<ScanFile>) -> Result<Vec<NamedFile>> {
        let mapping = name_mapping(metadata)?;
        if names_are_stable(metadata) && mapping.is_none() && !has_defaults(schema) && !has_folder_values(metadata) {
            return Ok(files.into_iter().map(|file| NamedFile { file, names: None }).collect());
        }
        let mapping = mapping.as_ref();
        futures::stream::iter(files)
            .map(|file| async move {
                let names = names_in_file(&self.store, schema, mapping, &file).await?;
                let same = schema.as_struct().fields().iter().zip(&names).all(|(f, n)| n.as_ref() == Some(&f.name));
                Ok(NamedFile { file, names: (!same).then_some(names) })
            })
            .buffered(FOOTER_READS)
            .try_collect()
            .await
    }

    /// A scan by our own reader: rows were deleted, positions are asked for, or columns have defaults.
    async fn read_plan(
        &self,
        state: &dyn Session,
        metadata: &TableMetadata,
        projection: Option<&Vec<usize>>,
        files: Vec<ScanFile>,
        deletes: &DeleteIndex,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let wanted = projection.unwrap_or(&all);
        let deletes: Vec<Vec<DeleteRef>> = files.iter().map(|file| deletes.for_file(file)).collect();
        let mut fields = Vec::new();
        let mut outputs = Vec::with_capacity(wanted.len());
        let top = self.iceberg_schema.as_struct().fields();
        for index in wanted {
            outputs.push(match top.get(*index) {
                Some(field) => {
                    fields.push(Arc::clone(field));
                    Output::Column(fields.len() - 1)
                }
                None => match self.options.metadata_columns.get(*index - top.len()) {
                    Some(column) => Output::Metadata(*column),
                    None => return Err(Error::new(ErrorCode::Internal, format!("a scan of {} asks for column {index}", self.ident))),
                },
            });
        }
        for id in equality_ids(deletes.iter().flatten()) {
            if fields.iter().any(|f| f.id == id) {
                continue;
            }
            let field = field_by_id(metadata, id).ok_or_else(|| {
                Error::new(ErrorCode::TableFormat, format!("table {} has equality deletes by field {id}, which none of its schemas has", self.ident))
            })?;
            // Files written after it was dropped lack it.
            let mut field = field.as_ref().clone();
            field.required = false;
            if fields.iter().any(|f| f.name == field.name) {
                field.name = format!("{}#{id}", field.name);
            }
            fields.push(Arc::new(field));
        }
        let schema =
            Schema::builder().with_fields(fields).build().map_err(|e| Error::new(ErrorCode::TableFormat, format!("table {}: {e}", self.ident)))?;
        let shapes: Vec<FileShape<'_>> = files
            .iter()
            .map(|f| FileShape { bytes: f.data_file().file_size_in_bytes(), split_offsets: f.data_file().split_offsets().unwrap_or(&[]) })
            .collect();
        let groups = balance(&shapes, state.config().target_partitions());
        let rows = files.iter().map(|f| f.data_file().record_count()).sum();
        let bytes = files.iter().map(|f| f.data_file().file_size_in_bytes()).sum();
        let files = self.named(metadata, &schema, files).await?;
        let groups: Vec<Vec<ReadUnit>> = groups
            .into_iter()
            .map(|pieces| {
                let units = pieces.into_iter().map(|piece| {
                    let NamedFile { file, names } = &files[piece.file];
                    // Only a file that lacks columns need be told them.
                    let lacks = names.as_ref().is_some_and(|names| names.contains(&None));
                    Ok(ReadUnit {
                        path: file.path().to_owned(),
                        size: file.data_file().file_size_in_bytes(),
                        range: piece.range,
                        names: names.clone(),
                        constants: if lacks { folder_values(metadata, file)? } else { BTreeMap::new() },
                        deletes: deletes[piece.file].clone(),
                        spec_id: file.spec_id,
                        lineage: file.lineage(),
                    })
                });
                units.collect()
            })
            .collect::<Result<_>>()?;
        let spec = ReadSpec { table: self.ident.to_string(), schema, outputs, rows, bytes };
        let plan = IcebergReadExec::try_new(unit_source(&groups)?, Arc::new(spec), Arc::clone(&self.store))?;
        Ok(Arc::new(plan))
    }

    async fn scan_plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planned = self.plan_files(state, filters).await?;
        tracing::debug!(
            table = %self.ident,
            snapshot = self.snapshot_id,
            manifests = planned.manifests_total,
            manifests_read = planned.manifests_read,
            files = planned.data.len(),
            files_pruned = planned.files_pruned,
            deletes = planned.deletes.len(),
            "planned a scan"
        );
        let mut files = planned.data;
        if !files.is_empty() {
            let metadata = self.metadata().await?;
            let deletes = DeleteIndex::build(&planned.deletes, metadata)?;
            let native = |column: &MetadataColumn| *column == MetadataColumn::File;
            let own = !self.options.metadata_columns.iter().all(native) || has_defaults(&self.iceberg_schema) || has_folder_values(metadata);
            if own || files.iter().any(|file| !deletes.for_file(file).is_empty()) {
                return self.read_plan(state, metadata, projection, files, &deletes).await;
            }
        }
        // With filters above, a limit counts rows that pass them.
        let limit = limit.filter(|_| filters.is_empty());
        if let Some(limit) = limit {
            files = enough_for(files, limit);
        }
        let files = self.named(self.metadata().await?, &self.iceberg_schema, files).await?;
        let request = ScanRequest {
            state,
            store: &self.store,
            columns: &self.columns,
            metadata_columns: &self.options.metadata_columns,
            projection,
            limit,
        };
        request.build(files).map_err(Error::from_datafusion)
    }
}

/// Whether an expression can be judged by statistics: no subquery (its value is not known yet), nothing random.
pub(crate) fn is_plain(filter: &Expr) -> bool {
    let subquery = filter.exists(|e| Ok(matches!(e, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_))));
    matches!(subquery, Ok(false)) && !filter.is_volatile()
}

/// The first files that hold `limit` rows together.
fn enough_for(files: Vec<ScanFile>, limit: usize) -> Vec<ScanFile> {
    let mut rows = 0;
    let limit = limit as u64;
    files
        .into_iter()
        .take_while(|file| {
            let wanted = rows < limit;
            rows += file.data_file().record_count();
            wanted
        })
        .collect()
}

/// A field without metadata, and its children likewise.
pub(super) fn without_metadata(field: &FieldRef) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), field.is_nullable())
}

/// A type whose nested fields carry no metadata.
pub(crate) fn plain_type(data_type: &DataType) -> DataType {
    let strip = |f: &FieldRef| Arc::new(without_metadata(f));
    match data_type {
        DataType::List(item) => DataType::List(strip(item)),
        DataType::LargeList(item) => DataType::LargeList(strip(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(strip).collect::<Fields>()),
        DataType::Map(entries, sorted) => DataType::Map(strip(entries), *sorted),
        other => other.clone(),
    }
}

#[async_trait]
impl TableProvider for IcebergTableProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        // Files are pruned by them; every row is filtered again above the scan.
        let support = |filter: &&Expr| {
            if is_plain(filter) { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported }
        };
        Ok(filters.iter().map(support).collect())
    }

    fn statistics(&self) -> Option<Statistics> {
        let metadata = self.metadata.get()?;
        let rows = match self.snapshot_id {
            None => 0,
            Some(id) => {
                let summary = &metadata.snapshot_by_id(id)?.summary().additional_properties;
                summary.get("total-records")?.parse::<usize>().ok()?
            }
        };
        let mut statistics = Statistics::new_unknown(&self.schema);
        // Inexact: the summary is its writer's claim.
        statistics.num_rows = Precision::Inexact(rows);
        Some(statistics)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.scan_plan(state, projection, filters, limit).await.map_err(external)
    }
}

impl fmt::Debug for IcebergTableProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IcebergTableProvider").field("ident", &self.ident).field("snapshot_id", &self.snapshot_id).finish_non_exhaustive()
    }
}
