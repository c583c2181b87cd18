use std::collections::{BTreeSet, HashSet};

use chainalytics_common::Result;
use iceberg::spec::{ManifestContentType, ManifestEntry, ManifestFile, Struct};

use super::manifests::{Fate, ManifestFactory, load_all};
use super::summary::Changes;
use crate::err;

/// Which live files a snapshot takes out.
pub(super) enum Removal {
    /// Data files with these paths; each must be live.
    Paths(BTreeSet<String>),
    /// Everything, delete files included.
    All,
    /// All files of these partitions of one spec.
    Partitions { spec_id: i32, values: HashSet<Struct> },
}

impl Removal {
    fn removes(&self, entry: &ManifestEntry, file: &ManifestFile) -> bool {
        match self {
            Self::All => true,
            Self::Paths(paths) => file.content == ManifestContentType::Data && paths.contains(entry.file_path()),
            Self::Partitions { spec_id, values } => {
                file.partition_spec_id == *spec_id && values.contains(entry.data_file.partition())
            }
        }
    }
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
        return Err(err::unsupported(
            "overwriting partitions of a table whose older files have another partition spec; overwrite by filter",
        ));
    }
    let mut missing: HashSet<&str> = match removal {
        Removal::Paths(paths) => paths.iter().map(String::as_str).collect(),
        _ => HashSet::new(),
    };
    let mut result = Vec::with_capacity(manifests.len());
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
        Some(path) => {
            Err(err::conflict(format!("table {}: {path} was removed by another commit", factory.table.ident())))
        }
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
