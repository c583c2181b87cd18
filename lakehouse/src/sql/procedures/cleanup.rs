//! Procedures that delete: expiry and removal of orphans.

use chainalytics_common::Result;
use datafusion::arrow::array::RecordBatch;

use super::result::{batch, long_count, texts};
use super::{Arguments, Kind, Procedure, bad_argument, optional, required};
use crate::maintenance::{self, ExpireOptions, OrphanOptions, PrefixMismatch};
use crate::sql::Runner;

pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "expire_snapshots",
        parameters: &[
            required("table", Kind::Text),
            optional("older_than", Kind::Time),
            optional("retain_last", Kind::Long),
            optional("max_concurrent_deletes", Kind::Long),
            // Spark's choice of how to bring results to its driver; ours never collects them there.
            optional("stream_results", Kind::Bool),
            optional("snapshot_ids", Kind::Longs),
            optional("clean_expired_metadata", Kind::Bool),
        ],
        run: |runner, arguments| Box::pin(expire_snapshots(runner, arguments)),
    },
    Procedure {
        name: "remove_orphan_files",
        parameters: &[
            required("table", Kind::Text),
            optional("older_than", Kind::Time),
            optional("location", Kind::Text),
            optional("dry_run", Kind::Bool),
            optional("max_concurrent_deletes", Kind::Long),
            optional("equal_schemes", Kind::Map),
            optional("equal_authorities", Kind::Map),
            optional("prefix_mismatch_mode", Kind::Text),
            optional("force", Kind::Bool),
        ],
        run: |runner, arguments| Box::pin(remove_orphan_files(runner, arguments)),
    },
];

async fn expire_snapshots(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let options = ExpireOptions {
        older_than_ms: arguments.time_ms("older_than"),
        retain_last: arguments.count("retain_last", 1)?,
        snapshot_ids: arguments.longs("snapshot_ids"),
        max_concurrent_deletes: arguments.count("max_concurrent_deletes", 1)?,
        clean_expired_metadata: arguments.flag("clean_expired_metadata").unwrap_or(false),
    };
    let expired = maintenance::expire_snapshots(runner.lakehouse, table.ident(), &options).await?;
    batch([
        ("deleted_data_files_count", long_count(expired.data_files)),
        ("deleted_position_delete_files_count", long_count(expired.position_delete_files)),
        ("deleted_equality_delete_files_count", long_count(expired.equality_delete_files)),
        ("deleted_manifest_files_count", long_count(expired.manifests)),
        ("deleted_manifest_lists_count", long_count(expired.manifest_lists)),
        ("deleted_statistics_files_count", long_count(expired.statistics_files)),
    ])
}

async fn remove_orphan_files(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let prefix_mismatch = match arguments.text("prefix_mismatch_mode").map(str::to_ascii_uppercase).as_deref() {
        None | Some("ERROR") => PrefixMismatch::Error,
        Some("IGNORE") => PrefixMismatch::Ignore,
        Some("DELETE") => PrefixMismatch::Delete,
        Some(other) => {
            return Err(bad_argument(format!("prefix_mismatch_mode '{other}': it must be ERROR, IGNORE or DELETE")));
        }
    };
    let options = OrphanOptions {
        older_than_ms: arguments.time_ms("older_than"),
        location: arguments.text("location").map(str::to_owned),
        dry_run: arguments.flag("dry_run").unwrap_or(false),
        force: arguments.flag("force").unwrap_or(false),
        max_concurrent_deletes: arguments.count("max_concurrent_deletes", 1)?,
        equal_schemes: arguments.map("equal_schemes"),
        equal_authorities: arguments.map("equal_authorities"),
        prefix_mismatch,
    };
    let orphans = maintenance::remove_orphan_files(runner.lakehouse, table.ident(), &options).await?;
    batch([("orphan_file_location", texts(orphans))])
}
