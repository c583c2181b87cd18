//! What a query with state keeps as a property of a table, and what it can tell of its state after a batch.

use std::collections::BTreeMap;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::commit::TableOutcome;
use chainalytics_lakehouse::sql::load_table;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{ident, lit};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::JobContext;
use crate::stage::Keep;

/// The JSON that a property of the table holds; `None` if it is not set.
///
/// # Errors
/// `ProgressLost` for a text that is none: taking it for "from the start" would double rows.
pub(crate) fn read_property<T: DeserializeOwned>(table: &Table, property: &str) -> Result<Option<T>> {
    let Some(text) = table.property(property) else { return Ok(None) };
    let parsed = serde_json::from_str(text)
        .map_err(|e| Error::new(ErrorCode::ProgressLost, format!("property {property} of table {} cannot be read: {e}", table.ident())))?;
    Ok(Some(parsed))
}

/// Fails unless the state that is there was made by the query that is asked for: under another it would mean something else.
///
/// # Errors
/// `InvalidArgument` with what `says` makes of the known definition.
pub(crate) fn same_definition<D: PartialEq + Serialize>(known: &D, wanted: &D, says: impl FnOnce(&str) -> String) -> Result<()> {
    if known == wanted {
        return Ok(());
    }
    let known = serde_json::to_string(known).unwrap_or_default();
    Err(Error::new(ErrorCode::InvalidArgument, says(&known)))
}

/// As JSON for a property.
pub(crate) fn to_property<T: Serialize>(value: &T) -> String {
    // Texts and numbers: serialising cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Name of the table that holds the state of `of`: of an output, or of one side of it.
pub(crate) fn state_table(of: &str) -> String {
    format!("{of}_state")
}

/// Rows of a table as it is now.
///
/// # Errors
/// Of the catalog.
pub(crate) async fn row_count(context: &JobContext, table: &str) -> Result<u64> {
    Ok(load_table(context.session().lakehouse(), &context.table(table)?).await?.row_count().unwrap_or(0))
}

/// A moment, microseconds since the epoch, as the tables have it.
pub(crate) fn timestamp(micros: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())))
}

/// Lets rows go whose `column` is not after `moment`.
pub(crate) fn expire(column: &str, moment: i64) -> Keep {
    Keep::AllBut(ident(column).lt_eq(timestamp(moment)))
}

/// Fails if a query has more state than it may have.
///
/// # Errors
/// `ResourcesExhausted`, with what to do.
pub(crate) fn check_state(query: &str, rows: u64, max: u64, remedy: &str) -> Result<()> {
    if rows <= max {
        return Ok(());
    }
    Err(Error::new(ErrorCode::ResourcesExhausted, format!("{query} has {rows} rows of state (--max-state-rows {max}): {remedy}")))
}

/// Snapshot of each table that a commit changed.
pub(crate) fn snapshots(outcome: &[TableOutcome]) -> BTreeMap<String, i64> {
    outcome.iter().filter_map(|table| Some((table.ident.to_string(), table.snapshot_id?))).collect()
}
