//! Uploads into local folders that never ended. `LocalFileSystem` writes `name#1` and gives it its name at the end; a
//! process that dies leaves it behind, and the store neither lists it nor takes its name.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file under the name of an unfinished upload.
pub(crate) struct StagedFile {
    pub path: String,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// Whether a path is that of an unfinished upload.
pub(super) fn is_staged(path: &str) -> bool {
    path.rsplit_once('#').is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Unfinished uploads under a folder; none if there is no such folder. Blocks.
pub(super) fn find(folder: &Path) -> io::Result<Vec<StagedFile>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The location may be that of one file.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let Some(text) = path.to_str().filter(|text| is_staged(text)) else { continue };
            // It may get its name meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            found.push(StagedFile { path: text.to_owned(), bytes: meta.len(), modified: meta.modified()? });
        }
    }
    Ok(found)
}
