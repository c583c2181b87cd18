//! The JSON form of table metadata (Iceberg spec, Appendix C "Table Metadata and Snapshots").
//!
//! The library's own serialisation copies every snapshot and encodes all of them, each time, and leaves out the refs of a
//! table of format v1. Snapshots never change, and a commit adds one at the end: here their texts are kept from one
//! version to the next.

use std::collections::HashMap;
use std::sync::Arc;

use chainalytics_common::Result;
use iceberg::spec::{
    EncryptedKey, FormatVersion, MetadataLog, PartitionField, PartitionSpec, PartitionStatisticsFile, Schema, Snapshot, SnapshotLog, SnapshotRef,
    SortOrder, StatisticsFile, Summary, TableMetadata,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::refs::{Refs, main_alone};
use crate::err;

/// Everything but the snapshots.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Head<'a> {
    format_version: FormatVersion,
    table_uuid: Uuid,
    location: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sequence_number: Option<i64>,
    last_updated_ms: i64,
    last_column_id: i32,
    /// Format v1 alone, for readers that know no list of schemas.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a Schema>,
    schemas: Vec<&'a Schema>,
    current_schema_id: i32,
    /// Format v1 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_spec: Option<&'a [PartitionField]>,
    partition_specs: Vec<&'a PartitionSpec>,
    default_spec_id: i32,
    last_partition_id: i32,
    properties: &'a HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_snapshot_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_row_id: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    encryption_keys: Vec<&'a EncryptedKey>,
    sort_orders: Vec<&'a SortOrder>,
    default_sort_order_id: i64,
    refs: &'a Refs,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    snapshot_log: &'a [SnapshotLog],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    metadata_log: &'a [MetadataLog],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statistics: Vec<&'a StatisticsFile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partition_statistics: Vec<&'a PartitionStatisticsFile>,
}

impl<'a> Head<'a> {
    fn of(metadata: &'a TableMetadata, refs: &'a Refs) -> Self {
        let version = metadata.format_version();
        let first = version == FormatVersion::V1;
        let mut schemas: Vec<&Schema> = metadata.schemas_iter().map(Arc::as_ref).collect();
        schemas.sort_by_key(|schema| schema.schema_id());
        let mut partition_specs: Vec<&PartitionSpec> = metadata.partition_specs_iter().map(Arc::as_ref).collect();
        partition_specs.sort_by_key(|spec| spec.spec_id());
        let mut sort_orders: Vec<&SortOrder> = metadata.sort_orders_iter().map(Arc::as_ref).collect();
        sort_orders.sort_by_key(|order| order.order_id);
        Self {
            format_version: version,
            table_uuid: metadata.uuid(),
            location: metadata.location(),
            last_sequence_number: (!first).then_some(metadata.last_sequence_number()),
            last_updated_ms: metadata.last_updated_ms(),
            last_column_id: metadata.last_column_id(),
            schema: first.then(|| metadata.current_schema().as_ref()),
            schemas,
            current_schema_id: metadata.current_schema_id(),
            partition_spec: first.then(|| metadata.default_partition_spec().fields()),
            partition_specs,
            default_spec_id: metadata.default_partition_spec_id(),
            last_partition_id: metadata.last_partition_id(),
            properties: metadata.properties(),
            current_snapshot_id: metadata.current_snapshot_id(),
            next_row_id: (version == FormatVersion::V3).then_some(metadata.next_row_id()),
            encryption_keys: if version == FormatVersion::V3 { metadata.encryption_keys_iter().collect() } else { Vec::new() },
            sort_orders,
            default_sort_order_id: metadata.default_sort_order_id(),
            refs,
            snapshot_log: metadata.history(),
            metadata_log: metadata.metadata_log(),
            statistics: metadata.statistics_iter().collect(),
            partition_statistics: metadata.partition_statistics_iter().collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotText<'a> {
    snapshot_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_snapshot_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_number: Option<i64>,
    timestamp_ms: i64,
    manifest_list: &'a str,
    summary: &'a Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_id: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_row_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
}

impl<'a> SnapshotText<'a> {
    fn of(snapshot: &'a Snapshot, version: FormatVersion) -> Self {
        let rows = snapshot.row_range().filter(|_| version == FormatVersion::V3);
        Self {
            snapshot_id: snapshot.snapshot_id(),
            parent_snapshot_id: snapshot.parent_snapshot_id(),
            sequence_number: (version != FormatVersion::V1).then_some(snapshot.sequence_number()),
            timestamp_ms: snapshot.timestamp_ms(),
            manifest_list: snapshot.manifest_list(),
            summary: snapshot.summary(),
            schema_id: snapshot.schema_id(),
            first_row_id: rows.map(|(first, _)| first),
            added_rows: rows.map(|(_, added)| added),
            key_id: snapshot.encryption_key_id().filter(|_| version == FormatVersion::V3),
        }
    }
}

/// The texts of one table's snapshots, joined by commas, in the order of their commits.
#[derive(Default)]
pub(crate) struct SnapshotTexts {
    /// They differ between format versions.
    version: Option<FormatVersion>,
    text: Vec<u8>,
    /// Each snapshot, and where its text ends. The same snapshot is the same object: another table of the same identity
    /// may have snapshots of the same ids that are not the same.
    parts: Vec<(SnapshotRef, usize)>,
}

impl SnapshotTexts {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.parts.capacity() * size_of::<(SnapshotRef, usize)>()
    }

    /// Goes over to the snapshots of another version of the table.
    fn update(&mut self, metadata: &TableMetadata) -> Result<&[u8]> {
        let version = metadata.format_version();
        let mut snapshots: Vec<&SnapshotRef> = metadata.snapshots().collect();
        snapshots.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms(), snapshot.snapshot_id()));
        let same = match self.version == Some(version) {
            true => self.parts.iter().zip(&snapshots).take_while(|((known, _), snapshot)| Arc::ptr_eq(known, snapshot)).count(),
            false => 0,
        };
        self.version = Some(version);
        self.parts.truncate(same);
        self.text.truncate(self.parts.last().map_or(0, |(_, end)| *end));
        for snapshot in snapshots.into_iter().skip(same) {
            if !self.text.is_empty() {
                self.text.push(b',');
            }
            serde_json::to_writer(&mut self.text, &SnapshotText::of(snapshot, version)).map_err(encoding)?;
            self.parts.push((Arc::clone(snapshot), self.text.len()));
        }
        Ok(&self.text)
    }
}

fn encoding(error: serde_json::Error) -> chainalytics_common::Error {
    err::internal(format!("cannot encode table metadata: {error}"))
}

/// The content of a metadata file. `texts` is what is known of the snapshots of an earlier version.
pub(crate) fn encode_metadata(metadata: &TableMetadata, refs: &Refs, texts: &mut SnapshotTexts) -> Result<Vec<u8>> {
    let snapshots = texts.update(metadata)?;
    let head = serde_json::to_vec(&Head::of(metadata, refs)).map_err(encoding)?;
    let mut text = Vec::with_capacity(head.len() + snapshots.len() + 32);
    text.extend_from_slice(&head);
    if !snapshots.is_empty() {
        // Inside the head's closing brace.
        text.pop();
        text.extend_from_slice(b",\"snapshots\":[");
        text.extend_from_slice(snapshots);
        text.extend_from_slice(b"]}");
    }
    #[cfg(test)]
    tests::check(metadata, refs, &text);
    Ok(text)
}

/// The part of a metadata file that the library does not tell.
#[derive(Deserialize)]
struct RefsOf {
    #[serde(default)]
    refs: Option<Refs>,
}

/// Metadata and refs of a metadata file.
///
/// # Errors
/// What the file's text is damaged by.
pub(crate) fn parse_metadata(text: &[u8]) -> std::result::Result<(TableMetadata, Refs), String> {
    let metadata: TableMetadata = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let RefsOf { refs } = serde_json::from_slice(text).map_err(|e| format!("refs: {e}"))?;
    let mut refs = refs.unwrap_or_default();
    // What the library drops, or adds.
    refs.retain(|_, reference| metadata.snapshot_by_id(reference.snapshot_id).is_some());
    for (name, reference) in main_alone(&metadata) {
        refs.entry(name).or_insert(reference);
    }
    if metadata.format_version() != FormatVersion::V1 {
        return Ok((metadata, refs));
    }
    with_refs(metadata, refs).map_err(|e| format!("refs: {e}"))
}

/// The library does not read the refs of a table of format v1, though Java writes them: they are added here.
fn with_refs(metadata: TableMetadata, refs: Refs) -> iceberg::Result<(TableMetadata, Refs)> {
    if refs.iter().all(|(name, _)| metadata.snapshot_for_ref(name).is_some()) {
        return Ok((metadata, refs));
    }
    let mut builder = metadata.into_builder(None);
    for (name, reference) in refs.iter().filter(|(name, _)| *name != super::MAIN_BRANCH) {
        builder = builder.set_ref(name, reference.clone())?;
    }
    // This makes it look as if it had last been changed now, which shows in the log of metadata files alone.
    Ok((builder.build()?.metadata, refs))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use iceberg::spec::SnapshotRetention;

    use super::*;
    use crate::table::{MAIN_BRANCH, references};

    /// Every commit of every unit test passes here: what we write says what the library's own serialisation says, and the
    /// refs are those that the library has.
    pub(super) fn check(metadata: &TableMetadata, refs: &Refs, text: &[u8]) {
        let library = serde_json::to_vec(metadata).unwrap();
        let (ours, library): (TableMetadata, TableMetadata) = (serde_json::from_slice(text).unwrap(), serde_json::from_slice(&library).unwrap());
        assert_eq!(ours, library);
        if metadata.format_version() != FormatVersion::V1 {
            let mut library = references(metadata).unwrap();
            // Once read from format v1, the library does not know how long the main branch keeps its snapshots.
            if let (Some(theirs), Some(ours)) = (library.get_mut(MAIN_BRANCH), refs.get(MAIN_BRANCH)) {
                assert!(theirs.retention == ours.retention || theirs.retention == SnapshotRetention::branch(None, None, None));
                theirs.retention = ours.retention.clone();
            }
            assert_eq!(&library, refs);
        }
        let (_, read) = parse_metadata(text).unwrap();
        assert_eq!(&read, refs);
    }
}
