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
use iceberg::spec::{FormatVersion, NestedFieldRef, Schema, TableMetadata};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use chainalytics_common::{Error, ErrorCode, Result};

use super::build::{ScanRequest, change_fields, external};
use super::changes::{Change, ChangedFile, Incremental, SnapshotRange, appended, changed, snapshots};
use super::deletes::{DeleteIndex, DeleteRef, equality_ids, field_by_id};
use super::evolution::{folder_values, has_defaults, has_folder_values, name_mapping, names_are_stable, nested_types_changed};
use super::files::{PlannedFiles, ScanFile, plan_files, prune};
use super::groups::{FileShape, balance};
use super::lent::with_lent;
use super::metadata_columns::MetadataColumn;
use super::partition_column::PartitionColumn;
use super::pruning::{FileStatistics, ScanColumns};
use super::read::{IcebergReadExec, Output, ReadSpec, ReadUnit, unit_source};
use super::selector::SnapshotSelector;
use crate::ident::TableIdent;
use crate::store::{LentCredentials, StoreRegistry};
use crate::table::{Table, arrow_schema};

/// How a provider reads its table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanOptions {
    /// Columns behind the table's.
    #[serde(default)]
    pub metadata_columns: Vec<MetadataColumn>,
    /// The fields of `_partition`, if it is one of them.
    #[serde(default)]
    pub partition: Option<PartitionColumn>,
    /// Reads only these data files (their paths as the manifests give them).
    #[serde(default)]
    pub only_files: Option<Arc<BTreeSet<String>>>,
    /// Reads what happened between snapshots instead of the rows of one.
    #[serde(default)]
    pub incremental: Option<Incremental>,
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
    /// URIs below which the catalog lent credentials.
    lent: Arc<[String]>,
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
    /// What who plans further needs to read the table's metadata and data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lent: Vec<LentCredentials>,
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
        Ok(Self { metadata: OnceCell::new_with(Some(metadata)), lent: Arc::clone(table.lent_prefixes()), ..provider })
    }

    /// What happened between two snapshots of the table, in its current schema. An end that is left open is the head of
    /// the table's branch.
    ///
    /// # Errors
    /// `SnapshotNotFound` if an end is unknown, or the beginning is no ancestor of the end.
    pub fn incremental(table: &Table, incremental: Incremental) -> Result<Self> {
        let range = incremental.range();
        let until = range.until.or(table.current_snapshot_id());
        let range = SnapshotRange { until, ..range };
        snapshots(&table.ident().to_string(), table.metadata(), range)?;
        let incremental = match incremental {
            Incremental::Appends(_) => Incremental::Appends(range),
            Incremental::Changes(_) => Incremental::Changes(range),
        };
        let options = ScanOptions { incremental: Some(incremental), ..ScanOptions::default() };
        Self::with_options(table, &SnapshotSelector::Current, options)
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
            fields.push(column.field(options.partition.as_ref())?);
        }
        if options.incremental.is_some_and(|i| i.is_log()) {
            fields.extend(change_fields());
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
            lent: Arc::default(),
        })
    }

    /// The metadata columns that the table can give: lineage from format v3 on, partition values if it has
    /// any, none whose name a column of its own has.
    pub fn metadata_columns(&self) -> Vec<MetadataColumn> {
        let metadata = self.metadata.get();
        let v3 = metadata.is_some_and(|metadata| metadata.format_version() == FormatVersion::V3);
        let partitioned = metadata.is_some_and(|metadata| PartitionColumn::of(metadata).is_some());
        let given = |column: &MetadataColumn| match column {
            MetadataColumn::RowId | MetadataColumn::LastUpdated => v3,
            MetadataColumn::Partition => partitioned,
            MetadataColumn::File | MetadataColumn::Position | MetadataColumn::SpecId => true,
        };
        MetadataColumn::ALL.into_iter().filter(given).filter(|column| self.schema.index_of(column.name()).is_err()).collect()
    }

    /// The same table with metadata columns behind its own.
    pub fn with_metadata_columns(&self, columns: Vec<MetadataColumn>) -> Result<Self> {
        let partition = match columns.contains(&MetadataColumn::Partition) {
            true => PartitionColumn::of(self.loaded_metadata()?),
            false => None,
        };
        let options = ScanOptions { metadata_columns: columns, partition, ..self.options.clone() };
        let (store, location, schema) = (Arc::clone(&self.store), self.metadata_location.clone(), Arc::clone(&self.iceberg_schema));
        let provider = Self::from_parts(self.ident.clone(), store, location, self.snapshot_id, schema, options)?;
        Ok(Self { metadata: self.metadata.clone(), lent: Arc::clone(&self.lent), ..provider })
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
            lent: self.store.lent_at(&self.lent)?,
        })
        .map_err(|e| Error::new(ErrorCode::Internal, format!("cannot encode table {}: {e}", self.ident)))
    }

    /// The inverse of [`Self::to_bytes`]; reads nothing yet.
    pub fn from_bytes(bytes: &[u8], store: Arc<StoreRegistry>) -> Result<Self> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|e| Error::new(ErrorCode::Internal, format!("cannot decode a table of a plan: {e}")))?;
        for credentials in &wire.lent {
            store.lend(credentials)?;
        }
        let lent = wire.lent.iter().map(|credentials| credentials.prefix().to_owned()).collect();
        let provider = Self::from_parts(wire.ident, store, wire.metadata_location, wire.snapshot_id, Arc::new(wire.schema), wire.options)?;
        Ok(Self { lent, ..provider })
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

    /// Whether files may hold these columns in another form than the schema's: their own schemas must be consulted.
    fn by_id(&self, metadata: &TableMetadata, columns: &[NestedFieldRef]) -> Result<bool> {
        Ok(!names_are_stable(metadata)
            || nested_types_changed(metadata, columns)
            || has_defaults(columns)
            || has_folder_values(metadata)
            || name_mapping(metadata)?.is_some())
    }

    /// The table's columns that a projection asks for.
    fn projected(&self, projection: Option<&Vec<usize>>) -> Vec<NestedFieldRef> {
        let top = self.iceberg_schema.as_struct().fields();
        match projection {
            Some(indices) => indices.iter().filter_map(|i| top.get(*i).cloned()).collect(),
            None => top.to_vec(),
        }
    }

    /// A scan by our own reader: rows were deleted, positions are asked for, or columns must be found by id.
    fn read_plan(
        &self,
        state: &dyn Session,
        metadata: &TableMetadata,
        projection: Option<&Vec<usize>>,
        files: Vec<FileRead>,
        fetch: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let wanted = projection.unwrap_or(&all);
        let mut fields = Vec::new();
        let mut outputs = Vec::with_capacity(wanted.len());
        let top = self.iceberg_schema.as_struct().fields();
        for index in wanted {
            outputs.push(match top.get(*index) {
                Some(field) => {
                    fields.push(Arc::clone(field));
                    Output::Column(fields.len() - 1)
                }
                None => {
                    let at = index - top.len();
                    match (self.options.metadata_columns.get(at), self.options.incremental.map(|_| at - self.options.metadata_columns.len().min(at))) {
                        (Some(column), _) => Output::Metadata(*column),
                        (None, Some(0)) => Output::ChangeType,
                        (None, Some(1)) => Output::ChangeOrdinal,
                        (None, Some(2)) => Output::CommitSnapshot,
                        _ => return Err(Error::new(ErrorCode::Internal, format!("a scan of {} asks for column {index}", self.ident))),
                    }
                }
            });
        }
        for id in equality_ids(files.iter().flat_map(|f| f.deletes.iter().chain(&f.among))) {
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
        let by_id = self.by_id(metadata, &fields)?;
        let folders = has_folder_values(metadata);
        let schema =
            Schema::builder().with_fields(fields).build().map_err(|e| Error::new(ErrorCode::TableFormat, format!("table {}: {e}", self.ident)))?;
        let shapes: Vec<FileShape<'_>> = files
            .iter()
            .map(|f| f.file.data_file())
            .map(|f| FileShape { bytes: f.file_size_in_bytes(), split_offsets: f.split_offsets().unwrap_or(&[]) })
            .collect();
        let groups = balance(&shapes, state.config().target_partitions());
        let rows = files.iter().map(|f| f.file.data_file().record_count()).sum();
        let bytes = files.iter().map(|f| f.file.data_file().file_size_in_bytes()).sum();
        let groups: Vec<Vec<ReadUnit>> = groups
            .into_iter()
            .map(|pieces| {
                let units = pieces.into_iter().map(|piece| {
                    let FileRead { file, deletes, among, change } = &files[piece.file];
                    Ok(ReadUnit {
                        path: file.path().to_owned(),
                        size: file.data_file().file_size_in_bytes(),
                        range: piece.range,
                        constants: if folders { folder_values(metadata, file)? } else { BTreeMap::new() },
                        deletes: deletes.clone(),
                        among: among.clone(),
                        change: *change,
                        spec_id: file.spec_id,
                        lineage: file.lineage(),
                        partition: match &self.options.partition {
                            Some(partition) => partition.values(metadata, file)?,
                            None => Vec::new(),
                        },
                    })
                });
                units.collect()
            })
            .collect::<Result<_>>()?;
        let spec = ReadSpec {
            table: self.ident.to_string(),
            schema,
            outputs,
            by_id,
            names: if by_id { name_mapping(metadata)? } else { None },
            undeleted: files.iter().all(|f| f.deletes.is_empty() && f.among.is_empty()),
            partition: self.options.partition.clone(),
            filter: None,
            fetch,
            rows,
            bytes,
        };
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
        if let Some(incremental) = self.options.incremental {
            return self.incremental_plan(state, projection, filters, incremental).await;
        }
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
        // With filters above, a limit counts rows that pass them.
        let limit = limit.filter(|_| filters.is_empty());
        let mut files = planned.data;
        if !files.is_empty() {
            let metadata = self.metadata().await?;
            let deletes = DeleteIndex::build(&planned.deletes, metadata)?;
            let deleted = !deletes.is_empty() && files.iter().any(|file| !deletes.for_file(file).is_empty());
            if let (false, Some(limit)) = (deleted, limit) {
                files = enough_for(files, limit);
            }
            let native = |column: &MetadataColumn| *column == MetadataColumn::File;
            if deleted || !self.options.metadata_columns.iter().all(native) || self.by_id(metadata, &self.projected(projection))? {
                let files = files.into_iter().map(|file| FileRead { deletes: deletes.for_file(&file), ..FileRead::new(file) }).collect();
                return self.read_plan(state, metadata, projection, files, limit);
            }
        }
        self.native_plan(state, projection, files, limit)
    }

    /// What happened between snapshots, as far as `filters` do not rule files out.
    async fn incremental_plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        incremental: Incremental,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let metadata = self.metadata().await?;
        let table = self.ident.to_string();
        let files: Vec<FileRead> = match incremental {
            Incremental::Appends(range) => appended(&self.store, &table, metadata, range).await?.into_iter().map(FileRead::new).collect(),
            Incremental::Changes(range) => changed(&self.store, &table, metadata, range).await?.into_iter().map(FileRead::from).collect(),
        };
        let columns = ScanColumns::new(metadata, &self.iceberg_schema, &self.schema);
        let predicate = self.pruning_predicate(state, filters).map_err(Error::from_datafusion)?;
        let judged: Vec<ScanFile> = files.iter().map(|f| f.file.clone()).collect();
        let kept = prune(predicate.as_ref(), &FileStatistics { columns: &columns, files: &judged });
        let files: Vec<FileRead> = files.into_iter().zip(kept).filter_map(|(file, keep)| keep.then_some(file)).collect();
        let native = |column: &MetadataColumn| *column == MetadataColumn::File;
        let own = incremental.is_log() || !self.options.metadata_columns.iter().all(native);
        if !files.is_empty() && (own || self.by_id(metadata, &self.projected(projection))?) {
            return self.read_plan(state, metadata, projection, files, None);
        }
        self.native_plan(state, projection, files.into_iter().map(|f| f.file).collect(), None)
    }

    /// A scan by DataFusion's own reader.
    fn native_plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        files: Vec<ScanFile>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let request = ScanRequest {
            state,
            store: &self.store,
            columns: &self.columns,
            metadata_columns: &self.options.metadata_columns,
            partition: self.options.partition.as_ref(),
            change_columns: self.options.incremental.is_some_and(|i| i.is_log()),
            projection,
            limit,
        };
        request.build(files).map_err(Error::from_datafusion)
    }
}

/// A file to read, with what was deleted from it.
struct FileRead {
    file: ScanFile,
    deletes: Vec<DeleteRef>,
    among: Vec<DeleteRef>,
    change: Option<Change>,
}

impl FileRead {
    fn new(file: ScanFile) -> Self {
        Self { file, deletes: Vec::new(), among: Vec::new(), change: None }
    }
}

impl From<ChangedFile> for FileRead {
    fn from(changed: ChangedFile) -> Self {
        Self { file: changed.file, deletes: changed.deletes, among: changed.among, change: Some(changed.change) }
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
        if self.options.incremental.is_some() {
            return None;
        }
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
        let plan = self.scan_plan(state, projection, filters, limit).await.map_err(external)?;
        with_lent(plan, &self.lent, &self.store).map_err(external)
    }
}

impl fmt::Debug for IcebergTableProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IcebergTableProvider").field("ident", &self.ident).field("snapshot_id", &self.snapshot_id).finish_non_exhaustive()
    }
}
