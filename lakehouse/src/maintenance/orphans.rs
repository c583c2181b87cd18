//! Orphans: files under a table's location that no version of the table refers to, left by writers that failed before
//! their commit.

use std::collections::{BTreeMap, HashMap};

use chainalytics_common::Result;
use chrono::Utc;

use super::files::{ListedFile, delete_all, list};
use super::reach::everything;
use super::refuse_without_gc;
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::store::normalize_location;
use crate::table::Table;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Age from which files are looked at unless the caller says otherwise.
const OLDER_THAN_DEFAULT_MS: i64 = 3 * DAY_MS;
/// Schemes that name the same store.
const EQUAL_SCHEMES: [(&str, &str); 2] = [("s3a", "s3"), ("s3n", "s3")];

/// What happens to a file whose path a table refers to under another scheme or authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefixMismatch {
    /// The call fails and names it.
    #[default]
    Error,
    /// It stays.
    Ignore,
    /// It counts as an orphan.
    Delete,
}

/// Which files count as orphans.
#[derive(Debug, Clone, Default)]
pub struct OrphanOptions {
    /// Only files last modified before this time, milliseconds since 1970 UTC (default: three days ago). Files of
    /// writers at work have no reference yet.
    pub older_than_ms: Option<i64>,
    /// Folder to search (default: the table's location).
    pub location: Option<String>,
    /// Lists without deleting.
    pub dry_run: bool,
    /// Deletes files younger than a day, too.
    pub force: bool,
    pub max_concurrent_deletes: Option<usize>,
    /// Schemes that mean the same, beside `s3a` and `s3n` for `s3`.
    pub equal_schemes: BTreeMap<String, String>,
    /// Authorities (buckets, hosts) that mean the same.
    pub equal_authorities: BTreeMap<String, String>,
    pub prefix_mismatch: PrefixMismatch,
}

/// Finds orphans and, unless it is a dry run, deletes them; their URIs, sorted.
///
/// # Errors
/// `InvalidArgument`: the table forbids it (`gc.enabled`), the age is below a day, another table lies in the folder, or
/// prefixes differ. `StorageRead` if a manifest cannot be read: what it refers to is unknown then, so nothing is deleted.
pub async fn remove_orphan_files(lakehouse: &Lakehouse, ident: &TableIdent, options: &OrphanOptions) -> Result<Vec<String>> {
    let table = lakehouse.catalog().load_table(ident).await?;
    refuse_without_gc(&table, "removal of orphans")?;
    let now_ms = Utc::now().timestamp_millis();
    let older_than = options.older_than_ms.unwrap_or(now_ms - OLDER_THAN_DEFAULT_MS);
    if !options.dry_run && !options.force && older_than > now_ms - DAY_MS {
        return Err(err::invalid(
            "older_than lies less than 24 hours back: files of writers at work would be deleted; use dry_run => true to \
             look, or force => true if nobody writes",
        ));
    }
    let location = match &options.location {
        Some(location) => normalize_location(location)?,
        None => normalize_location(table.location())?,
    };
    refuse_other_tables(lakehouse, &table, &location).await?;

    // Listed before the table is read: what is committed meanwhile is then known to be referenced.
    let candidates: Vec<ListedFile> = list(lakehouse.store(), &location)
        .await?
        .into_iter()
        .filter(|file| file.modified_ms < older_than && !is_hidden(&file.uri, &location))
        .collect();
    let table = lakehouse.catalog().load_table(ident).await?;
    let referenced = everything(table.store(), table.metadata(), table.metadata_location()).await?;
    let orphans = compare(candidates, referenced, options)?;
    if !options.dry_run {
        let deleted = delete_all(table.store(), &orphans, options.max_concurrent_deletes).await;
        tracing::info!(table = %ident, found = orphans.len(), deleted, "removed orphan files");
    }
    Ok(orphans)
}

/// A URI taken apart: what must be equal, and what may be spelled differently.
struct Name {
    scheme: String,
    authority: String,
    path: String,
}

impl Name {
    fn parse(uri: &str, options: &OrphanOptions) -> Result<Self> {
        let uri = normalize_location(uri)?;
        let (scheme, rest) = uri.split_once("://").unwrap_or(("file", &uri));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = match options.equal_schemes.get(scheme) {
            Some(same) => same.clone(),
            None => EQUAL_SCHEMES.iter().find(|(other, _)| *other == scheme).map_or(scheme, |(_, same)| same).to_owned(),
        };
        let authority = options.equal_authorities.get(authority).cloned().unwrap_or_else(|| authority.to_owned());
        Ok(Self { scheme, authority, path: path.replace("//", "/") })
    }
}

fn compare(candidates: Vec<ListedFile>, referenced: impl IntoIterator<Item = String>, options: &OrphanOptions) -> Result<Vec<String>> {
    let mut known: HashMap<String, (String, String)> = HashMap::new();
    for uri in referenced {
        let name = Name::parse(&uri, options)?;
        known.insert(name.path, (name.scheme, name.authority));
    }
    let mut orphans = Vec::new();
    for file in candidates {
        let name = Name::parse(&file.uri, options)?;
        match known.get(&name.path) {
            None => orphans.push(file.uri),
            Some((scheme, authority)) if *scheme == name.scheme && *authority == name.authority => {}
            Some((scheme, authority)) => match options.prefix_mismatch {
                PrefixMismatch::Ignore => {}
                PrefixMismatch::Delete => orphans.push(file.uri),
                PrefixMismatch::Error => {
                    return Err(err::invalid(format!(
                        "{} is referred to as {scheme}://{authority}/…: are the two the same? Say so with equal_schemes or \
                         equal_authorities, or choose prefix_mismatch_mode IGNORE or DELETE",
                        file.uri
                    )));
                }
            },
        }
    }
    orphans.sort_unstable();
    Ok(orphans)
}

/// Names that begin with `.` or `_` are other programs' own, as everywhere in Hadoop's world; folders of partition
/// values are not.
fn is_hidden(uri: &str, location: &str) -> bool {
    let inner = uri.strip_prefix(location).unwrap_or(uri);
    inner.split('/').any(|part| part.starts_with(['.', '_']) && !part.contains('='))
}

/// Another table's files would look like orphans of this one.
async fn refuse_other_tables(lakehouse: &Lakehouse, table: &Table, location: &str) -> Result<()> {
    let catalog = lakehouse.catalog();
    let folder = format!("{location}/");
    for namespace in catalog.list_namespaces().await? {
        for other in catalog.list_tables(&namespace).await? {
            let Some(metadata) = catalog.metadata_location(&other).await? else { continue };
            let metadata = normalize_location(&metadata)?;
            if other != *table.ident() && metadata.starts_with(&folder) {
                return Err(err::invalid(format!("{location} holds files of table {other}, too; name a folder of {} alone", table.ident())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn file(uri: &str) -> ListedFile {
        ListedFile { uri: uri.to_owned(), bytes: 1, modified_ms: 0 }
    }

    #[test]
    fn spellings_of_one_file_are_one_file() {
        let options = OrphanOptions::default();
        let referenced = ["s3a://b/t/x".to_owned(), "file:/tmp/t/y".to_owned()];
        let found = compare(vec![file("s3://b/t/x"), file("file:///tmp/t/y"), file("file:///tmp/t/z")], referenced.clone(), &options);
        assert_eq!(found.unwrap(), ["file:///tmp/t/z"]);
        let other_bucket = vec![file("s3://c/t/x")];
        assert!(compare(other_bucket.clone(), referenced.clone(), &options).is_err());
        let equal = OrphanOptions { equal_authorities: [("c".to_owned(), "b".to_owned())].into(), ..options };
        assert_eq!(compare(other_bucket, referenced, &equal).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn hidden_files_are_left_to_their_owners() {
        let folder = "file:///t";
        assert!(is_hidden("file:///t/data/.part.tmp", folder));
        assert!(is_hidden("file:///t/_temporary/0/x", folder));
        assert!(!is_hidden("file:///t/data/_day=2026-01-01/x.parquet", folder));
    }
}
