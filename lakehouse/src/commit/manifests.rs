use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chainalytics_common::Result;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, FormatVersion, Manifest, ManifestContentType, ManifestEntry, ManifestFile, ManifestListWriter,
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
/// How many times the entries of one level of small manifests the next level has.
const LEVEL_FACTOR: u64 = 8;
/// Manifests of one level that are joined to one of a higher level.
const LEVEL_COUNT: usize = 8;

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
    pub fn new(table: &'a Table, metadata: &'a TableMetadata, snapshot_id: i64, commit_uuid: Uuid, written: &'a mut Vec<String>) -> Self {
        Self { table, metadata, snapshot_id, commit_uuid, written, next_manifest: 0 }
    }

    pub(super) fn writer(&mut self, schema: SchemaRef, spec: &PartitionSpec, content: ManifestContentType) -> Result<ManifestWriter> {
        let path = format!("{}/metadata/{}-m{}.avro", self.metadata.location(), self.commit_uuid, self.next_manifest);
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

    /// Manifests of new data and delete files, one per content and partition spec. `sequence_number` is given for compaction, whose output
    /// must stay older than deletes that came after its input.
    pub async fn added(&mut self, files: Vec<(i32, DataFile)>, sequence_number: Option<i64>) -> Result<Vec<ManifestFile>> {
        let mut by_kind: BTreeMap<(bool, i32), Vec<DataFile>> = BTreeMap::new();
        for (spec_id, file) in files {
            by_kind.entry((file.content_type() != DataContentType::Data, spec_id)).or_default().push(file);
        }
        let mut manifests = Vec::with_capacity(by_kind.len());
        for ((deletes, spec_id), files) in by_kind {
            let spec = self.spec(spec_id)?;
            let content = if deletes { ManifestContentType::Deletes } else { ManifestContentType::Data };
            let mut writer = self.writer(Arc::clone(self.metadata.current_schema()), &spec, content)?;
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
    pub async fn rewritten(&mut self, source: &ManifestFile, manifest: &Manifest, fates: &[Fate]) -> Result<ManifestFile> {
        let meta = manifest.metadata();
        let mut writer = self.writer(Arc::clone(&meta.schema), &meta.partition_spec, meta.content)?;
        let live = files_with_row_ids(self.metadata.format_version(), source, manifest)?;
        for ((entry, file), fate) in live.into_iter().zip(fates) {
            match fate {
                Fate::Keep => keep(&mut writer, &entry, file)?,
                Fate::Remove => {
                    let (sequence, file_sequence) = (entry.sequence_number.unwrap_or(0), entry.file_sequence_number);
                    writer.add_delete_file(file, sequence, file_sequence.or(Some(sequence))).map_err(err::iceberg)?;
                }
            }
        }
        writer.write_manifest_file().await.map_err(err::iceberg)
    }

    /// Joins small data manifests once there are many, so that planning and committing stay flat under a stream of
    /// small commits. Manifests of at least half the target size are left alone, and so are those much larger than the ones
    /// to be joined until there are some of them: each entry is written a few times in its life, and no commit writes all
    /// of them.
    pub async fn merge_small(&mut self, manifests: Vec<ManifestFile>) -> Result<Vec<ManifestFile>> {
        let properties = self.metadata.properties();
        let enabled = properties.get(MERGE_ENABLED).is_none_or(|value| value != "false");
        let min_count = number(properties, MERGE_MIN_COUNT).unwrap_or(MERGE_MIN_COUNT_DEFAULT).max(2);
        let target_bytes = self.target_bytes();
        if !enabled {
            return Ok(manifests);
        }
        let is_small = |file: &ManifestFile| {
            file.content == ManifestContentType::Data && file.manifest_length < target_bytes / 2 && file.added_snapshot_id != self.snapshot_id
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
            let limit = joined_below(&files.iter().map(entries_of).collect::<Vec<_>>(), min_count);
            let (files, larger): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| entries_of(file) < limit);
            result.extend(larger);
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

    /// Size that a manifest should have, bytes.
    pub fn target_bytes(&self) -> i64 {
        target_bytes(self.metadata.properties())
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
        for (source, manifest) in files.iter().zip(&manifests) {
            for (entry, file) in files_with_row_ids(self.metadata.format_version(), source, manifest)? {
                keep(&mut writer, &entry, file)?;
            }
        }
        writer.write_manifest_file().await.map_err(err::iceberg)
    }

    /// Writes the manifest list; returns its location and, for v3, the rows it assigned ids to.
    pub async fn manifest_list(&mut self, manifests: Vec<ManifestFile>, attempt: u32) -> Result<(String, Option<u64>)> {
        let location = format!("{}/metadata/snap-{}-{attempt}-{}.avro", self.metadata.location(), self.snapshot_id, self.commit_uuid);
        self.written.push(location.clone());
        let output = self.table.store().file_io().new_output(&location).map_err(err::iceberg)?;
        let writer = output.writer().await.map_err(err::iceberg)?;
        let parent = self.table.head_in(self.metadata).map(|snapshot| snapshot.snapshot_id());
        let sequence_number = self.metadata.next_sequence_number();
        let first_row_id = self.metadata.next_row_id();
        let mut list = match self.metadata.format_version() {
            FormatVersion::V1 => ManifestListWriter::v1(writer, self.snapshot_id, parent),
            FormatVersion::V2 => ManifestListWriter::v2(writer, self.snapshot_id, parent, sequence_number),
            FormatVersion::V3 => ManifestListWriter::v3(writer, self.snapshot_id, parent, sequence_number, Some(first_row_id)),
        };
        list.add_manifests(manifests.into_iter()).map_err(err::iceberg)?;
        let assigned_rows = list.next_row_id().map(|next| next - first_row_id);
        list.close().await.map_err(err::iceberg)?;
        Ok((location, assigned_rows))
    }
}

/// Size that a table's manifests should have, bytes: property `commit.manifest.target-size-bytes` (default 8 MiB).
pub(crate) fn target_bytes(properties: &HashMap<String, String>) -> i64 {
    number(properties, MERGE_TARGET_SIZE).unwrap_or(MERGE_TARGET_SIZE_DEFAULT).max(64 * 1024)
}

/// The live entries of a manifest with the files they name. In v3 row ids that a data file inherits from its manifest
/// are made explicit, as they must be once its entry moves (spec, "First Row ID Inheritance").
pub(super) fn files_with_row_ids(version: FormatVersion, source: &ManifestFile, manifest: &Manifest) -> Result<Vec<(Arc<ManifestEntry>, DataFile)>> {
    let mut next_row_id = source.first_row_id.filter(|_| version == FormatVersion::V3);
    manifest
        .entries()
        .iter()
        .filter(|entry| entry.is_alive())
        .map(|entry| {
            let file = entry.data_file();
            let inherits = file.content_type() == DataContentType::Data && file.first_row_id().is_none();
            let file = match next_row_id.filter(|_| inherits) {
                Some(first) => {
                    next_row_id = Some(first + file.record_count());
                    with_first_row_id(file, first, source.partition_spec_id)?
                }
                None => file.clone(),
            };
            Ok((Arc::clone(entry), file))
        })
        .collect()
}

fn with_first_row_id(file: &DataFile, first_row_id: u64, spec_id: i32) -> Result<DataFile> {
    let first_row_id = i64::try_from(first_row_id).map_err(|_| err::metadata("a first row id beyond 2^63"))?;
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .partition_spec_id(spec_id)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(Some(first_row_id))
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes());
    if let Some(order) = file.sort_order_id() {
        builder.sort_order_id(order);
    }
    builder.build().map_err(|e| err::internal(format!("incomplete data file {}: {e}", file.file_path())))
}

pub(super) fn keep(writer: &mut ManifestWriter, entry: &ManifestEntry, file: DataFile) -> Result<()> {
    let sequence = entry.sequence_number.unwrap_or(0);
    let snapshot_id = entry.snapshot_id.ok_or_else(|| err::metadata(format!("the entry of {} names no snapshot", entry.file_path())))?;
    let file_sequence = entry.file_sequence_number.or(Some(sequence));
    writer.add_existing_file(file, snapshot_id, sequence, file_sequence).map_err(err::iceberg)
}

/// Reads manifests, several at once, in order.
pub(super) async fn load_all(table: &Table, files: &[ManifestFile]) -> Result<Vec<Arc<Manifest>>> {
    let mut manifests = Vec::with_capacity(files.len());
    for chunk in files.chunks(MANIFEST_READS) {
        manifests.extend(futures::future::try_join_all(chunk.iter().map(|file| table.manifest(file))).await?);
    }
    Ok(manifests)
}

/// Live entries of a manifest, by its list.
fn entries_of(file: &ManifestFile) -> u64 {
    u64::from(file.added_files_count.unwrap_or(1)) + u64::from(file.existing_files_count.unwrap_or(0))
}

/// Manifests of fewer entries than this are joined, of those with so many each (at least `min_count` of them). Sizes fall
/// into levels, each [`LEVEL_FACTOR`] times the one before. The level that most are in is joined, and a higher one with it
/// if the result comes to be larger than that level, or is one of [`LEVEL_COUNT`] there. When that would leave `min_count`
/// manifests or more, all are joined.
fn joined_below(entries: &[u64], min_count: usize) -> u64 {
    let below = |limit: u64| entries.iter().filter(move |count| **count < limit);
    let mut limit = LEVEL_FACTOR;
    while below(limit).count() * 2 < entries.len() {
        limit *= LEVEL_FACTOR;
    }
    while below(limit).count() < entries.len() {
        let (joined, next) = (below(limit).sum::<u64>(), limit * LEVEL_FACTOR);
        let of_next = below(next).count() - below(limit).count();
        if joined < next && of_next + 1 < LEVEL_COUNT {
            break;
        }
        limit = next;
    }
    let joined = below(limit).count();
    if joined < 2 || entries.len() - joined + 1 >= min_count { u64::MAX } else { limit }
}

fn number<T: std::str::FromStr>(properties: &HashMap<String, String>, key: &str) -> Option<T> {
    properties.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream of commits of `files` each comes to: manifests at most, how often an entry is written again, and how
    /// many entries one commit writes again at most.
    fn stream(commits: usize, files: u64) -> (usize, u64, u64) {
        // Manifests of so many entries are of half the target size.
        const LARGE: u64 = 12_000;
        let (mut sizes, mut most, mut written, mut worst) = (Vec::new(), 0, 0, 0);
        for _ in 0..commits {
            let (small, mut left): (Vec<u64>, Vec<u64>) = sizes.into_iter().partition(|size| *size < LARGE);
            if small.len() >= MERGE_MIN_COUNT_DEFAULT {
                let limit = joined_below(&small, MERGE_MIN_COUNT_DEFAULT);
                let (joined, kept): (Vec<u64>, Vec<u64>) = small.into_iter().partition(|size| *size < limit);
                assert!(kept.len() + 1 < MERGE_MIN_COUNT_DEFAULT);
                let size = joined.iter().sum();
                left.extend(kept);
                left.push(size);
                written += size;
                worst = worst.max(size);
            } else {
                left.extend(small);
            }
            left.push(files);
            sizes = left;
            most = most.max(sizes.iter().filter(|size| **size < LARGE).count());
        }
        (most, written / (commits as u64 * files), worst)
    }

    #[test]
    fn merging_stays_cheap_as_a_table_grows() {
        // A day and two months of micro-batches; commits of many files.
        for (commits, files) in [(2_880, 4), (172_800, 4), (172_800, 1), (5_000, 200)] {
            let (most, rewrites, _) = stream(commits, files);
            assert!(most <= 101, "{most} small manifests after {commits} commits of {files}");
            assert!(rewrites <= 4, "each entry of {commits} commits of {files} was written {rewrites} times more");
        }
        let (_, _, worst) = stream(700, 4);
        assert!(worst <= 400, "{worst} entries written again by one commit");
    }

    #[test]
    fn larger_manifests_wait_for_others_of_their_size() {
        let with = |more: &[u64]| [vec![4; 90], more.to_vec()].concat();
        assert_eq!(joined_below(&with(&[]), 90), 8);
        // The result, of 360 entries, is no smaller than these.
        assert_eq!(joined_below(&with(&[50; 3]), 90), 64);
        assert_eq!(joined_below(&with(&[400; 6]), 90), 64);
        assert_eq!(joined_below(&with(&[400; 7]), 90), 512);
        // Too many would be left.
        assert_eq!(joined_below(&[4, 400], 2), u64::MAX);
        assert_eq!(joined_below(&[4, 400, 3_000, 30_000], 3), u64::MAX);
    }
}
