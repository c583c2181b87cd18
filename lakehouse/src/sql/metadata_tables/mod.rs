//! Metadata tables: `t.snapshots`, `t.files`, … (also `t$snapshots`), with the columns of Iceberg's Spark tables. Their
//! rows are in memory, so that they cross the wire with the plan.

mod columns;
mod files;
mod history;
mod manifests;
mod partition;
mod position_deletes;

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

use chainalytics_common::{Error, Result};

use crate::scan::{IcebergTableProvider, Incremental, SnapshotRange};
use crate::table::Table;
use files::Content;
use manifests::Reach;

/// Which metadata table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    Snapshots,
    History,
    Refs,
    MetadataLogEntries,
    Manifests,
    AllManifests,
    Files,
    DataFiles,
    DeleteFiles,
    AllFiles,
    AllDataFiles,
    AllDeleteFiles,
    Entries,
    AllEntries,
    Partitions,
    PositionDeletes,
    /// The log of inserted and deleted rows, over the whole history that metadata knows.
    Changes,
}

impl MetadataKind {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "snapshots" => Self::Snapshots,
            "history" => Self::History,
            "refs" => Self::Refs,
            "metadata_log_entries" => Self::MetadataLogEntries,
            "manifests" => Self::Manifests,
            "all_manifests" => Self::AllManifests,
            "files" => Self::Files,
            "data_files" => Self::DataFiles,
            "delete_files" => Self::DeleteFiles,
            "all_files" => Self::AllFiles,
            "all_data_files" => Self::AllDataFiles,
            "all_delete_files" => Self::AllDeleteFiles,
            "entries" => Self::Entries,
            "all_entries" => Self::AllEntries,
            "partitions" => Self::Partitions,
            "position_deletes" => Self::PositionDeletes,
            "changes" => Self::Changes,
            _ => return None,
        })
    }
}

/// The metadata table of `table`, its rows in memory (those of `changes` are in the table's files).
pub async fn metadata_table(table: &Table, kind: MetadataKind) -> Result<Arc<dyn TableProvider>> {
    let batch = match kind {
        MetadataKind::Snapshots => history::snapshots(table)?,
        MetadataKind::History => history::history(table)?,
        MetadataKind::Refs => history::refs(table)?,
        MetadataKind::MetadataLogEntries => history::metadata_log_entries(table)?,
        MetadataKind::Manifests => manifests::manifests(table, Reach::Current).await?,
        MetadataKind::AllManifests => manifests::manifests(table, Reach::All).await?,
        MetadataKind::Files => files::files(table, Reach::Current, Content::All).await?,
        MetadataKind::DataFiles => files::files(table, Reach::Current, Content::Data).await?,
        MetadataKind::DeleteFiles => files::files(table, Reach::Current, Content::Deletes).await?,
        MetadataKind::AllFiles => files::files(table, Reach::All, Content::All).await?,
        MetadataKind::AllDataFiles => files::files(table, Reach::All, Content::Data).await?,
        MetadataKind::AllDeleteFiles => files::files(table, Reach::All, Content::Deletes).await?,
        MetadataKind::Entries => files::entries(table, Reach::Current).await?,
        MetadataKind::AllEntries => files::entries(table, Reach::All).await?,
        MetadataKind::Partitions => manifests::partitions(table).await?,
        MetadataKind::PositionDeletes => position_deletes::position_deletes(table).await?,
        MetadataKind::Changes => return Ok(Arc::new(IcebergTableProvider::incremental(table, Incremental::Changes(SnapshotRange::default()))?)),
    };
    let provider = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(Error::from_datafusion)?;
    Ok(Arc::new(provider))
}
