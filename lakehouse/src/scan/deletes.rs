//! Which delete files apply to which data files. Source: Iceberg spec, "Scan Planning".

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{DataContentType, DataFileFormat, PrimitiveLiteral, Struct, TableMetadata};
use serde::{Deserialize, Serialize};

use chainalytics_common::{Error, ErrorCode, Result};

use super::files::ScanFile;

/// Field id of `file_path` in position delete files (spec, "Reserved Field IDs").
pub const DELETE_FILE_PATH_ID: i32 = 2_147_483_546;
/// Field id of `pos` in position delete files.
pub const DELETE_POSITION_ID: i32 = 2_147_483_545;

/// What a delete file holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeleteContent {
    /// Rows (path of a data file, position in it), Parquet.
    Positions,
    /// A bitmap of positions in one data file: a blob of a Puffin file, bytes `[offset, offset + length)`.
    Vector { offset: u64, length: u64, rows: u64 },
    /// Rows whose values in these columns (field ids) are deleted, Parquet.
    Equality { ids: Vec<i32> },
}

/// A delete file as a scan needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeleteRef {
    pub path: String,
    /// Size of the file, bytes.
    pub size: u64,
    pub content: DeleteContent,
}

struct Candidate {
    delete: DeleteRef,
    sequence_number: i64,
    /// Bounds of the paths that position deletes name, if known.
    paths: Option<(String, String)>,
}

type Partition = (i32, Struct);

/// The live delete files of a snapshot, by what they may apply to.
#[derive(Default)]
pub struct DeleteIndex {
    positions: HashMap<Partition, Vec<Candidate>>,
    positions_of_file: HashMap<String, Vec<Candidate>>,
    vectors: HashMap<String, Candidate>,
    equality: HashMap<Partition, Vec<Candidate>>,
    equality_everywhere: Vec<Candidate>,
}

impl DeleteIndex {
    /// Sorts delete files.
    ///
    /// # Errors
    /// `TableFormat` for a delete file in another format than Parquet or Puffin, or one that lacks what the format asks.
    pub fn build(deletes: &[ScanFile], metadata: &TableMetadata) -> Result<Self> {
        let mut index = Self::default();
        for file in deletes {
            index.add(file, metadata)?;
        }
        Ok(index)
    }

    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
            && self.positions_of_file.is_empty()
            && self.vectors.is_empty()
            && self.equality.is_empty()
            && self.equality_everywhere.is_empty()
    }

    fn add(&mut self, file: &ScanFile, metadata: &TableMetadata) -> Result<()> {
        let data = file.data_file();
        let broken = |what: &str| Error::new(ErrorCode::TableFormat, format!("delete file {}: {what}", file.path()));
        let partition = (file.spec_id, data.partition().clone());
        let candidate = |content| Candidate {
            delete: DeleteRef { path: file.path().to_owned(), size: data.file_size_in_bytes(), content },
            sequence_number: file.sequence_number,
            paths: path_bounds(file),
        };
        match (data.content_type(), data.file_format()) {
            (DataContentType::PositionDeletes, DataFileFormat::Puffin) => {
                let target = data.referenced_data_file().ok_or_else(|| broken("a deletion vector without its data file"))?;
                let range = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok());
                let (Some(offset), Some(length)) = (range(data.content_offset()), range(data.content_size_in_bytes())) else {
                    return Err(broken("a deletion vector without its place in the file"));
                };
                let vector = candidate(DeleteContent::Vector { offset, length, rows: data.record_count() });
                // At most one per data file is valid; of several the newest counts.
                match self.vectors.get(&target) {
                    Some(known) if known.sequence_number >= vector.sequence_number => {}
                    _ => {
                        self.vectors.insert(target, vector);
                    }
                }
            }
            (DataContentType::PositionDeletes, DataFileFormat::Parquet) => {
                let delete = candidate(DeleteContent::Positions);
                match data.referenced_data_file() {
                    Some(target) => self.positions_of_file.entry(target).or_default().push(delete),
                    None => self.positions.entry(partition).or_default().push(delete),
                }
            }
            (DataContentType::EqualityDeletes, DataFileFormat::Parquet) => {
                let mut ids = data.equality_ids().unwrap_or_default();
                if ids.is_empty() {
                    return Err(broken("equality deletes without columns"));
                }
                ids.sort_unstable();
                let delete = candidate(DeleteContent::Equality { ids });
                // Those of an unpartitioned spec apply to all partitions.
                let everywhere = metadata.partition_spec_by_id(file.spec_id).is_some_and(|spec| spec.is_unpartitioned());
                match everywhere {
                    true => self.equality_everywhere.push(delete),
                    false => self.equality.entry(partition).or_default().push(delete),
                }
            }
            (_, format) => return Err(broken(&format!("format {format} cannot be read, only Parquet and Puffin"))),
        }
        Ok(())
    }

    /// The delete files that apply to a data file.
    pub fn for_file(&self, file: &ScanFile) -> Vec<DeleteRef> {
        if self.is_empty() {
            return Vec::new();
        }
        let partition = (file.spec_id, file.data_file().partition().clone());
        let mut found = Vec::new();
        let not_older = |c: &&Candidate| c.sequence_number >= file.sequence_number;
        match self.vectors.get(file.path()).filter(not_older) {
            // A deletion vector holds the older position deletes too.
            Some(vector) => found.push(vector.delete.clone()),
            None => {
                let of_file = self.positions_of_file.get(file.path()).into_iter().flatten();
                let of_partition = self.positions.get(&partition).into_iter().flatten();
                let named = |c: &&Candidate| c.paths.as_ref().is_none_or(|(low, high)| low.as_str() <= file.path() && file.path() <= high.as_str());
                let positions = of_file.chain(of_partition.filter(named)).filter(not_older);
                found.extend(positions.map(|c| c.delete.clone()));
            }
        }
        let equality = self.equality.get(&partition).into_iter().flatten().chain(&self.equality_everywhere);
        found.extend(equality.filter(|c| c.sequence_number > file.sequence_number).map(|c| c.delete.clone()));
        found
    }

    /// The deletion vector of a data file, if it has one.
    pub fn vector_of(&self, path: &str) -> Option<&DeleteRef> {
        self.vectors.get(path).map(|c| &c.delete)
    }
}

fn path_bounds(file: &ScanFile) -> Option<(String, String)> {
    let data = file.data_file();
    let text = |bounds: &HashMap<i32, iceberg::spec::Datum>| match bounds.get(&DELETE_FILE_PATH_ID)?.literal() {
        PrimitiveLiteral::String(text) => Some(text.clone()),
        _ => None,
    };
    Some((text(data.lower_bounds())?, text(data.upper_bounds())?))
}

/// The columns that equality deletes compare, over all files of a scan.
pub fn equality_ids<'a>(deletes: impl Iterator<Item = &'a DeleteRef>) -> Vec<i32> {
    let mut ids: Vec<i32> = deletes
        .filter_map(|d| match &d.content {
            DeleteContent::Equality { ids } => Some(ids.as_slice()),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A field of the table by id: of the current schema, else of the newest that had it.
pub fn field_by_id(metadata: &TableMetadata, id: i32) -> Option<iceberg::spec::NestedFieldRef> {
    let top = |schema: &Arc<iceberg::spec::Schema>| schema.as_struct().fields().iter().find(|f| f.id == id).cloned();
    top(metadata.current_schema()).or_else(|| {
        let mut schemas: Vec<_> = metadata.schemas_iter().collect();
        schemas.sort_by_key(|s| std::cmp::Reverse(s.schema_id()));
        schemas.into_iter().find_map(top)
    })
}
