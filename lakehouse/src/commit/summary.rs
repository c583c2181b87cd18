//! Snapshot summaries: what was added and removed, and the table's totals after it.
//! Source: Iceberg spec, Appendix F "Optional Snapshot Summary Fields".

use std::collections::{BTreeMap, HashMap, HashSet};

use iceberg::spec::{DataContentType, DataFile, Operation, Struct, Summary};

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    bytes: u64,
    data_files: u64,
    rows: u64,
    position_delete_files: u64,
    position_deletes: u64,
    equality_delete_files: u64,
    equality_deletes: u64,
}

impl Counts {
    fn count(&mut self, file: &DataFile) {
        self.bytes += file.file_size_in_bytes();
        match file.content_type() {
            DataContentType::Data => {
                self.data_files += 1;
                self.rows += file.record_count();
            }
            DataContentType::PositionDeletes => {
                self.position_delete_files += 1;
                self.position_deletes += file.record_count();
            }
            DataContentType::EqualityDeletes => {
                self.equality_delete_files += 1;
                self.equality_deletes += file.record_count();
            }
        }
    }

    fn delete_files(&self) -> u64 {
        self.position_delete_files + self.equality_delete_files
    }
}

/// Collects what one snapshot does.
#[derive(Debug, Default)]
pub(super) struct Changes {
    added: Counts,
    removed: Counts,
    partitions: HashSet<(i32, Struct)>,
}

impl Changes {
    pub fn add(&mut self, file: &DataFile, spec_id: i32) {
        self.added.count(file);
        self.partitions.insert((spec_id, file.partition().clone()));
    }

    pub fn remove(&mut self, file: &DataFile, spec_id: i32) {
        self.removed.count(file);
        self.partitions.insert((spec_id, file.partition().clone()));
    }

    pub fn added_rows(&self) -> u64 {
        self.added.rows
    }

    pub fn added_files(&self) -> u64 {
        self.added.data_files
    }

    pub fn removed_rows(&self) -> u64 {
        self.removed.rows
    }

    pub fn removed_files(&self) -> u64 {
        self.removed.data_files
    }

    /// Summary of the snapshot. Computed counters win over `extra`: a caller cannot shadow them.
    pub fn summary(&self, operation: Operation, previous: Option<&Summary>, extra: BTreeMap<String, String>) -> Summary {
        let mut entries: HashMap<String, String> = extra.into_iter().collect();
        let (added, removed) = (&self.added, &self.removed);
        let counters = [
            ("added-data-files", added.data_files),
            ("added-records", added.rows),
            ("added-files-size", added.bytes),
            ("added-delete-files", added.delete_files()),
            ("added-position-delete-files", added.position_delete_files),
            ("added-position-deletes", added.position_deletes),
            ("added-equality-delete-files", added.equality_delete_files),
            ("added-equality-deletes", added.equality_deletes),
            ("deleted-data-files", removed.data_files),
            ("deleted-records", removed.rows),
            ("removed-files-size", removed.bytes),
            ("removed-delete-files", removed.delete_files()),
            ("removed-position-delete-files", removed.position_delete_files),
            ("removed-position-deletes", removed.position_deletes),
            ("removed-equality-delete-files", removed.equality_delete_files),
            ("removed-equality-deletes", removed.equality_deletes),
            ("changed-partition-count", self.partitions.len() as u64),
        ];
        for (key, value) in counters {
            if value > 0 {
                entries.insert(key.to_owned(), value.to_string());
            }
        }
        let totals = [
            ("total-data-files", added.data_files, removed.data_files),
            ("total-records", added.rows, removed.rows),
            ("total-files-size", added.bytes, removed.bytes),
            ("total-delete-files", added.delete_files(), removed.delete_files()),
            ("total-position-deletes", added.position_deletes, removed.position_deletes),
            ("total-equality-deletes", added.equality_deletes, removed.equality_deletes),
        ];
        for (key, plus, minus) in totals {
            // A predecessor without totals (some writers leave them out) makes ours unknowable: leave them out too.
            let before = match previous {
                None => Some(0),
                Some(summary) => summary.additional_properties.get(key).and_then(|value| value.parse::<u64>().ok()),
            };
            if let Some(before) = before {
                entries.insert(key.to_owned(), (before + plus).saturating_sub(minus).to_string());
            }
        }
        entries.insert("engine-name".to_owned(), "chainalytics".to_owned());
        entries.insert("engine-version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Summary { operation, additional_properties: entries }
    }
}
