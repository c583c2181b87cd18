//! What a compaction may be told: options by Iceberg's names.

use std::collections::BTreeMap;
use std::str::FromStr;

use chainalytics_common::{Error, ErrorCode, Result};

use super::zorder::PRIMITIVE_BYTES;
use crate::table::Table;
use crate::write::TARGET_FILE_SIZE;

const MIB: u64 = 1024 * 1024;

/// How a file group's rows are laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Strategy {
    /// As they come.
    #[default]
    BinPack,
    /// Ordered within each file group; without terms by the table's sort order.
    Sort(Vec<SortBy>),
    /// Ordered within each file group by the interleaved bits of these columns.
    ZOrder(Vec<String>),
}

/// One term of a sort order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortBy {
    pub column: String,
    pub descending: bool,
    pub nulls_first: bool,
}

/// Order in which file groups are rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum JobOrder {
    #[default]
    None,
    BytesAsc,
    BytesDesc,
    FilesAsc,
    FilesDesc,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub target_bytes: u64,
    pub min_bytes: u64,
    pub max_bytes: u64,
    pub min_input_files: usize,
    pub group_bytes_max: u64,
    pub rewrite_all: bool,
    pub delete_file_threshold: usize,
    pub delete_ratio_threshold: f64,
    pub concurrency: usize,
    pub partial_progress: bool,
    pub commits_max: usize,
    pub failed_commits_max: usize,
    pub starting_sequence_number: bool,
    pub job_order: JobOrder,
    pub remove_dangling_deletes: bool,
    /// Bytes that a text contributes to a z-order, and bytes of one at most.
    pub zorder_text_bytes: i32,
    pub zorder_bytes_max: i32,
}

const NAMES: [&str; 15] = [
    "target-file-size-bytes",
    "min-file-size-bytes",
    "max-file-size-bytes",
    "min-input-files",
    "max-file-group-size-bytes",
    "rewrite-all",
    "delete-file-threshold",
    "delete-ratio-threshold",
    "max-concurrent-file-group-rewrites",
    "partial-progress.enabled",
    "partial-progress.max-commits",
    "partial-progress.max-failed-commits",
    "use-starting-sequence-number",
    "rewrite-job-order",
    "remove-dangling-deletes",
];
/// Options of sorting and z-ordering.
const SHUFFLE_PARTITIONS: &str = "shuffle-partitions-per-file";
const TEXT_BYTES: &str = "var-length-contribution";
const OUTPUT_BYTES: &str = "max-output-size";

impl Settings {
    /// # Errors
    /// `ProcedureArgument` for an unknown option, a value that does not parse, or sizes that contradict each other.
    pub fn new(options: &BTreeMap<String, String>, strategy: &Strategy, table: &Table) -> Result<Self> {
        let more: &[&str] = match strategy {
            Strategy::BinPack => &[],
            Strategy::Sort(_) => &[SHUFFLE_PARTITIONS],
            Strategy::ZOrder(_) => &[SHUFFLE_PARTITIONS, TEXT_BYTES, OUTPUT_BYTES],
        };
        let names: Vec<&str> = NAMES.iter().chain(more).copied().collect();
        if let Some(unknown) = options.keys().find(|key| !names.contains(&key.as_str())) {
            return Err(bad(format!("option '{unknown}' is not known here; there are {}", names.join(", "))));
        }
        // Ours merges sorted runs and spills, however large a file: it needs no parts of files.
        let parts: Option<u32> = value(options, SHUFFLE_PARTITIONS)?;
        if parts == Some(0) {
            return Err(bad(format!("option {SHUFFLE_PARTITIONS} must be greater than 0")));
        }
        let of_table = table.property(TARGET_FILE_SIZE).and_then(|value| value.parse().ok());
        let target_bytes: u64 = value(options, "target-file-size-bytes")?.or(of_table).unwrap_or(512 * MIB);
        let min_bytes = value(options, "min-file-size-bytes")?.unwrap_or(target_bytes / 4 * 3);
        let max_bytes = value(options, "max-file-size-bytes")?.unwrap_or(target_bytes / 5 * 9);
        if target_bytes == 0 || min_bytes >= target_bytes || target_bytes >= max_bytes {
            return Err(bad(format!(
                "sizes must grow from min-file-size-bytes ({min_bytes}) over target-file-size-bytes ({target_bytes}) to \
                 max-file-size-bytes ({max_bytes})"
            )));
        }
        let commits_max = value(options, "partial-progress.max-commits")?.unwrap_or(10);
        let settings = Self {
            target_bytes,
            min_bytes,
            max_bytes,
            min_input_files: value(options, "min-input-files")?.unwrap_or(5),
            group_bytes_max: value(options, "max-file-group-size-bytes")?.unwrap_or(100 * 1024 * MIB),
            rewrite_all: value(options, "rewrite-all")?.unwrap_or(false),
            delete_file_threshold: value(options, "delete-file-threshold")?.unwrap_or(usize::MAX),
            delete_ratio_threshold: value(options, "delete-ratio-threshold")?.unwrap_or(0.3),
            concurrency: value(options, "max-concurrent-file-group-rewrites")?.unwrap_or(5),
            partial_progress: value(options, "partial-progress.enabled")?.unwrap_or(false),
            commits_max,
            failed_commits_max: value(options, "partial-progress.max-failed-commits")?.unwrap_or(commits_max),
            starting_sequence_number: value(options, "use-starting-sequence-number")?.unwrap_or(true),
            job_order: job_order(options)?,
            remove_dangling_deletes: value(options, "remove-dangling-deletes")?.unwrap_or(false),
            zorder_text_bytes: value(options, TEXT_BYTES)?.unwrap_or(PRIMITIVE_BYTES as i32),
            zorder_bytes_max: value(options, OUTPUT_BYTES)?.unwrap_or(i32::MAX),
        };
        for (name, least) in [(TEXT_BYTES, settings.zorder_text_bytes), (OUTPUT_BYTES, settings.zorder_bytes_max)] {
            if least < 1 {
                return Err(bad(format!("option {name} must be at least 1 byte")));
            }
        }
        for (name, least) in [
            ("min-input-files", settings.min_input_files),
            ("max-concurrent-file-group-rewrites", settings.concurrency),
            ("partial-progress.max-commits", settings.commits_max),
            ("delete-file-threshold", settings.delete_file_threshold),
            ("max-file-group-size-bytes", usize::try_from(settings.group_bytes_max).unwrap_or(usize::MAX)),
        ] {
            if least == 0 {
                return Err(bad(format!("option {name} must be greater than 0")));
            }
        }
        Ok(settings)
    }

    /// Files that rows of this many bytes should become: rather a few large ones than one small rest.
    pub fn output_files(&self, input_bytes: u64) -> u64 {
        if input_bytes < self.target_bytes {
            return 1;
        }
        let (whole, rest) = (input_bytes / self.target_bytes, input_bytes % self.target_bytes);
        let spread = input_bytes / whole;
        if rest == 0 || (rest <= self.min_bytes && spread < (self.target_bytes / 10 * 11).min(self.roll_bytes())) { whole } else { whole + 1 }
    }

    /// Size at which a writer begins another file: above the target, so that a guess a little low leaves no small rest.
    pub fn roll_bytes(&self) -> u64 {
        self.target_bytes + (self.max_bytes - self.target_bytes) / 2
    }
}

fn value<T: FromStr>(options: &BTreeMap<String, String>, name: &str) -> Result<Option<T>> {
    match options.get(name) {
        None => Ok(None),
        Some(text) => match text.trim().to_ascii_lowercase().parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(bad(format!("option {name} is '{text}'"))),
        },
    }
}

fn job_order(options: &BTreeMap<String, String>) -> Result<JobOrder> {
    Ok(match options.get("rewrite-job-order").map(|text| text.to_ascii_lowercase()).as_deref() {
        None | Some("none") => JobOrder::None,
        Some("bytes-asc") => JobOrder::BytesAsc,
        Some("bytes-desc") => JobOrder::BytesDesc,
        Some("files-asc") => JobOrder::FilesAsc,
        Some("files-desc") => JobOrder::FilesDesc,
        Some(other) => {
            return Err(bad(format!("option rewrite-job-order is '{other}'; it must be none, bytes-asc, bytes-desc, files-asc or files-desc")));
        }
    })
}

fn bad(message: String) -> Error {
    Error::new(ErrorCode::ProcedureArgument, format!("rewrite_data_files: {message}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn settings(target: u64) -> Settings {
        Settings {
            target_bytes: target,
            min_bytes: target / 4 * 3,
            max_bytes: target / 5 * 9,
            min_input_files: 5,
            group_bytes_max: u64::MAX,
            rewrite_all: false,
            delete_file_threshold: usize::MAX,
            delete_ratio_threshold: 0.3,
            concurrency: 1,
            partial_progress: false,
            commits_max: 10,
            failed_commits_max: 10,
            starting_sequence_number: true,
            job_order: JobOrder::None,
            remove_dangling_deletes: false,
            zorder_text_bytes: 8,
            zorder_bytes_max: i32::MAX,
        }
    }

    #[test]
    fn small_rests_are_spread_over_the_other_files() {
        let settings = settings(100);
        assert_eq!(settings.output_files(1), 1);
        assert_eq!(settings.output_files(100), 1);
        assert_eq!(settings.output_files(105), 1);
        assert_eq!(settings.output_files(150), 2);
        assert_eq!(settings.output_files(1_020), 10);
        assert_eq!(settings.output_files(1_080), 11);
    }
}
