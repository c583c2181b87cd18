//! Procedures that move branches between snapshots.

use chainalytics_common::Result;
use datafusion::arrow::array::RecordBatch;

use super::result::{batch, long, longs, texts, times};
use super::{Arguments, Kind, Procedure, bad_argument, optional, required};
use crate::maintenance::{self, Moved, Published};
use crate::sql::Runner;

pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "rollback_to_snapshot",
        parameters: &[required("table", Kind::Text), required("snapshot_id", Kind::Long)],
        run: |runner, arguments| Box::pin(rollback_to_snapshot(runner, arguments)),
    },
    Procedure {
        name: "rollback_to_timestamp",
        parameters: &[required("table", Kind::Text), required("timestamp", Kind::Time)],
        run: |runner, arguments| Box::pin(rollback_to_timestamp(runner, arguments)),
    },
    Procedure {
        name: "set_current_snapshot",
        parameters: &[required("table", Kind::Text), optional("snapshot_id", Kind::Long), optional("ref", Kind::Text)],
        run: |runner, arguments| Box::pin(set_current_snapshot(runner, arguments)),
    },
    Procedure {
        name: "cherrypick_snapshot",
        parameters: &[required("table", Kind::Text), required("snapshot_id", Kind::Long)],
        run: |runner, arguments| Box::pin(cherrypick_snapshot(runner, arguments)),
    },
    Procedure {
        name: "publish_changes",
        parameters: &[required("table", Kind::Text), required("wap_id", Kind::Text)],
        run: |runner, arguments| Box::pin(publish_changes(runner, arguments)),
    },
    Procedure {
        name: "fast_forward",
        parameters: &[required("table", Kind::Text), required("branch", Kind::Text), required("to", Kind::Text)],
        run: |runner, arguments| Box::pin(fast_forward(runner, arguments)),
    },
    Procedure {
        name: "ancestors_of",
        parameters: &[required("table", Kind::Text), optional("snapshot_id", Kind::Long)],
        run: |runner, arguments| Box::pin(ancestors_of(runner, arguments)),
    },
];

async fn rollback_to_snapshot(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let id = arguments.required_long("snapshot_id")?;
    moved(maintenance::rollback_to_snapshot(runner.lakehouse, table.ident(), id).await?)
}

async fn rollback_to_timestamp(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let at = arguments.time_ms("timestamp").ok_or_else(|| bad_argument("argument 'timestamp' is missing"))?;
    moved(maintenance::rollback_to_timestamp(runner.lakehouse, table.ident(), at).await?)
}

async fn set_current_snapshot(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let target = match (arguments.long("snapshot_id"), arguments.text("ref")) {
        (Some(id), None) => Ok(id),
        (None, Some(name)) => Err(name.to_owned()),
        _ => return Err(bad_argument("set_current_snapshot: either 'snapshot_id' or 'ref' must be given, not both")),
    };
    moved(maintenance::set_current_snapshot(runner.lakehouse, table.ident(), target).await?)
}

async fn cherrypick_snapshot(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let id = arguments.required_long("snapshot_id")?;
    published(maintenance::cherrypick_snapshot(runner.lakehouse, table.ident(), id).await?)
}

async fn publish_changes(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let wap_id = arguments.required_text("wap_id")?;
    published(maintenance::publish_changes(runner.lakehouse, table.ident(), wap_id).await?)
}

async fn fast_forward(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let (branch, to) = (arguments.required_text("branch")?, arguments.required_text("to")?);
    let done = maintenance::fast_forward(runner.lakehouse, table.ident(), branch, to).await?;
    batch([
        ("branch_updated", texts([done.branch])),
        ("previous_ref", long(done.previous_snapshot_id)),
        ("updated_ref", long(done.updated_snapshot_id)),
    ])
}

async fn ancestors_of(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let chain = maintenance::ancestors_of(&table, arguments.long("snapshot_id"))?;
    batch([("snapshot_id", longs(chain.iter().map(|(id, _)| Some(*id)))), ("timestamp", times(chain.iter().map(|(_, at)| *at)))])
}

fn moved(moved: Moved) -> Result<RecordBatch> {
    batch([("previous_snapshot_id", long(moved.previous_snapshot_id)), ("current_snapshot_id", long(moved.current_snapshot_id))])
}

fn published(published: Published) -> Result<RecordBatch> {
    batch([("source_snapshot_id", long(published.source_snapshot_id)), ("current_snapshot_id", long(published.current_snapshot_id))])
}
