//! A warehouse whose state can be put back, opened by one process after the other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chainalytics_common::{Error, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;
use tempfile::TempDir;

use super::faults::{FaultyStore, Faults};
use crate::catalog::CatalogOptions;
use crate::dml::WriteOptions;
use crate::exec::LocalExecutor;
use crate::lakehouse::Lakehouse;
use crate::maintenance::{OrphanOptions, remove_orphan_files};
use crate::sql::{StatementResult, execute};
use crate::store::StoreRegistry;
use crate::table::Table;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

pub struct Place {
    folder: TempDir,
    catalogs: AtomicU64,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), catalogs: AtomicU64::new(0) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn catalog(&self) -> PathBuf {
        self.path().join(format!("catalog-{}.db", self.catalogs.load(Ordering::SeqCst)))
    }

    /// A process that has read nothing yet.
    pub async fn process(&self, faults: Option<&Arc<Faults>>) -> Process {
        let path = self.path().display();
        let options = CatalogOptions {
            name: "proof".to_owned(),
            uri: format!("sqlite:///{}", self.catalog().display()),
            busy_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            connections_max: 4,
            warehouse: format!("{path}/warehouse"),
        };
        let store = StoreRegistry::local();
        if let Some(faults) = faults {
            store.register_store(&"file:///".parse().unwrap(), FaultyStore::new(Arc::clone(faults)));
        }
        let lakehouse = Lakehouse::open_with(options, "proof".to_owned(), store).await.unwrap();
        if let Some(faults) = faults {
            lakehouse.catalog().break_with(Arc::clone(faults));
        }
        let executor = LocalExecutor::open(&lakehouse, "chain", SessionConfig::new().with_target_partitions(2)).unwrap();
        Process { lakehouse, executor }
    }

    /// Remembers the state. Nobody may be writing; the processes must still be open, since SQLite tidies up at the end.
    pub fn keep(&self) {
        copy(&self.path().join("warehouse"), &self.path().join("kept"));
        for end in ["", "-wal"] {
            let from = format!("{}{end}", self.catalog().display());
            if Path::new(&from).exists() {
                std::fs::copy(from, self.path().join(format!("kept.db{end}"))).unwrap();
            }
        }
    }

    /// Puts the state back. The catalog gets a new name: connections of dead processes may still close the old one.
    pub fn restore(&self) {
        std::fs::remove_dir_all(self.path().join("warehouse")).unwrap();
        copy(&self.path().join("kept"), &self.path().join("warehouse"));
        self.catalogs.fetch_add(1, Ordering::SeqCst);
        for end in ["", "-wal"] {
            let from = self.path().join(format!("kept.db{end}"));
            if from.exists() {
                std::fs::copy(from, format!("{}{end}", self.catalog().display())).unwrap();
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub struct Process {
    pub lakehouse: Lakehouse,
    pub executor: LocalExecutor,
}

impl Process {
    pub async fn try_sql(&self, sql: &str, options: WriteOptions) -> Result<Option<u64>> {
        match execute(self.executor.ctx(), &self.lakehouse, &self.executor, sql, options).await? {
            StatementResult::Rows(rows) => drop(rows.try_collect::<Vec<_>>().await.map_err(Error::from_datafusion)?),
            StatementResult::Affected { rows, .. } => return Ok(Some(rows)),
            StatementResult::Ok => {}
        }
        Ok(None)
    }

    pub async fn sql(&self, sql: &str) {
        self.try_sql(sql, WriteOptions::default()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Rows of a query as sorted texts.
    pub async fn try_rows(&self, sql: &str) -> Result<Vec<String>> {
        let result = execute(self.executor.ctx(), &self.lakehouse, &self.executor, sql, WriteOptions::default()).await?;
        let StatementResult::Rows(rows) = result else { panic!("{sql} gave no rows") };
        let batches: Vec<_> = rows.try_collect().await.map_err(Error::from_datafusion)?;
        let options = datafusion::arrow::util::display::FormatOptions::default().with_null("null");
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|column| datafusion::arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
                .collect();
            for row in 0..batch.num_rows() {
                let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                rows.push(cells.join("|"));
            }
        }
        rows.sort();
        Ok(rows)
    }

    pub async fn rows(&self, sql: &str) -> Vec<String> {
        self.try_rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub async fn table(&self, name: &str) -> Table {
        self.lakehouse.catalog().load_table(&self.lakehouse.ident(name).unwrap()).await.unwrap()
    }

    /// Every file that any snapshot of the table needs exists; orphan removal names no file that anything refers to, and
    /// leaves none that nothing refers to.
    pub async fn check_files(&self, name: &str) {
        let table = self.table(name).await;
        let store = self.lakehouse.store();
        let Named { live, dead } = named_files(&table).await;
        for file in &live {
            assert!(store.exists(file).await.unwrap(), "{name} needs {file}, which is not there");
        }
        let older_than_ms = Some(chrono::Utc::now().timestamp_millis() + DAY_MS);
        let options = OrphanOptions { older_than_ms, force: true, dry_run: true, ..OrphanOptions::default() };
        let found = remove_orphan_files(&self.lakehouse, table.ident(), &options).await.unwrap();
        for file in &found {
            assert!(!live.contains(file), "{name}: {file} is needed and called an orphan");
        }
        let removed = remove_orphan_files(&self.lakehouse, table.ident(), &OrphanOptions { dry_run: false, ..options }).await.unwrap();
        assert_eq!(removed, found);
        let folder = table.location().strip_prefix("file://").unwrap();
        for file in walk(Path::new(folder)) {
            let uri = format!("file://{file}");
            assert!(live.contains(&uri) || dead.contains(&uri), "{name}: nothing refers to {file}, and orphan removal leaves it");
        }
    }
}

/// What the snapshots of a table name.
struct Named {
    live: BTreeSet<String>,
    /// Entries that say "deleted": the files may have gone with an older snapshot.
    dead: BTreeSet<String>,
}

async fn named_files(table: &Table) -> Named {
    let metadata = table.metadata();
    let mut live = BTreeSet::from([table.metadata_location().to_owned()]);
    live.extend(metadata.metadata_log().iter().map(|log| log.metadata_file.clone()));
    let mut dead = BTreeSet::new();
    for snapshot in metadata.snapshots() {
        live.insert(snapshot.manifest_list().to_owned());
        for file in table.manifests(snapshot.snapshot_id()).await.unwrap().iter() {
            live.insert(file.manifest_path.clone());
            for entry in table.manifest(file).await.unwrap().entries() {
                let set = if entry.is_alive() { &mut live } else { &mut dead };
                set.insert(entry.file_path().to_owned());
            }
        }
    }
    Named { live, dead }
}

fn walk(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { files.extend(walk(&path)) } else { files.push(path.to_str().unwrap().to_owned()) }
    }
    files
}
