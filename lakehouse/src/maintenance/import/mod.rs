//! Import: Parquet files that are there already become files of a table. They stay where they are; nothing is copied.

mod footer;
mod partition;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chainalytics_common::{Error, ErrorCode, Result};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::ManifestContentType;

use super::files::{ListedFile, list};
use crate::commit::{CommitOptions, NAME_MAPPING, TableChange, Transaction, name_mapping_of};
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::store::{StoreRegistry, normalize_location};
use crate::table::Table;
use footer::{Imported, describe};
use partition::Folder;
pub use snapshot::{SnapshotOptions, snapshot_files};

/// Footers read at once unless the caller says otherwise.
const FOOTER_READS: usize = 16;

/// Which files are imported.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// A Parquet file, or a folder of them, with folders `column=value` below for a partitioned table.
    pub source: String,
    /// Only files of these partitions: column and value as the folders spell them.
    pub partition_filter: BTreeMap<String, String>,
    /// Does not look whether a file is part of the table already.
    pub allow_duplicates: bool,
    /// Footers read at once.
    pub parallelism: Option<usize>,
}

/// What was imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportOutcome {
    pub added_files: u64,
    pub changed_partitions: u64,
}

/// Adds Parquet files to a table. Files without field ids are read by the names of their columns: the table gets the
/// property `schema.name-mapping.default` if it has none.
///
/// # Errors
/// `InvalidArgument`: no files, files that are there already, folders that are not the table's partitioning;
/// `SchemaMismatch`: columns that do not fit; `StorageRead`: a file that is not Parquet.
pub async fn add_files(lakehouse: &Lakehouse, ident: &TableIdent, options: &ImportOptions) -> Result<ImportOutcome> {
    let table = lakehouse.catalog().load_table(ident).await?;
    let source = normalize_location(&options.source)?;
    let found = parquet_files(table.store(), &source).await?;
    if found.is_empty() {
        return Err(err::invalid(format!("there are no Parquet files under {source}")));
    }
    let mut chosen = Vec::with_capacity(found.len());
    for file in found {
        let folder = Folder::of(&table, &source, &file.uri)?;
        if folder.matches(&table, &options.partition_filter)? {
            chosen.push((file, folder));
        }
    }
    if !options.allow_duplicates {
        refuse_known(&table, chosen.iter().map(|(file, _)| file.uri.as_str()).collect()).await?;
    }
    let parallelism = options.parallelism.unwrap_or(FOOTER_READS).clamp(1, 256);
    let table_of_files = table.clone();
    let imported: Vec<Imported> = stream::iter(chosen)
        .map(|(file, folder)| {
            let table = table_of_files.clone();
            async move { describe(&table, file, folder).await }
        })
        .buffered(parallelism)
        .try_collect()
        .await?;
    if imported.is_empty() {
        return Ok(ImportOutcome::default());
    }
    let partitions: BTreeSet<String> = imported.iter().map(|file| format!("{:?}", file.info.partition)).collect();
    let by_name = imported.iter().any(|file| !file.has_ids);
    let outcome = ImportOutcome { added_files: imported.len() as u64, changed_partitions: partitions.len() as u64 };
    let schema_id = table.metadata().current_schema_id();
    let mut change = TableChange::append(ident.clone(), imported.into_iter().map(|file| file.info).collect()).validate(move |now| {
        // The footers were judged by the schema as it was.
        Ok(match now.metadata().current_schema_id() == schema_id {
            true => crate::commit::Decision::Commit,
            false => crate::commit::Decision::Conflict("the schema changed during the import".to_owned()),
        })
    });
    if by_name && table.property(NAME_MAPPING).is_none() {
        change = change.set_property(NAME_MAPPING, name_mapping_of(table.metadata().current_schema())?);
    }
    Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    Ok(outcome)
}

async fn parquet_files(store: &Arc<StoreRegistry>, source: &str) -> Result<Vec<ListedFile>> {
    let is_parquet = |uri: &str| {
        let name = uri.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        name.ends_with(".parquet") || name.ends_with(".parq") || !name.contains('.')
    };
    let mut files = Vec::new();
    for file in list(store, source).await? {
        let inner = file.uri.strip_prefix(source).unwrap_or(&file.uri);
        let hidden = inner.split('/').any(|part| part.starts_with(['.', '_']) && !part.contains('='));
        if hidden || file.bytes == 0 {
            continue;
        }
        if !is_parquet(&file.uri) {
            return Err(err::invalid(format!("{} is no Parquet file; name a folder of Parquet files alone", file.uri)));
        }
        files.push(file);
    }
    if files.is_empty() && is_parquet(source) && store.exists(source).await? {
        let at = store.resolve(source)?;
        let meta = object_store::ObjectStoreExt::head(at.store.as_ref(), &at.path)
            .await
            .map_err(|e| Error::new(ErrorCode::StorageRead, format!("cannot read {source}")).with_source(e))?;
        files.push(ListedFile { uri: source.to_owned(), bytes: meta.size, modified_ms: meta.last_modified.timestamp_millis() });
    }
    files.sort_by(|a, b| a.uri.cmp(&b.uri));
    Ok(files)
}

/// Fails if one of the files is live in the table.
async fn refuse_known(table: &Table, uris: BTreeSet<&str>) -> Result<()> {
    let Some(current) = table.current_snapshot_id() else { return Ok(()) };
    for file in table.manifests(current).await?.iter().filter(|file| file.content == ManifestContentType::Data) {
        for entry in table.manifest(file).await?.entries().iter().filter(|entry| entry.is_alive()) {
            if uris.contains(normalize_location(entry.file_path())?.as_str()) {
                return Err(err::invalid(format!(
                    "{} is part of table {} already; check_duplicate_files => false adds it again",
                    entry.file_path(),
                    table.ident()
                )));
            }
        }
    }
    Ok(())
}

/// What a table that was registered holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub current_snapshot_id: Option<i64>,
    pub total_records: Option<i64>,
    pub total_data_files: Option<i64>,
}

/// Takes a table up in the catalog by its metadata file.
///
/// # Errors
/// `TableExists`; `StorageRead` or `TableFormat` for a file that is no table metadata.
pub async fn register_table(lakehouse: &Lakehouse, ident: &TableIdent, metadata_file: &str) -> Result<Registered> {
    let location = normalize_location(metadata_file)?;
    if !lakehouse.store().exists(&location).await? {
        return Err(Error::new(ErrorCode::StorageRead, format!("there is no metadata file {location}")));
    }
    let table = lakehouse.catalog().register_table(ident, &location).await?;
    let snapshot = table.current_snapshot();
    let total = |key: &str| snapshot.as_ref().and_then(|s| s.summary.get(key)).and_then(|value| value.parse().ok());
    Ok(Registered {
        current_snapshot_id: table.current_snapshot_id(),
        total_records: total("total-records"),
        total_data_files: total("total-data-files"),
    })
}
