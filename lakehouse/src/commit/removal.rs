use std::collections::{BTreeSet, HashSet};

use chainalytics_common::Result;
use iceberg::spec::{DataContentType, DataFile, ManifestContentType, ManifestEntry, ManifestFile, Struct};

use super::manifests::{Fate, ManifestFactory, load_all};
use super::summary::Changes;
use crate::err;

/// Which live files a snapshot takes out.
pub(super) enum Removal {
    /// Data and delete files with these paths, each of which must be live, and the deletion vectors of these data files,
    /// which need not: a data file has one at most, and none when it is gone (spec, "Deletion Vectors").
    Paths { paths: BTreeSet<String>, vectors_of: BTreeSet<String> },
    /// Everything, delete files included.
    All,
    /// All files of these partitions of one spec.
    Partitions { spec_id: i32, values: HashSet<Struct> },
}

impl Removal {
    fn removes(&self, entry: &ManifestEntry, file: &ManifestFile) -> bool {
        match self {
            Self::All => true,
            Self::Paths { paths, vectors_of } => match vector_target(entry.data_file()) {
                // Several vectors may share a file, so that its path does not name one.
                Some(target) => vectors_of.contains(&target),
                None => paths.contains(entry.file_path()),
            },
            Self::Partitions { spec_id, values } => file.partition_spec_id == *spec_id && values.contains(entry.data_file.partition()),
        }
    }
}

/// The data file of a deletion vector; `None` for other files.
pub(super) fn vector_target(file: &DataFile) -> Option<String> {
    let is_vector = file.content_type() == DataContentType::PositionDeletes && file.content_offset().is_some();
    is_vector.then(|| file.referenced_data_file()).flatten()
}

/// The parent's manifests without the files that `removal` names: untouched manifests are carried over, the others
/// written anew.
///
/// # Errors
/// `CommitConflict` if a path is not live any more.
pub(super) async fn remove(
    factory: &mut ManifestFactory<'_>,
    manifests: Vec<ManifestFile>,
    removal: &Removal,
    changes: &mut Changes,
) -> Result<Vec<ManifestFile>> {
    if let Removal::Partitions { spec_id, .. } = removal
        && manifests.iter().any(|file| file.partition_spec_id != *spec_id && file.has_live_files())
    {
        return Err(err::unsupported("overwriting partitions of a table whose older files have another partition spec; overwrite by filter"));
    }
    let mut missing: HashSet<&str> = match removal {
        Removal::Paths { paths, .. } => paths.iter().map(String::as_str).collect(),
        _ => HashSet::new(),
    };
    let mut result = Vec::with_capacity(manifests.len());
    // Only deletion vectors go: no data manifest need be read.
    let only_vectors = matches!(removal, Removal::Paths { paths, .. } if paths.is_empty());
    let (untouched, manifests): (Vec<_>, Vec<_>) = manifests.into_iter().partition(|file| only_vectors && file.content == ManifestContentType::Data);
    result.extend(untouched);
    for chunk in manifests.chunks(super::manifests::MANIFEST_READS) {
        let loaded = load_all(factory.table, chunk).await?;
        for (file, manifest) in chunk.iter().zip(loaded) {
            let mut fates = Vec::with_capacity(manifest.entries().len());
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                if removal.removes(entry, file) {
                    missing.remove(entry.file_path());
                    changes.remove(&entry.data_file, file.partition_spec_id);
                    fates.push(Fate::Remove);
                } else {
                    fates.push(Fate::Keep);
                }
            }
            if fates.contains(&Fate::Remove) {
                result.push(factory.rewritten(file, &manifest, &fates).await?);
            } else {
                result.push(file.clone());
            }
        }
    }
    match missing.into_iter().next() {
        Some(path) => Err(err::conflict(format!("table {}: {path} was removed by another commit", factory.table.ident()))),
        None => Ok(result),
    }
}

/// Whether a manifest still lists anything live; one that does not need not be carried on.
pub(super) trait Liveness {
    fn has_live_files(&self) -> bool;
}

impl Liveness for ManifestFile {
    fn has_live_files(&self) -> bool {
        self.has_added_files() || self.has_existing_files()
    }
}
