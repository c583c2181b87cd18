//! Files of a table that are gone or damaged: every statement that needs one fails with a code and the file's name, and the
//! table stays as it was.

use std::path::{Path, PathBuf};

use chainalytics_common::{Error, ErrorCode};

use super::place::{Place, Process};
use crate::dml::WriteOptions;

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Missing,
    Truncated,
    /// Zeros before the last eight bytes of a Parquet file.
    Footer,
    /// Other bytes in the middle.
    Content,
    /// No Parquet file, of the same length.
    Noise,
}

impl Damage {
    fn strike(self, path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        let length = bytes.len();
        match self {
            Self::Missing => return std::fs::remove_file(path).unwrap(),
            Self::Truncated => bytes.truncate(length / 2),
            Self::Footer => bytes[length - 200..length - 8].fill(0),
            Self::Content => bytes[length / 8..length / 2].fill(0xa5),
            Self::Noise => bytes.fill(0x5a),
        }
        std::fs::write(path, bytes).unwrap();
    }
}

/// A file that a table needs: a query that finds its path, and the codes of its damages.
struct Kind {
    name: &'static str,
    table: &'static str,
    /// `None` for the metadata file.
    path: Option<&'static str>,
    damages: &'static [(Damage, ErrorCode)],
    statements: &'static [&'static str],
}

const READ: &str = "SELECT sum(id), max(name) FROM {t}";
/// A condition that no statistics decide.
const DELETE: &str = "DELETE FROM {t} WHERE id % 7 = 5";
const COMPACT: &str = "CALL system.rewrite_data_files(table => '{t}', options => map('rewrite-all', 'true'))";
const INSERT: &str = "INSERT INTO {t} VALUES (1, 'one')";

const PARQUET: &[(Damage, ErrorCode)] = &[
    (Damage::Missing, ErrorCode::StorageRead),
    (Damage::Truncated, ErrorCode::StorageRead),
    (Damage::Footer, ErrorCode::StorageRead),
    (Damage::Content, ErrorCode::StorageRead),
    (Damage::Noise, ErrorCode::StorageRead),
];
const AVRO: &[(Damage, ErrorCode)] =
    &[(Damage::Missing, ErrorCode::StorageRead), (Damage::Truncated, ErrorCode::TableFormat), (Damage::Noise, ErrorCode::TableFormat)];

const KINDS: &[Kind] = &[
    Kind { name: "data file", table: "plain", path: Some("SELECT file_path FROM {t}.files"), damages: PARQUET, statements: &[READ, DELETE, COMPACT] },
    Kind {
        name: "data file with deletes",
        table: "changed",
        path: Some("SELECT file_path FROM {t}.files WHERE content = 0"),
        damages: PARQUET,
        statements: &[READ, DELETE, COMPACT],
    },
    Kind {
        name: "delete file",
        table: "changed",
        path: Some("SELECT file_path FROM {t}.files WHERE content = 1"),
        damages: &[
            (Damage::Missing, ErrorCode::StorageRead),
            (Damage::Truncated, ErrorCode::StorageRead),
            (Damage::Footer, ErrorCode::StorageRead),
            (Damage::Noise, ErrorCode::StorageRead),
        ],
        statements: &[READ, COMPACT],
    },
    Kind {
        name: "deletion vector",
        table: "vectors",
        path: Some("SELECT file_path FROM {t}.files WHERE content = 1"),
        damages: &[(Damage::Missing, ErrorCode::StorageRead), (Damage::Noise, ErrorCode::TableFormat)],
        statements: &[READ, COMPACT],
    },
    Kind {
        name: "manifest",
        table: "plain",
        path: Some("SELECT path FROM {t}.manifests"),
        damages: AVRO,
        statements: &[READ, DELETE, COMPACT, "SELECT * FROM {t}.files"],
    },
    Kind {
        name: "manifest of deletes",
        table: "changed",
        path: Some("SELECT path FROM {t}.manifests WHERE content = 1"),
        damages: AVRO,
        statements: &[READ, DELETE, COMPACT],
    },
    Kind {
        name: "manifest list",
        table: "plain",
        path: Some("SELECT manifest_list FROM {t}.snapshots"),
        damages: AVRO,
        statements: &[READ, DELETE, COMPACT, INSERT],
    },
    Kind { name: "metadata file", table: "plain", path: None, damages: AVRO, statements: &[READ, DELETE, INSERT, "SELECT * FROM {t}.snapshots"] },
];

async fn prepare(place: &Place) -> Process {
    let process = place.process(None).await;
    let rows = "SELECT value, concat('name ', value * 7919 % 10007) FROM generate_series(1, 20000)";
    for (table, properties) in [
        ("plain", "'format-version' = '2'"),
        ("changed", "'format-version' = '2', 'write.delete.mode' = 'merge-on-read'"),
        ("vectors", "'format-version' = '3', 'write.delete.mode' = 'merge-on-read'"),
    ] {
        for sql in [format!("CREATE TABLE {table} (id BIGINT, name STRING) TBLPROPERTIES ({properties})"), format!("INSERT INTO {table} {rows}")] {
            process.try_sql(&sql, WriteOptions::default()).await.unwrap();
        }
        if table != "plain" {
            process.try_sql(&format!("DELETE FROM {table} WHERE id % 10 = 3"), WriteOptions::default()).await.unwrap();
        }
    }
    process
}

#[tokio::test]
async fn a_lost_or_damaged_file_is_named_and_the_table_stays_as_it_was() {
    let place = Place::new();
    let process = prepare(&place).await;
    place.keep();
    let mut files: Vec<PathBuf> = Vec::new();
    for kind in KINDS {
        let location = match kind.path {
            Some(sql) => process.rows(&sql.replace("{t}", kind.table)).await.remove(0),
            None => process.table(kind.table).await.metadata_location().to_owned(),
        };
        files.push(location.strip_prefix("file://").unwrap().into());
    }
    drop(process);
    let mut failures = Vec::new();
    for (kind, file) in KINDS.iter().zip(&files) {
        for (damage, code) in kind.damages {
            place.restore();
            damage.strike(file);
            for statement in kind.statements {
                // One that has read nothing yet.
                let process = place.process(None).await;
                let before = location(&process, kind.table).await;
                let sql = statement.replace("{t}", kind.table);
                let what = format!("{} {damage:?}: {sql}", kind.name);
                match process.try_sql(&sql, WriteOptions::default()).await {
                    Ok(_) => failures.push(format!("{what}: went well")),
                    Err(error) if error.code() != *code => failures.push(format!("{what}: not {code:?}: {error}")),
                    Err(error) if !names(&error, file) => failures.push(format!("{what}: does not name the file: {error}")),
                    Err(error) if !error.message().contains("restore") => failures.push(format!("{what}: does not say what to do: {error}")),
                    Err(_) => {}
                }
                if location(&process, kind.table).await != before {
                    failures.push(format!("{what}: the table has changed"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Metadata file that the catalog names.
async fn location(process: &Process, table: &str) -> Option<String> {
    process.lakehouse.catalog().metadata_location(&process.lakehouse.ident(table).unwrap()).await.unwrap()
}

fn names(error: &Error, file: &Path) -> bool {
    error.message().contains(file.file_name().unwrap().to_str().unwrap())
}
