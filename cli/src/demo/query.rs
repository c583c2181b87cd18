//! Small queries of the demo: rows as JSON objects, through the same session as any other SQL.

use std::collections::BTreeMap;

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::sql::StatementResult;
use futures::StreamExt as _;
use serde_json::{Map, Value};

use crate::submit::sql_job::to_json;

/// The demo's queries group and count: more rows than this are a mistake.
const ROWS_MAX: usize = 10_000;

/// All rows of a query.
pub async fn rows(session: &Session, sql: &str) -> Result<Vec<Map<String, Value>>> {
    let StatementResult::Rows(mut stream) = session.sql(sql).await? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    while let Some(batch) = stream.next().await {
        for value in to_json(&batch.map_err(Error::from_datafusion)?)? {
            if let Value::Object(row) = value {
                rows.push(row);
            }
        }
        if rows.len() > ROWS_MAX {
            return Err(Error::new(ErrorCode::Internal, format!("a query of the demo gives more than {ROWS_MAX} rows: {sql}")));
        }
    }
    Ok(rows)
}

/// Rows of a table; `None` if there is no such table.
pub async fn count(session: &Session, table: &str) -> Result<Option<u64>> {
    match rows(session, &format!("SELECT count(*) AS n FROM {table}")).await {
        Ok(rows) => Ok(Some(rows.first().and_then(|row| row.get("n")).and_then(Value::as_u64).unwrap_or(0))),
        Err(error) if error.code() == ErrorCode::TableNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Counts by two text columns `a` and `b`; the count is `n`.
pub async fn counts_by(session: &Session, sql: &str) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let text = |row: &Map<String, Value>, name: &str| row.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for row in rows(session, sql).await? {
        let n = row.get("n").and_then(Value::as_u64).unwrap_or(0);
        *counts.entry(text(&row, "a")).or_default().entry(text(&row, "b")).or_default() += n;
    }
    Ok(counts)
}
