//! Brings tables that an older version made to the layout that batches are quick with. It moves no row: old ones are found where they are.

use chainalytics_common::Result;
use chainalytics_lakehouse::commit::{PartitionEdit, TableEdit, Term};
use chainalytics_lakehouse::sql::load_table;
use chainalytics_lakehouse::{CommitOptions, Table, TableChange, Transaction};

use crate::JobContext;

use super::{RESULTS, SEEN, STATE};

const MAINTENANCE: &str = "chainalytics.maintenance.enabled";
const DELETES: &str = "chainalytics.maintenance.delete-file-threshold";

/// Deletion vectors: a file is known to have no row left, and goes.
const STATE_FORMAT: u8 = 3;

/// Looks at the tables of windows, and changes their definition where it is older.
///
/// # Errors
/// `TableNotFound`, with the job that makes them; of the catalog.
pub(super) async fn prepare(context: &JobContext) -> Result<()> {
    for name in [STATE, RESULTS, SEEN] {
        let ident = context.table(name)?;
        let table = load_table(context.session().lakehouse(), &ident).await?;
        let Some(change) = change(name, &table)? else { continue };
        let changed = Transaction::new(context.session().lakehouse()).add(change).commit(CommitOptions::default()).await;
        if let Err(error) = changed {
            // Another run may have done it at the same time.
            let now = load_table(context.session().lakehouse(), &ident).await?;
            if self::change(name, &now)?.is_some() {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// What a table lacks.
fn change(name: &str, table: &Table) -> Result<Option<TableChange>> {
    let mut edits = Vec::new();
    if name == STATE {
        if table.format_version() < STATE_FORMAT {
            edits.push(TableEdit::FormatVersion(STATE_FORMAT));
        }
        if !table.partition_fields().iter().any(|field| field.source == "window_end") {
            let term = Term { column: vec!["window_end".to_owned()], transform: "hour".to_owned() };
            edits.push(TableEdit::Partition(PartitionEdit::Add { term, name: None }));
        }
    }
    let mut wanted = vec![(MAINTENANCE, "true")];
    if name == RESULTS {
        wanted.push((DELETES, "1"));
    }
    wanted.retain(|(key, _)| table.property(key).is_none());
    if edits.is_empty() && wanted.is_empty() {
        return Ok(None);
    }
    let change = wanted.into_iter().fold(TableChange::metadata(table.ident().clone()), |change, (key, value)| change.set_property(key, value));
    Ok(Some(change.edit(edits)))
}
