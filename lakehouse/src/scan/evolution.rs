//! Columns by field id. Parquet files are read by name, which is right as long as no name ever changed its
//! field id (rename, or drop and add again). Tables where one did have their files' footers consulted, and
//! each file is read under the names that its columns had when it was written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::spec::{NameMapping, PartitionSpecRef, Schema, TableMetadata, Transform, Type};
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
use crate::store::{Location, StoreRegistry};
use crate::write::partition_json;

/// Footers remembered per process (a few hundred bytes each).
const CACHED_FOOTERS: usize = 20_000;

/// The names that the columns of a scan have in a file, in the scan's order; `None` if the file lacks the column.
pub type FileNames = Vec<Option<String>>;

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

/// Whether the schema has a column with a default for files that lack it.
pub fn has_defaults(schema: &Schema) -> bool {
    schema.as_struct().fields().iter().any(|f| f.initial_default.is_some())
}

/// Table property: names for the columns of files without field ids. Iceberg spec, "Column Projection" and Appendix C.
const NAME_MAPPING: &str = "schema.name-mapping.default";

/// The table's name mapping, if it says more than that columns have the names of the schema.
pub fn name_mapping(metadata: &TableMetadata) -> Result<Option<NameMapping>> {
    let Some(text) = metadata.properties().get(NAME_MAPPING) else { return Ok(None) };
    let mapping: NameMapping =
        serde_json::from_str(text).map_err(|e| Error::new(ErrorCode::TableFormat, format!("property {NAME_MAPPING} does not parse: {e}")))?;
    let schema = metadata.current_schema();
    let plain = mapping.fields().iter().all(|field| {
        let name = field.field_id().and_then(|id| schema.field_by_id(id)).map(|f| f.name.as_str());
        field.names().iter().all(|n| Some(n.as_str()) == name)
    });
    Ok((!plain).then_some(mapping))
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

/// The names under which `file` holds the columns of `schema`.
pub async fn names_in_file(store: &Arc<StoreRegistry>, schema: &Schema, mapping: Option<&NameMapping>, file: &ScanFile) -> Result<FileNames> {
    let footer = footer_names(store, file.path(), file.data_file().file_size_in_bytes()).await?;
    let fields = schema.as_struct().fields().iter();
    if footer.by_id.is_empty() {
        // Files without field ids were imported.
        let in_file = |name: &String| footer.top.contains(name).then(|| name.clone());
        return Ok(fields
            .map(|f| match mapping.and_then(|m| m.fields().iter().find(|mapped| mapped.field_id() == Some(f.id))) {
                Some(mapped) => mapped.names().iter().find_map(in_file),
                None if mapping.is_some() => None,
                None => in_file(&f.name),
            })
            .collect());
    }
    fields
        .map(|field| {
            let name = footer.by_id.get(&field.id).cloned();
            if name.is_some() {
                check_nested(&field.field_type, &footer.by_id, file.path())?;
            }
            Ok(name)
        })
        .collect()
}

/// Fields within structs cannot be renamed by a projection: refuse rather than read NULLs.
fn check_nested(field_type: &Type, footer: &HashMap<i32, String>, path: &str) -> Result<()> {
    let Type::Struct(fields) = field_type else {
        return match field_type {
            Type::List(list) => check_nested(&list.element_field.field_type, footer, path),
            Type::Map(map) => check_nested(&map.value_field.field_type, footer, path),
            _ => Ok(()),
        };
    };
    for field in fields.fields() {
        if footer.get(&field.id).is_some_and(|name| *name != field.name) {
            return Err(Error::new(
                ErrorCode::TableFormat,
                format!(
                    "file {path} holds the nested field '{}' under another name; renamed fields within structs cannot be read: rewrite the table's files first",
                    field.name
                ),
            ));
        }
        check_nested(&field.field_type, footer, path)?;
    }
    Ok(())
}

/// The names that a file's own schema has.
#[derive(Debug, Default)]
pub struct FooterNames {
    by_id: HashMap<i32, String>,
    /// Of its top-level columns.
    top: HashSet<String>,
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
        .map_err(|e| Error::new(ErrorCode::StorageRead, format!("cannot read the footer of data file {path}: {e}")))?;
    let root = metadata.file_metadata().schema_descr().root_schema();
    let mut names = FooterNames::default();
    if let ParquetType::GroupType { fields, .. } = root {
        names.top.extend(fields.iter().map(|f| f.name().to_owned()));
    }
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
