//! A new table over Parquet files that are there already: its columns are theirs, its partitions the folders
//! `column=value` that they lie in. The files belong to somebody else, so the table never deletes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chainalytics_common::Result;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::parquet_to_arrow_schema;

use super::footer::read_footer;
use super::partition::{folders, is_null};
use super::{FOOTER_READS, ImportOptions, ImportOutcome, add_files, parquet_files};
use crate::catalog::CreateTable;
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::maintenance::files::ListedFile;
use crate::scan::plain_type;
use crate::store::{StoreRegistry, normalize_location};

/// The table to make.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Its files.
    pub import: ImportOptions,
    /// Where its own files will go; by default where the catalog puts tables.
    pub location: Option<String>,
    pub properties: BTreeMap<String, String>,
}

/// Makes a table of a folder of Parquet files without copying them.
///
/// # Errors
/// `TableExists`; `InvalidArgument` for no files or a location within the source; `SchemaMismatch` for files whose
/// columns contradict each other.
pub async fn snapshot_files(lakehouse: &Lakehouse, ident: &TableIdent, options: &SnapshotOptions) -> Result<ImportOutcome> {
    let source = normalize_location(&options.import.source)?;
    let store = lakehouse.store();
    let files = parquet_files(store, &source).await?;
    if files.is_empty() {
        return Err(err::invalid(format!("there are no Parquet files under {source}")));
    }
    if let Some(location) = &options.location
        && format!("{}/", normalize_location(location)?).starts_with(&format!("{source}/"))
    {
        return Err(err::invalid(format!("the new table's location {location} lies within its source {source}")));
    }
    let partitions = partition_columns(&source, files.iter().map(|file| file.uri.as_str()));
    let parallelism = options.import.parallelism.unwrap_or(FOOTER_READS).clamp(1, 256);
    let schemas: Vec<Schema> = stream::iter(files)
        .map(|file| {
            let store = Arc::clone(store);
            async move { schema_of(&store, &file).await }
        })
        .buffered(parallelism)
        .try_collect()
        .await?;
    let of_files = Schema::try_merge(schemas)
        .map_err(|e| chainalytics_common::Error::new(chainalytics_common::ErrorCode::SchemaMismatch, format!("the files of {source}: {e}")))?;
    let mut create = CreateTable::new(ident.clone(), with_partitions(&of_files, &partitions));
    for (name, _) in &partitions {
        create = create.partitioned_by(name, "identity");
    }
    create.location.clone_from(&options.location);
    create.properties.clone_from(&options.properties);
    create.properties.insert("gc.enabled".to_owned(), "false".to_owned());
    create.properties.insert("snapshot".to_owned(), "true".to_owned());
    lakehouse.catalog().create_table(create, false).await?;
    match add_files(lakehouse, ident, &options.import).await {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            // It must not stay behind empty.
            let dropped = lakehouse.catalog().drop_table(ident, false).await;
            tracing::debug!(table = %ident, ?dropped, "removed the table of a failed snapshot");
            Err(error)
        }
    }
}

async fn schema_of(store: &Arc<StoreRegistry>, file: &ListedFile) -> Result<Schema> {
    let footer = read_footer(store, file).await?;
    let meta = footer.file_metadata();
    let schema = parquet_to_arrow_schema(meta.schema_descr(), meta.key_value_metadata());
    schema.map(|schema| optional(&schema)).map_err(|e| err::metadata(format!("{}: its schema: {e}", file.uri)))
}

/// A file's columns, none required, without what only Parquet's reader would want to know.
fn optional(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|field| Field::new(field.name(), plain_type(field.data_type()), true)).collect::<Vec<_>>())
}

/// The columns of the files, then those that only the folders tell.
fn with_partitions(of_files: &Schema, partitions: &[(String, DataType)]) -> SchemaRef {
    let mut fields: Vec<Field> = of_files.fields().iter().map(|field| field.as_ref().clone()).collect();
    for (name, data_type) in partitions {
        // A value of the folder wins over what the file may say; its type stays the file's.
        if !fields.iter().any(|field| field.name().eq_ignore_ascii_case(name)) {
            fields.push(Field::new(name, data_type.clone(), true));
        }
    }
    Arc::new(Schema::new(fields))
}

/// The columns that folders tell, in their order, with the narrowest type that has all values.
fn partition_columns<'a>(source: &str, uris: impl Iterator<Item = &'a str>) -> Vec<(String, DataType)> {
    let mut columns: Vec<(String, Option<DataType>)> = Vec::new();
    for uri in uris {
        for (name, value) in folders(source, uri) {
            let seen = (!is_null(&value)).then(|| type_of(&value));
            match columns.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                Some((_, known)) => *known = wider(known.take(), seen),
                None => columns.push((name, seen)),
            }
        }
    }
    columns.into_iter().map(|(name, data_type)| (name, data_type.unwrap_or(DataType::Utf8))).collect()
}

fn type_of(value: &str) -> DataType {
    // A leading zero or sign would be lost.
    let plain = value == "0" || !value.trim_start_matches('-').starts_with('0') && !value.starts_with('+');
    if plain && value.parse::<i32>().is_ok() {
        DataType::Int32
    } else if plain && value.parse::<i64>().is_ok() {
        DataType::Int64
    } else if value.len() == 10 && value.parse::<chrono::NaiveDate>().is_ok() {
        DataType::Date32
    } else {
        DataType::Utf8
    }
}

fn wider(a: Option<DataType>, b: Option<DataType>) -> Option<DataType> {
    match (a, b) {
        (None, other) | (other, None) => other,
        (Some(a), Some(b)) if a == b => Some(a),
        (Some(DataType::Int32 | DataType::Int64), Some(DataType::Int32 | DataType::Int64)) => Some(DataType::Int64),
        _ => Some(DataType::Utf8),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn folders_tell_names_and_types() {
        let files = [
            "file:///d/day=2026-01-01/n=1/id=07/f.parquet",
            "file:///d/day=2026-01-02/n=5000000000/id=8/f.parquet",
            "file:///d/day=__HIVE_DEFAULT_PARTITION__/n=2/id=9/f.parquet",
        ];
        let found = partition_columns("file:///d", files.into_iter());
        let expected = [("day", DataType::Date32), ("n", DataType::Int64), ("id", DataType::Utf8)];
        assert_eq!(found, expected.map(|(name, data_type)| (name.to_owned(), data_type)));
    }
}
