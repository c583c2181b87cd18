use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chainalytics_common::Result;
use iceberg::spec::{
    DataFile, FormatVersion, Manifest, ManifestContentType, ManifestEntry, ManifestFile, ManifestListWriter,
    ManifestWriter, ManifestWriterBuilder, PartitionSpec, SchemaRef, TableMetadata,
};
use uuid::Uuid;

use crate::err;
use crate::table::Table;

/// Tells the manifest list writer to give an added file the new snapshot's own sequence number.
const INHERIT_SEQUENCE_NUMBER: i64 = -1;
/// Manifest files read at once when a commit must look into them.
pub(super) const MANIFEST_READS: usize = 16;

const MERGE_ENABLED: &str = "commit.manifest-merge.enabled";
const MERGE_MIN_COUNT: &str = "commit.manifest.min-count-to-merge";
const MERGE_TARGET_SIZE: &str = "commit.manifest.target-size-bytes";
const MERGE_MIN_COUNT_DEFAULT: usize = 100;
const MERGE_TARGET_SIZE_DEFAULT: i64 = 8 * 1024 * 1024;

/// Writes the manifests of one snapshot and remembers each file it begins, so that a commit that fails can take them
/// away again.
pub(super) struct ManifestFactory<'a> {
    pub table: &'a Table,
    pub metadata: &'a TableMetadata,
    pub snapshot_id: i64,
    pub commit_uuid: Uuid,
    pub written: &'a mut Vec<String>,
    next_manifest: u32,
}

/// What becomes of a live entry when its manifest is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Remove,
}

impl<'a> ManifestFactory<'a> {
    pub fn new(
        table: &'a Table,
        metadata: &'a TableMetadata,
        snapshot_id: i64,
        commit_uuid: Uuid,
        written: &'a mut Vec<String>,
    ) -> Self {
        Self { table, metadata, snapshot_id, commit_uuid, written, next_manifest: 0 }
    }

    fn writer(&mut self, schema: SchemaRef, spec: &PartitionSpec, content: ManifestContentType) -> Result<ManifestWriter> {
        let path =
            format!("{}/metadata/{}-m{}.avro", self.metadata.location(), self.commit_uuid, self.next_manifest);
        self.next_manifest += 1;
        self.written.push(path.clone());
        let output = self.table.store().file_io().new_output(path).map_err(err::iceberg)?;
        let builder = ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema, spec.clone());
        Ok(match (self.metadata.format_version(), content) {
            (FormatVersion::V1, _) => builder.build_v1(),
            (FormatVersion::V2, ManifestContentType::Data) => builder.build_v2_data(),
            (FormatVersion::V2, ManifestContentType::Deletes) => builder.build_v2_deletes(),
            (FormatVersion::V3, ManifestContentType::Data) => builder.build_v3_data(),
            (FormatVersion::V3, ManifestContentType::Deletes) => builder.build_v3_deletes(),
        })
    }

    /// Manifests of new data files, one per partition spec. `sequence_number` is given for compaction, whose output
    /// must stay older than deletes that came after its input.
    pub async fn added(&mut self, files: Vec<(i32, DataFile)>, sequence_number: Option<i64>) -> Result<Vec<ManifestFile>> {
        let mut by_spec: BTreeMap<i32, Vec<DataFile>> = BTreeMap::new();
        for (spec_id, file) in files {
            by_spec.entry(spec_id).or_default().push(file);
        }
        let mut manifests = Vec::with_capacity(by_spec.len());
        for (spec_id, files) in by_spec {
            let spec = self.spec(spec_id)?;
            let mut writer =
                self.writer(Arc::clone(self.metadata.current_schema()), &spec, ManifestContentType::Data)?;
            for file in files {
                writer.add_file(file, sequence_number.unwrap_or(INHERIT_SEQUENCE_NUMBER)).map_err(err::iceberg)?;
            }
            manifests.push(writer.write_manifest_file().await.map_err(err::iceberg)?);
        }
        Ok(manifests)
    }

    fn spec(&self, spec_id: i32) -> Result<Arc<PartitionSpec>> {
        let spec = self.metadata.partition_spec_by_id(spec_id);
        spec.cloned().ok_or_else(|| err::invalid(format!("table {} has no partition spec {spec_id}", self.table.ident())))
    }

    /// Writes a manifest anew with some of its live entries marked as deleted. Entries that were deleted by earlier
    /// snapshots are left out, as the spec asks.
    pub async fn rewritten(&mut self, manifest: &Manifest, fates: &[Fate]) -> Result<ManifestFile> {
        let meta = manifest.metadata();
        let mut writer = self.writer(Arc::clone(&meta.schema), &meta.partition_spec, meta.content)?;
        let live = manifest.entries().iter().filter(|entry| entry.is_alive());
        for (entry, fate) in live.zip(fates) {
            match fate {
                Fate::Keep => keep(&mut writer, entry)?,
                Fate::Remove => {
                    let (sequence, file_sequence) = (entry.sequence_number.unwrap_or(0), entry.file_sequence_number);
                    writer
                        .add_delete_file(entry.data_file.clone(), sequence, file_sequence.or(Some(sequence)))
                        .map_err(err::iceberg)?;
                }
            }
        }
        writer.write_manifest_file().await.map_err(err::iceberg)
    }

    /// Joins small data manifests once there are many, so that planning and committing stay flat under a stream of
    /// small commits. Manifests of at least half the target size are left alone, which keeps the cost amortised.
    pub async fn merge_small(&mut self, manifests: Vec<ManifestFile>) -> Result<Vec<ManifestFile>> {
        let properties = self.metadata.properties();
        let enabled = properties.get(MERGE_ENABLED).is_none_or(|value| value != "false");
        let min_count = number(properties, MERGE_MIN_COUNT).unwrap_or(MERGE_MIN_COUNT_DEFAULT).max(2);
        let target_bytes = number(properties, MERGE_TARGET_SIZE).unwrap_or(MERGE_TARGET_SIZE_DEFAULT).max(64 * 1024);
        // Merging turns ADDED into EXISTING, which in v3 would lose inherited row ids.
        if !enabled || self.metadata.format_version() == FormatVersion::V3 {
            return Ok(manifests);
        }
        let is_small = |file: &ManifestFile| {
            file.content == ManifestContentType::Data
                && file.manifest_length < target_bytes / 2
                && file.added_snapshot_id != self.snapshot_id
        };
        let mut small: BTreeMap<i32, Vec<ManifestFile>> = BTreeMap::new();
        let mut result = Vec::with_capacity(manifests.len());
        for file in manifests {
            if is_small(&file) { small.entry(file.partition_spec_id).or_default().push(file) } else { result.push(file) }
        }
        for (_, files) in small {
            if files.len() < min_count {
                result.extend(files);
                continue;
            }
            let mut bin: Vec<ManifestFile> = Vec::new();
            let mut bin_bytes = 0;
            for file in files {
                if bin_bytes + file.manifest_length > target_bytes && !bin.is_empty() {
                    result.push(self.merged(std::mem::take(&mut bin)).await?);
                    bin_bytes = 0;
                }
                bin_bytes += file.manifest_length;
                bin.push(file);
            }
            if !bin.is_empty() {
                result.push(self.merged(bin).await?);
            }
        }
        Ok(result)
    }

    async fn merged(&mut self, files: Vec<ManifestFile>) -> Result<ManifestFile> {
        if let [only] = files.as_slice() {
            return Ok(only.clone());
        }
        let manifests = load_all(self.table, &files).await?;
        // The newest manifest's schema: it knows the columns of all older bounds that still exist.
        let newest = manifests.iter().max_by_key(|manifest| manifest.metadata().schema_id);
        let meta = newest.ok_or_else(|| err::internal("a merge of no manifests"))?.metadata().clone();
        let mut writer = self.writer(Arc::clone(&meta.schema), &meta.partition_spec, ManifestContentType::Data)?;
        for manifest in &manifests {
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                keep(&mut writer, entry)?;
            }
        }
        writer.write_manifest_file().await.map_err(err::iceberg)
    }

    /// Writes the manifest list; returns its location and, for v3, the rows it assigned ids to.
    pub async fn manifest_list(&mut self, manifests: Vec<ManifestFile>, attempt: u32) -> Result<(String, Option<u64>)> {
        let location = format!(
            "{}/metadata/snap-{}-{attempt}-{}.avro",
            self.metadata.location(),
            self.snapshot_id,
            self.commit_uuid
        );
        self.written.push(location.clone());
        let output = self.table.store().file_io().new_output(&location).map_err(err::iceberg)?;
        let writer = output.writer().await.map_err(err::iceberg)?;
        let parent = self.metadata.current_snapshot_id();
        let sequence_number = self.metadata.next_sequence_number();
        let first_row_id = self.metadata.next_row_id();
        let mut list = match self.metadata.format_version() {
            FormatVersion::V1 => ManifestListWriter::v1(writer, self.snapshot_id, parent),
            FormatVersion::V2 => ManifestListWriter::v2(writer, self.snapshot_id, parent, sequence_number),
            FormatVersion::V3 => {
                ManifestListWriter::v3(writer, self.snapshot_id, parent, sequence_number, Some(first_row_id))
            }
        };
        list.add_manifests(manifests.into_iter()).map_err(err::iceberg)?;
        let assigned_rows = list.next_row_id().map(|next| next - first_row_id);
        list.close().await.map_err(err::iceberg)?;
        Ok((location, assigned_rows))
    }
}

fn keep(writer: &mut ManifestWriter, entry: &ManifestEntry) -> Result<()> {
    let sequence = entry.sequence_number.unwrap_or(0);
    let snapshot_id = entry
        .snapshot_id
        .ok_or_else(|| err::metadata(format!("the entry of {} names no snapshot", entry.file_path())))?;
    let file_sequence = entry.file_sequence_number.or(Some(sequence));
    writer.add_existing_file(entry.data_file.clone(), snapshot_id, sequence, file_sequence).map_err(err::iceberg)
}

/// Reads manifests, several at once, in order.
pub(super) async fn load_all(table: &Table, files: &[ManifestFile]) -> Result<Vec<Arc<Manifest>>> {
    let mut manifests = Vec::with_capacity(files.len());
    for chunk in files.chunks(MANIFEST_READS) {
        manifests.extend(futures::future::try_join_all(chunk.iter().map(|file| table.manifest(file))).await?);
    }
    Ok(manifests)
}

fn number<T: std::str::FromStr>(properties: &HashMap<String, String>, key: &str) -> Option<T> {
    properties.get(key)?.parse().ok()
}
