//! Which files are rewritten together. Source: the rules of Iceberg's bin-pack rewriter.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chainalytics_common::Result;
use iceberg::spec::TableMetadata;

use super::options::{JobOrder, Settings};
use crate::err;
use crate::scan::deletes::{DeleteContent, DeleteIndex};
use crate::scan::files::{PlannedFiles, ScanFile};
use crate::write::partition_json;

/// Files that become others in one go.
#[derive(Debug, Clone)]
pub(super) struct FileGroup {
    pub files: Vec<GroupFile>,
}

/// A data file and what is known of its deleted rows.
#[derive(Debug, Clone)]
pub(super) struct GroupFile {
    pub path: String,
    pub bytes: u64,
    pub rows: u64,
    /// Delete files that apply to it.
    pub deletes: usize,
    /// Rows known to be deleted: those of deletion vectors. Others are only counted when they are read.
    deleted_rows: u64,
}

impl FileGroup {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    pub fn has_deletes(&self) -> bool {
        self.files.iter().any(|file| file.deletes > 0)
    }
}

impl GroupFile {
    fn new(file: &ScanFile, deletes: &DeleteIndex) -> Self {
        let applied = deletes.for_file(file);
        let deleted_rows = applied
            .iter()
            .map(|delete| match delete.content {
                DeleteContent::Vector { rows, .. } => rows,
                _ => 0,
            })
            .sum();
        Self {
            path: file.path().to_owned(),
            bytes: file.data_file().file_size_in_bytes(),
            rows: file.data_file().record_count(),
            deletes: applied.len(),
            deleted_rows,
        }
    }

    fn has_wrong_size(&self, settings: &Settings) -> bool {
        self.bytes < settings.min_bytes || self.bytes > settings.max_bytes
    }

    fn has_many_deletes(&self, settings: &Settings) -> bool {
        let ratio = self.deleted_rows as f64 / self.rows.max(1) as f64;
        self.deletes >= settings.delete_file_threshold || ratio >= settings.delete_ratio_threshold
    }
}

/// Groups the files worth rewriting: by partition, each at most `max-file-group-size-bytes` large.
pub(super) fn plan(planned: &PlannedFiles, metadata: &TableMetadata, settings: &Settings) -> Result<Vec<FileGroup>> {
    let deletes = DeleteIndex::build(&planned.deletes, metadata)?;
    let mut partitions: BTreeMap<String, Vec<GroupFile>> = BTreeMap::new();
    for file in &planned.data {
        let candidate = GroupFile::new(file, &deletes);
        if settings.rewrite_all || candidate.has_wrong_size(settings) || candidate.has_many_deletes(settings) {
            partitions.entry(partition_key(file, metadata)?).or_default().push(candidate);
        }
    }
    let mut groups: Vec<FileGroup> = partitions.into_values().flat_map(|files| pack(files, settings.group_bytes_max)).collect();
    groups.retain(|group| settings.rewrite_all || is_worthwhile(group, settings));
    match settings.job_order {
        JobOrder::None => {}
        JobOrder::BytesAsc => groups.sort_by_key(FileGroup::bytes),
        JobOrder::BytesDesc => groups.sort_by_key(|group| Reverse(group.bytes())),
        JobOrder::FilesAsc => groups.sort_by_key(|group| group.files.len()),
        JobOrder::FilesDesc => groups.sort_by_key(|group| Reverse(group.files.len())),
    }
    Ok(groups)
}

/// Files of the default partition spec stay in their partition; those of older specs are partitioned anew, together.
fn partition_key(file: &ScanFile, metadata: &TableMetadata) -> Result<String> {
    if file.spec_id != metadata.default_partition_spec_id() {
        return Ok(String::new());
    }
    let values = partition_json(file.data_file().partition(), metadata.default_partition_type())?;
    serde_json::to_string(&values).map_err(|e| err::internal(format!("partition values: {e}")))
}

/// First fit, in the order given: files that were written one after the other stay together.
fn pack(files: Vec<GroupFile>, bytes_max: u64) -> Vec<FileGroup> {
    let mut groups: Vec<FileGroup> = Vec::new();
    let mut bytes = 0;
    for file in files {
        match groups.last_mut() {
            Some(group) if bytes + file.bytes <= bytes_max => {
                bytes += file.bytes;
                group.files.push(file);
            }
            _ => {
                bytes = file.bytes;
                groups.push(FileGroup { files: vec![file] });
            }
        }
    }
    groups
}

fn is_worthwhile(group: &FileGroup, settings: &Settings) -> bool {
    let count = group.files.len();
    let bytes = group.bytes();
    let enough = count >= settings.min_input_files || bytes > settings.target_bytes;
    (count > 1 && enough)
        || bytes > settings.max_bytes
        || group.files.iter().any(|file| file.has_many_deletes(settings))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn file(path: &str, bytes: u64) -> GroupFile {
        GroupFile { path: path.to_owned(), bytes, rows: 1, deletes: 0, deleted_rows: 0 }
    }

    #[test]
    fn groups_stay_within_their_size_and_lose_nothing() {
        let files: Vec<GroupFile> = (0..10).map(|i| file(&i.to_string(), 30)).collect();
        let groups = pack(files, 100);
        assert_eq!(groups.iter().map(|group| group.files.len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
        assert_eq!(pack(vec![file("a", 500)], 100).len(), 1);
    }
}
