//! Several tables in one commit: the rows of each are written first, then all become visible together, with the position that they bring
//! the job to.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::commit::{ConflictCheck, TableOutcome};
use chainalytics_lakehouse::dml::{Casting, Matching, RowEdit, RowPlaces, Write, align, by_partition, committed_step, delete_places, rewrite_rows};
use chainalytics_lakehouse::exec::QueryExecutor;
use chainalytics_lakehouse::sql::load_table;
use chainalytics_lakehouse::write::IcebergWriteNode;
use chainalytics_lakehouse::{DataFileInfo, Decision, Table, TableChange, Transaction, WriteSpec};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::Expr;
use futures::TryStreamExt;

use crate::JobContext;

/// What happens to the rows that a table has.
#[derive(Debug, Clone)]
pub(crate) enum Keep {
    /// They stay.
    All,
    /// They go.
    Nothing,
    /// Those that satisfy the condition go.
    AllBut(Expr),
    /// Those go that stand at these places of the part's own version of the table; all of them satisfy the condition. Nobody but the part's
    /// owner changes such rows: its properties tell when another run did.
    AllButRows { places: RowPlaces, within: Expr },
}

/// One table's part of a commit.
pub(crate) struct Part {
    pub table: Table,
    pub keep: Keep,
    pub frames: Vec<DataFrame>,
    /// Properties to set, each with the value that it must have until then.
    pub properties: Vec<(String, Option<String>, String)>,
}

impl Part {
    /// Loads the table that the part changes.
    ///
    /// # Errors
    /// `TableNotFound`.
    pub(crate) async fn new(context: &JobContext, table: &str, keep: Keep) -> Result<Self> {
        let table = load_table(context.session().lakehouse(), &context.table(table)?).await?;
        Ok(Self { table, keep, frames: Vec::new(), properties: Vec::new() })
    }

    pub(crate) async fn query(mut self, context: &JobContext, query: &str) -> Result<Self> {
        self.frames.push(context.session().dataframe(query).await?);
        Ok(self)
    }

    pub(crate) fn frame(mut self, frame: DataFrame) -> Self {
        self.frames.push(frame);
        self
    }

    /// Sets a property; the commit fails if someone else has changed it since the table was loaded.
    pub(crate) fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        let before = self.table.property(&key).map(str::to_owned);
        self.properties.push((key, before, value.into()));
        self
    }
}

/// Writes the rows of all parts and commits them at once, as `step` of the run. Parts that change nothing are left out.
///
/// # Errors
/// Of the queries; `SchemaMismatch`; `CommitConflict` if a table or a position was changed meanwhile: nothing was written then.
pub(crate) async fn commit(context: &JobContext, step: &str, parts: Vec<Part>) -> Result<Vec<TableOutcome>> {
    let session = context.session();
    let options = session.write_options(step);
    // The parts were committed together, so one tells for all.
    let done: Vec<TableOutcome> = parts.iter().filter_map(|part| committed_step(&part.table, &options)).collect();
    if !done.is_empty() {
        return Ok(done);
    }
    session.run().set_step(Some(step));
    let mut written = Vec::new();
    let result = write_and_commit(context, step, parts, &mut written).await;
    session.run().set_step(None);
    if let Err(error) = &result
        && error.code() != ErrorCode::CommitUnknown
    {
        session.lakehouse().discard_files(&written).await;
    }
    result
}

async fn write_and_commit(context: &JobContext, step: &str, parts: Vec<Part>, written: &mut Vec<DataFileInfo>) -> Result<Vec<TableOutcome>> {
    let session = context.session();
    let options = session.write_options(step);
    let state = session.ctx().state();
    let write = Write { lakehouse: session.lakehouse(), executor: session, state: &state, options: &options };
    let mut transaction = Transaction::new(session.lakehouse());
    let mut changes = 0;
    for part in parts {
        let Part { table, keep, frames, properties } = part;
        let ident = table.ident().clone();
        let mut added = Vec::new();
        for frame in frames {
            let files = data_files(context, &table, frame, !matches!(keep, Keep::All)).await?;
            written.extend(files.iter().cloned());
            added.extend(files);
        }
        let base = table.current_snapshot_id();
        let change = match keep {
            Keep::All if added.is_empty() && properties.is_empty() => continue,
            Keep::All => TableChange::append(ident, added),
            Keep::Nothing if base.is_none() && added.is_empty() && properties.is_empty() => continue,
            Keep::Nothing => TableChange::replace_all(ident, added).expect_snapshot(base),
            Keep::AllBut(filter) => {
                let (removed, check) = if base.is_none() {
                    (Default::default(), ConflictCheck::Snapshot)
                } else {
                    let replaced = rewrite_rows(&write, &table, None, filter, RowEdit::Delete).await?;
                    written.extend(replaced.added.iter().cloned());
                    added.extend(replaced.added);
                    (replaced.removed, replaced.check)
                };
                if removed.is_empty() && added.is_empty() && properties.is_empty() {
                    continue;
                }
                TableChange::overwrite(ident, base, removed, added, check)
            }
            Keep::AllButRows { places, within } => {
                let gone = delete_places(&write, &table, &within, &places).await?;
                written.extend(gone.added.iter().cloned());
                added.extend(gone.added);
                if gone.removed.is_empty() && places.is_empty() {
                    if added.is_empty() && properties.is_empty() {
                        continue;
                    }
                    TableChange::append(ident, added)
                } else {
                    TableChange::overwrite(ident, gone.base, gone.removed, added, gone.check)
                }
            }
        };
        let mut change = change;
        for (key, _, value) in &properties {
            change = change.set_property(key, value);
        }
        if !properties.is_empty() {
            change = change.validate(move |current| {
                let moved = properties.iter().find(|(key, before, _)| current.property(key) != before.as_deref());
                Ok(match moved {
                    Some((key, ..)) => Decision::Conflict(format!("another run has moved {key}")),
                    None => Decision::Commit,
                })
            });
        }
        transaction = transaction.add(change);
        changes += 1;
    }
    if changes == 0 {
        return Ok(Vec::new());
    }
    Ok(transaction.commit(options).await?.tables)
}

/// Runs the writing part on whoever runs the session's queries.
async fn data_files(context: &JobContext, table: &Table, frame: DataFrame, overwrites: bool) -> Result<Vec<DataFileInfo>> {
    let session = context.session();
    let (state, plan) = frame.into_parts();
    let plan = align(plan, table.schema(), &table.ident().to_string(), &Matching::ByName, Casting::Lossless)?;
    // One task per partition value, so that a rebuilt day is one file and not one of each task.
    let plan = if overwrites { by_partition(plan, table, state.config().target_partitions())? } else { plan };
    let node = IcebergWriteNode::try_new(plan, WriteSpec::from_table(table)?).map_err(Error::from_datafusion)?;
    let mut rows = session.execute_logical(node.into_plan()).await?;
    let mut files = Vec::new();
    while let Some(batch) = rows.try_next().await.map_err(Error::from_datafusion)? {
        let column = batch.column_by_name("data_file").ok_or_else(|| Error::internal("the write plan returned no column 'data_file'"))?;
        let texts = cast(column, &DataType::Utf8).map_err(|e| Error::internal(format!("data file rows: {e}")))?;
        for text in texts.as_string::<i32>().iter().flatten() {
            files.push(DataFileInfo::from_json(text)?);
        }
    }
    Ok(files)
}
