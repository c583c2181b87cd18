//! A lakehouse in a temporary folder, for unit tests.
#![allow(clippy::unwrap_used)]

use std::ops::Deref;
use std::time::Duration;

use iceberg::spec::ManifestContentType;

use crate::catalog::CatalogOptions;
use crate::lakehouse::Lakehouse;
use crate::store::StoreRegistry;
use crate::table::Table;
use crate::write::DataFileInfo;

pub(crate) struct TestLakehouse {
    pub lakehouse: Lakehouse,
    _folder: tempfile::TempDir,
}

impl TestLakehouse {
    pub async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let options = CatalogOptions {
            name: "test".to_owned(),
            uri: format!("sqlite:///{path}/catalog.db"),
            busy_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            connections_max: 8,
            warehouse: format!("{path}/warehouse"),
        };
        let lakehouse = Lakehouse::open_with(options, "test".to_owned(), StoreRegistry::local()).await.unwrap();
        Self { lakehouse, _folder: folder }
    }
}

impl Deref for TestLakehouse {
    type Target = Lakehouse;

    fn deref(&self) -> &Lakehouse {
        &self.lakehouse
    }
}

/// Data files of the current snapshot.
pub(crate) async fn live_files(table: &Table) -> Vec<DataFileInfo> {
    let Some(snapshot_id) = table.current_snapshot_id() else { return Vec::new() };
    let mut files = Vec::new();
    for file in table.manifests(snapshot_id).await.unwrap().iter() {
        if file.content != ManifestContentType::Data {
            continue;
        }
        let manifest = table.manifest(file).await.unwrap();
        let meta = manifest.metadata();
        let partition_type = meta.partition_spec.partition_type(&meta.schema).unwrap();
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            files.push(DataFileInfo::from_iceberg(&entry.data_file, file.partition_spec_id, &partition_type).unwrap());
        }
    }
    files
}
