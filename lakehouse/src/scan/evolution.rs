//! Columns by field id. Parquet's own reader finds columns by name, which is right as long as no name ever changed its
//! field id (rename, or drop and add again) and no nested type ever changed. Files of other tables are read by the ids
//! in their own schemas (`read`), which executors look into.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::spec::{MappedField, NameMapping, NestedFieldRef, PartitionSpecRef, TableMetadata, Transform, Type};
use lru::LruCache;
use object_store::ObjectStoreExt;
use parking_lot::Mutex;
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::schema::types::Type as ParquetType;
use serde_json::Value;

use chainalytics_common::{Error, ErrorCode, Result};

use super::files::ScanFile;
use crate::err;
use crate::store::{Location, StoreRegistry};
use crate::write::partition_json;

/// Footers remembered per process (a few hundred bytes each).
const CACHED_FOOTERS: usize = 20_000;

/// Whether reading by name is right for every file of the table: over all its schemas no field id has had
/// two names and no name two field ids.
pub fn names_are_stable(metadata: &TableMetadata) -> bool {
    let mut schemas: Vec<i32> = metadata.schemas_iter().map(|s| s.schema_id()).collect();
    schemas.sort_unstable();
    // Schemas that were removed from the metadata may have used other names.
    if schemas.iter().enumerate().any(|(i, id)| usize::try_from(*id).ok() != Some(i)) {
        return false;
    }
    let mut name_of: HashMap<i32, &str> = HashMap::new();
    let mut id_of: HashMap<&str, i32> = HashMap::new();
    for schema in metadata.schemas_iter() {
        for (id, name) in schema.field_id_to_name_map() {
            if *name_of.entry(*id).or_insert(name) != name.as_str() || *id_of.entry(name).or_insert(*id) != *id {
                return false;
            }
        }
    }
    true
}

/// Whether one of these columns is nested and had another type in another schema of the table.
pub fn nested_types_changed(metadata: &TableMetadata, columns: &[NestedFieldRef]) -> bool {
    let nested = |f: &&NestedFieldRef| !f.field_type.is_primitive();
    columns.iter().filter(nested).any(|column| {
        let before = metadata.schemas_iter().filter_map(|schema| schema.as_struct().field_by_id(column.id));
        before.into_iter().any(|old| old.field_type != column.field_type)
    })
}

/// Whether files may lack one of these columns, or a field within, that has a value for them.
pub fn has_defaults(columns: &[NestedFieldRef]) -> bool {
    columns.iter().any(|f| f.initial_default.is_some() || default_within(&f.field_type))
}

fn default_within(of: &Type) -> bool {
    match of {
        Type::Primitive(_) => false,
        Type::Struct(fields) => has_defaults(fields.fields()),
        Type::List(list) => default_within(&list.element_field.field_type),
        Type::Map(map) => default_within(&map.key_field.field_type) || default_within(&map.value_field.field_type),
    }
}

/// Table property: names for the columns of files without field ids. Iceberg spec, "Column Projection" and Appendix C.
const NAME_MAPPING: &str = "schema.name-mapping.default";

/// Names by field id for files without ids, nested fields included, if the table's mapping says more than that columns
/// have the names of the schema.
pub fn name_mapping(metadata: &TableMetadata) -> Result<Option<BTreeMap<i32, Vec<String>>>> {
    let Some(text) = metadata.properties().get(NAME_MAPPING) else { return Ok(None) };
    let mapping: NameMapping =
        serde_json::from_str(text).map_err(|e| Error::new(ErrorCode::TableFormat, format!("property {NAME_MAPPING} does not parse: {e}")))?;
    let mut names = BTreeMap::new();
    mapping.fields().iter().for_each(|field| collect_mapped(field, &mut names));
    let schema = metadata.current_schema();
    let plain = names.iter().all(|(id, names)| {
        let name = schema.field_by_id(*id).map(|f| f.name.as_str());
        names.iter().all(|n| Some(n.as_str()) == name)
    });
    Ok((!plain).then_some(names))
}

fn collect_mapped(field: &MappedField, names: &mut BTreeMap<i32, Vec<String>>) {
    if let Some(id) = field.field_id() {
        names.insert(id, field.names().to_vec());
    }
    field.fields().iter().for_each(|field| collect_mapped(field, names));
}

/// Whether files may lack columns whose values only their folders tell: identity partitions of imported files (spec,
/// "Column Projection").
pub fn has_folder_values(metadata: &TableMetadata) -> bool {
    let by_identity = |spec: &PartitionSpecRef| spec.fields().iter().any(|f| f.transform == Transform::Identity);
    metadata.properties().contains_key(NAME_MAPPING) && metadata.partition_specs_iter().any(by_identity)
}

/// The values of a file's identity partition fields by the id of their column.
pub fn folder_values(metadata: &TableMetadata, file: &ScanFile) -> Result<BTreeMap<i32, Value>> {
    let Some(spec) = metadata.partition_spec_by_id(file.spec_id) else { return Ok(BTreeMap::new()) };
    // Of a column that was dropped nothing is asked.
    let Ok(partition_type) = spec.partition_type(metadata.current_schema()) else { return Ok(BTreeMap::new()) };
    let values = partition_json(file.data_file().partition(), &partition_type)?;
    let identity = spec.fields().iter().zip(values).filter(|(field, _)| field.transform == Transform::Identity);
    Ok(identity.map(|(field, value)| (field.source_id, value)).collect())
}

/// The names that a file's own schema has.
#[derive(Debug, Default)]
pub struct FooterNames {
    by_id: HashMap<i32, String>,
}

impl FooterNames {
    /// Name of the column with this field id.
    pub fn get(&self, id: i32) -> Option<&str> {
        self.by_id.get(&id).map(String::as_str)
    }
}

static FOOTERS: LazyLock<Mutex<LruCache<String, Arc<FooterNames>>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(NonZeroUsize::new(CACHED_FOOTERS).unwrap_or(NonZeroUsize::MIN))));

/// Names as the schema of the file at `path` has them. `size` in bytes.
pub async fn footer_names(store: &Arc<StoreRegistry>, path: &str, size: u64) -> Result<Arc<FooterNames>> {
    if let Some(names) = FOOTERS.lock().get(path) {
        return Ok(Arc::clone(names));
    }
    let location = store.resolve(path)?;
    let metadata = ParquetMetaDataReader::new()
        .load_and_finish(FooterReader(location), size)
        .await
        .map_err(|e| err::storage_read(path, e))?;
    let root = metadata.file_metadata().schema_descr().root_schema();
    let mut names = FooterNames::default();
    collect_names(root, &mut names.by_id);
    let names = Arc::new(names);
    FOOTERS.lock().put(path.to_string(), Arc::clone(&names));
    Ok(names)
}

/// Ranges of one file, for Parquet's footer reader.
struct FooterReader(Location);

impl MetadataFetch for FooterReader {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let read = self.0.store.get_range(&self.0.path, range).await;
            read.map_err(|e| ParquetError::External(Box::new(e)))
        }
        .boxed()
    }
}

fn collect_names(node: &ParquetType, names: &mut HashMap<i32, String>) {
    let info = node.get_basic_info();
    if info.has_id() {
        names.insert(info.id(), info.name().to_string());
    }
    if let ParquetType::GroupType { fields, .. } = node {
        for field in fields {
            collect_names(field, names);
        }
    }
}
