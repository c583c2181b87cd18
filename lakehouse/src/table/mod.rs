//! A table as of one metadata file: schema, partitioning, properties and the ancestry of its snapshots.

pub mod arrow_schema;
mod document;
mod refs;
mod snapshots;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chainalytics_common::Result;
use iceberg::spec::{Manifest, ManifestFile, TableMetadata};

use crate::ident::TableIdent;
use crate::store::StoreRegistry;

pub(crate) use document::{SnapshotTexts, encode_metadata, parse_metadata};
pub use refs::{MAIN_BRANCH, RefInfo};
pub(crate) use refs::{Refs, ref_not_found, references, references_after};
pub use snapshots::SnapshotInfo;

/// One version of a table. Cheap to clone; never changes: load it again to see newer commits.
#[derive(Clone, Debug)]
pub struct Table {
    ident: TableIdent,
    metadata_location: String,
    metadata: Arc<TableMetadata>,
    arrow_schema: SchemaRef,
    store: Arc<StoreRegistry>,
    /// `None` for the main branch.
    branch: Option<String>,
    /// URIs below which the catalog lent credentials.
    lent: Arc<[String]>,
    /// When the first of them end, milliseconds since 1970.
    lent_until_ms: Option<i64>,
}

/// A field of the table's partition spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionField {
    /// Name of the partition field, for example `event_timestamp_day`.
    pub name: String,
    /// Column that it is computed from.
    pub source: String,
    /// Iceberg's spelling of the transform: `identity`, `day`, `bucket[16]`...
    pub transform: String,
}

impl Table {
    /// Wraps metadata that was read from (or just committed to) `metadata_location`.
    pub(crate) fn new(ident: TableIdent, metadata_location: String, metadata: Arc<TableMetadata>, store: Arc<StoreRegistry>) -> Result<Self> {
        let arrow_schema = Arc::new(arrow_schema::to_arrow(metadata.current_schema())?);
        Ok(Self { ident, metadata_location, metadata, arrow_schema, store, branch: None, lent: Arc::default(), lent_until_ms: None })
    }

    /// The same table, with where the catalog lent credentials for its files and until when.
    pub(crate) fn lent(self, prefixes: Vec<String>, until_ms: Option<i64>) -> Self {
        Self { lent: prefixes.into(), lent_until_ms: until_ms, ..self }
    }

    /// URIs below which the catalog lent credentials.
    pub(crate) fn lent_prefixes(&self) -> &Arc<[String]> {
        &self.lent
    }

    /// When the first lent credentials end, milliseconds since 1970.
    pub(crate) fn lent_until_ms(&self) -> Option<i64> {
        self.lent_until_ms
    }

    /// Reads a table from its metadata file, without a catalog.
    pub async fn from_metadata_location(ident: TableIdent, location: &str, store: Arc<StoreRegistry>) -> Result<Self> {
        let metadata = store.metadata_cache().load_metadata(&store, location).await?;
        Self::new(ident, location.to_owned(), metadata, store)
    }

    /// Name in the catalog.
    pub fn ident(&self) -> &TableIdent {
        &self.ident
    }

    /// URI of the metadata file this value was read from.
    pub fn metadata_location(&self) -> &str {
        &self.metadata_location
    }

    /// Base URI of the table's files.
    pub fn location(&self) -> &str {
        self.metadata.location()
    }

    /// The table's stable identity: survives renames, differs after drop and re-creation.
    pub fn uuid(&self) -> uuid::Uuid {
        self.metadata.uuid()
    }

    /// Current schema; every field carries its Iceberg id under `PARQUET:field_id`.
    pub fn schema(&self) -> &SchemaRef {
        &self.arrow_schema
    }

    /// Table properties.
    pub fn properties(&self) -> &HashMap<String, String> {
        self.metadata.properties()
    }

    /// One table property.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.metadata.properties().get(key).map(String::as_str)
    }

    /// Snapshot that the branch (the main one unless another was chosen) points at; none for a table that was never
    /// written.
    pub fn current_snapshot_id(&self) -> Option<i64> {
        self.head_in(&self.metadata).map(|snapshot| snapshot.snapshot_id())
    }

    /// Iceberg format version: 1, 2 or 3.
    pub fn format_version(&self) -> u8 {
        self.metadata.format_version() as u8
    }

    /// Fields of the default partition spec, in order; empty when the table is not partitioned.
    pub fn partition_fields(&self) -> Vec<PartitionField> {
        let schema = self.metadata.current_schema();
        self.metadata
            .default_partition_spec()
            .fields()
            .iter()
            .map(|field| PartitionField {
                name: field.name.clone(),
                source: schema.name_by_field_id(field.source_id).unwrap_or_default().to_owned(),
                transform: field.transform.to_string(),
            })
            .collect()
    }

    /// Rows of the current snapshot by its summary; row-level deletes are not subtracted. `None` when unknown.
    pub fn row_count(&self) -> Option<u64> {
        match self.head_in(&self.metadata) {
            None => Some(0),
            Some(snapshot) => snapshot.summary().additional_properties.get("total-records")?.parse().ok(),
        }
    }

    /// Stores that hold the table's files.
    pub fn store(&self) -> &Arc<StoreRegistry> {
        &self.store
    }

    /// The table as it would be after changes of its definition that are not committed yet.
    pub fn redefined(&self, edits: &[crate::commit::TableEdit]) -> Result<Self> {
        let metadata = crate::commit::redefined(self, edits)?;
        let table = Self::new(self.ident.clone(), self.metadata_location.clone(), metadata, Arc::clone(&self.store))?;
        Ok(Self { lent: Arc::clone(&self.lent), lent_until_ms: self.lent_until_ms, ..table })
    }

    /// The metadata itself, for the modules of this crate.
    pub(crate) fn metadata(&self) -> &Arc<TableMetadata> {
        &self.metadata
    }

    /// Manifests of one snapshot, as its manifest list gives them. Cached: a manifest list never changes.
    pub(crate) async fn manifests(&self, snapshot_id: i64) -> Result<Arc<Vec<ManifestFile>>> {
        let snapshot = self
            .metadata
            .snapshot_by_id(snapshot_id)
            .ok_or_else(|| crate::err::invalid(format!("table {} has no snapshot {snapshot_id}", self.ident)))?;
        let cache = self.store.metadata_cache();
        cache.load_manifest_list(&self.store, snapshot.manifest_list(), self.metadata.format_version()).await
    }

    /// Entries of one manifest with inherited values filled in. Cached.
    pub(crate) async fn manifest(&self, file: &ManifestFile) -> Result<Arc<Manifest>> {
        self.store.metadata_cache().load_manifest(&self.store, file).await
    }
}
