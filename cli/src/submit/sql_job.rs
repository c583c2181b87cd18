//! The job `sql`: the statements of a script, one after the other, as a run.

use arrow::json::ArrayWriter;
use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::sql::StatementResult;
use chainalytics_proto::v1::Progress;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::sql::split::split;

/// The name under which it is submitted.
pub const NAME: &str = "sql";
/// Rows of each result that the report shows.
const PREVIEW_ROWS: usize = 20;

/// Runs `script`; the report tells of each statement how many rows it gave, and the first of them.
pub async fn run(session: &Session, script: &str) -> Result<Value> {
    let cut = split(script);
    let statements: Vec<&String> = cut.statements.iter().chain(Some(&cut.rest).filter(|r| !r.is_empty())).collect();
    if statements.is_empty() {
        return Err(Error::new(ErrorCode::InvalidArgument, "the script holds no statement".to_owned()));
    }
    let mut results = Vec::with_capacity(statements.len());
    let total = statements.len() as u64;
    let mut rows_total = 0;
    for (done, sql) in (0u64..).zip(&statements) {
        let stage: String = sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(60).collect();
        session.run().progress(Progress { stage, done, total, rows: rows_total, ..Progress::default() });
        let (rows, preview) = statement(session, sql).await?;
        rows_total += rows;
        results.push(json!({ "statement": sql, "rows": rows, "preview": preview }));
    }
    session.run().progress(Progress { stage: "done".to_owned(), done: total, total, rows: rows_total, ..Progress::default() });
    Ok(json!({ "statements": results }))
}

async fn statement(session: &Session, sql: &str) -> Result<(u64, Vec<Value>)> {
    let StatementResult::Rows(mut stream) = session.sql(sql).await? else { return Ok((0, Vec::new())) };
    let (mut rows, mut preview) = (0u64, Vec::new());
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(Error::from_datafusion)?;
        let wanted = PREVIEW_ROWS.saturating_sub(preview.len()).min(batch.num_rows());
        if wanted > 0 {
            preview.extend(to_json(&batch.slice(0, wanted))?);
        }
        rows += batch.num_rows() as u64;
    }
    Ok((rows, preview))
}

/// Rows as JSON objects, nulls included.
pub fn to_json(batch: &arrow::array::RecordBatch) -> Result<Vec<Value>> {
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, format!("cannot turn rows into JSON: {e}"));
    let mut writer: ArrayWriter<Vec<u8>> = arrow::json::WriterBuilder::new().with_explicit_nulls(true).build(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|e| failed(&e))?;
    let bytes = writer.into_inner();
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&bytes).map_err(|e| failed(&e))
}
