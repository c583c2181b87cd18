//! Procedures that take up files and tables from elsewhere.

use chainalytics_common::Result;
use datafusion::arrow::array::RecordBatch;

use super::result::{batch, long, long_count};
use super::{Arguments, Kind, Procedure, bad_argument, optional, required};
use crate::maintenance::{self, ImportOptions, SnapshotOptions};
use crate::sql::{Runner, unsupported};

pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "add_files",
        parameters: &[
            required("table", Kind::Text),
            required("source_table", Kind::Text),
            optional("partition_filter", Kind::Map),
            optional("check_duplicate_files", Kind::Bool),
            optional("parallelism", Kind::Long),
        ],
        run: |runner, arguments| Box::pin(add_files(runner, arguments)),
    },
    Procedure {
        name: "snapshot",
        parameters: &[
            required("source_table", Kind::Text),
            required("table", Kind::Text),
            optional("location", Kind::Text),
            optional("properties", Kind::Map),
            optional("parallelism", Kind::Long),
        ],
        run: |runner, arguments| Box::pin(snapshot(runner, arguments)),
    },
    Procedure {
        name: "migrate",
        parameters: &[
            required("table", Kind::Text),
            optional("properties", Kind::Map),
            optional("drop_backup", Kind::Bool),
            optional("backup_table_name", Kind::Text),
            optional("parallelism", Kind::Long),
        ],
        run: |_, _| {
            Box::pin(async {
                Err(unsupported("migrate, which replaces a table of a Hive metastore; system.snapshot makes a table of a folder of Parquet files"))
            })
        },
    },
    Procedure {
        name: "register_table",
        parameters: &[required("table", Kind::Text), required("metadata_file", Kind::Text)],
        run: |runner, arguments| Box::pin(register_table(runner, arguments)),
    },
];

async fn add_files(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let options = ImportOptions {
        source: source_path(arguments.required_text("source_table")?)?,
        partition_filter: arguments.map("partition_filter"),
        allow_duplicates: arguments.flag("check_duplicate_files") == Some(false),
        parallelism: arguments.count("parallelism", 1)?,
    };
    let done = maintenance::add_files(runner.lakehouse, table.ident(), &options).await?;
    batch([("added_files_count", long_count(done.added_files)), ("changed_partition_count", long_count(done.changed_partitions))])
}

async fn snapshot(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let ident = runner.table_name(arguments.required_text("table")?)?;
    let import = ImportOptions {
        source: source_path(arguments.required_text("source_table")?)?,
        parallelism: arguments.count("parallelism", 1)?,
        ..ImportOptions::default()
    };
    let options = SnapshotOptions { import, location: arguments.text("location").map(str::to_owned), properties: arguments.map("properties") };
    let done = maintenance::snapshot_files(runner.lakehouse, &ident, &options).await?;
    batch([("imported_files_count", long_count(done.added_files))])
}

async fn register_table(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let ident = runner.table_name(arguments.required_text("table")?)?;
    let done = maintenance::register_table(runner.lakehouse, &ident, arguments.required_text("metadata_file")?).await?;
    batch([
        ("current_snapshot_id", long(done.current_snapshot_id)),
        ("total_records_count", long(done.total_records)),
        ("total_data_files_count", long(done.total_data_files)),
    ])
}

/// The path in `` `parquet`.`/path` `` or `parquet.'/path'`, or the text itself if it is a path.
fn source_path(text: &str) -> Result<String> {
    let text = text.trim();
    let (format, path) = text.split_once('.').unwrap_or((text, ""));
    let format = format.trim_matches('`').to_ascii_lowercase();
    let names_format = ["parquet", "orc", "avro"].contains(&format.as_str());
    if !names_format && (text.starts_with('/') || text.contains("://") || text.starts_with("file:")) {
        return Ok(text.to_owned());
    }
    if path.is_empty() {
        return Err(bad_argument(format!("source_table '{text}': it must be `parquet`.`path` or a path")));
    }
    match format.as_str() {
        "parquet" => Ok(path.trim_matches(['`', '\'', '"']).to_owned()),
        "orc" | "avro" => Err(unsupported(&format!("adding files in format {format}"))),
        _ => Err(unsupported("adding the files of a table of another catalog; name their folder as `parquet`.`path`")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn sources_are_paths() {
        for text in ["`parquet`.`/data/x.y`", "parquet.`/data/x.y`", "/data/x.y"] {
            assert_eq!(source_path(text).unwrap(), "/data/x.y", "{text}");
        }
        assert_eq!(source_path("`parquet`.`s3://b/x`").unwrap(), "s3://b/x");
        assert!(source_path("db.tbl").is_err());
    }
}
