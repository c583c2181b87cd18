//! Columns by field id. Parquet files are read by name, which is right as long as no name ever changed its
//! field id (rename, or drop and add again). Tables where one did have their files' footers consulted, and
//! each file is read under the names that its columns had when it was written.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::spec::{NestedFieldRef, Schema, TableMetadata, Type};
use lru::LruCache;
use parking_lot::Mutex;
use object_store::ObjectStoreExt;
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::schema::types::Type as ParquetType;

use chainalytics_common::{Error, ErrorCode, Result};

use super::files::ScanFile;
use crate::store::{Location, StoreRegistry};

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

/// A column with a default for files that lack it, which filling with NULL would get wrong.
pub fn column_with_default(schema: &Schema) -> Option<&NestedFieldRef> {
    schema.as_struct().fields().iter().find(|f| f.initial_default.is_some())
}

/// The names under which `file` holds the columns of `schema`.
pub async fn names_in_file(store: &Arc<StoreRegistry>, schema: &Schema, file: &ScanFile) -> Result<FileNames> {
    let footer = footer_names(store, file).await?;
    if footer.is_empty() {
        // Files without field ids were imported; the name mapping that came with them gives today's names.
        return Ok(schema.as_struct().fields().iter().map(|f| Some(f.name.clone())).collect());
    }
    schema
        .as_struct()
        .fields()
        .iter()
        .map(|field| {
            let name = footer.get(&field.id).cloned();
            if name.is_some() {
                check_nested(&field.field_type, &footer, file.path())?;
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

/// Column names by field id.
type NamesById = Arc<HashMap<i32, String>>;

static FOOTERS: LazyLock<Mutex<LruCache<String, NamesById>>> = LazyLock::new(|| {
    Mutex::new(LruCache::new(NonZeroUsize::new(CACHED_FOOTERS).unwrap_or(NonZeroUsize::MIN)))
});

/// Names by field id as the file's own schema has them.
async fn footer_names(store: &Arc<StoreRegistry>, file: &ScanFile) -> Result<NamesById> {
    if let Some(names) = FOOTERS.lock().get(file.path()) {
        return Ok(Arc::clone(names));
    }
    let location = store.resolve(file.path())?;
    let size = file.data_file().file_size_in_bytes();
    let metadata = ParquetMetaDataReader::new().load_and_finish(FooterReader(location), size).await.map_err(|e| {
        Error::new(ErrorCode::StorageRead, format!("cannot read the footer of data file {}: {e}", file.path()))
    })?;
    let mut names = HashMap::new();
    collect_names(metadata.file_metadata().schema_descr().root_schema(), &mut names);
    let names = Arc::new(names);
    FOOTERS.lock().put(file.path().to_string(), Arc::clone(&names));
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
