//! The queue of days to rebuild: who asks for it is the late-data handler, or a person with an INSERT.

use std::collections::BTreeSet;

use chainalytics_common::{ErrorCode, Result};
use chainalytics_lakehouse::dml::WriteOptions;
use chainalytics_lakehouse::sql;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};

use crate::JobContext;
use crate::rows::fetch;
use crate::source::{moment, text};

pub(crate) const QUEUE: &str = "reprocessing_queue";

const DAY_MICROS: i64 = 86_400_000_000;
/// Another writer of the queue may be faster this often.
const MARK_ATTEMPTS: u32 = 5;

/// Whose turn it is with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Silver,
    /// After silver.
    Gold,
}

/// One row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub day: i32,
    pub batch: Option<i64>,
    /// `None`: all topics.
    pub topic: Option<String>,
}

/// Requests that a layer has not worked on yet.
///
/// # Errors
/// Of the query.
pub(crate) async fn pending(context: &JobContext, layer: Layer) -> Result<Vec<Request>> {
    if !context.session().lakehouse().catalog().table_exists(&context.table(QUEUE)?).await? {
        return Ok(Vec::new());
    }
    let query = format!("SELECT event_date, trigger_batch_id, kafka_topic FROM {QUEUE} WHERE {} ORDER BY event_date", open(layer));
    let rows = fetch(context.session(), &query).await?;
    let request =
        |row| Some(Request { day: rows.day(row, "event_date")?, batch: rows.long(row, "trigger_batch_id"), topic: rows.text(row, "kafka_topic") });
    Ok((0..rows.len()).filter_map(request).collect())
}

fn open(layer: Layer) -> &'static str {
    match layer {
        Layer::Silver => "processed IS NOT TRUE AND silver_processed_at IS NULL",
        Layer::Gold => "processed IS NOT TRUE AND silver_processed_at IS NOT NULL",
    }
}

/// Days that requests name for a topic.
pub(crate) fn days_of(requests: &[Request], topic: &str) -> BTreeSet<i32> {
    requests.iter().filter(|r| r.topic.as_deref().is_none_or(|t| t == topic)).map(|r| r.day).collect()
}

/// Marks requests as worked on. Rebuilding is idempotent, so a crash before this only repeats it.
///
/// # Errors
/// `CommitConflict` if others keep writing the queue.
pub(crate) async fn mark(context: &JobContext, layer: Layer, requests: &[Request], now_micros: i64) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let same = |r: &Request| {
        let batch = r.batch.map_or("trigger_batch_id IS NULL".to_owned(), |b| format!("trigger_batch_id = {b}"));
        let topic = r.topic.as_deref().map_or("kafka_topic IS NULL".to_owned(), |t| format!("kafka_topic = {}", text(t)));
        format!("(event_date = {} AND {batch} AND {topic})", date(r.day))
    };
    let set = match layer {
        Layer::Silver => format!("silver_processed_at = {}", moment(now_micros)),
        Layer::Gold => format!("processed = TRUE, processed_at = {}", moment(now_micros)),
    };
    // In pieces: a backlog must not become one endless condition.
    for piece in requests.chunks(200) {
        let rows: Vec<String> = piece.iter().map(same).collect();
        let update = format!("UPDATE {QUEUE} SET {set} WHERE {} AND ({})", open(layer), rows.join(" OR "));
        let session = context.session();
        for attempt in 1.. {
            let done = sql::execute(session.ctx(), session.lakehouse(), session, &update, WriteOptions::default()).await;
            match done {
                Ok(_) => break,
                Err(error) if error.code() == ErrorCode::CommitConflict && attempt < MARK_ATTEMPTS => {
                    tracing::info!(attempt, "the queue was written meanwhile, marking again");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// A day as an SQL literal.
pub(crate) fn date(day: i32) -> String {
    format!("arrow_cast({day}, 'Date32')")
}

/// Runs of consecutive days, as `[from, to)` in microseconds.
pub(crate) fn ranges(days: &BTreeSet<i32>) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for day in days {
        let (from, to) = (i64::from(*day) * DAY_MICROS, (i64::from(*day) + 1) * DAY_MICROS);
        match ranges.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => ranges.push((from, to)),
        }
    }
    ranges
}

/// Rows of these days as an SQL condition; no day selects nothing.
pub(crate) fn days_condition(time: &str, days: &BTreeSet<i32>) -> String {
    let terms: Vec<String> = ranges(days).into_iter().map(|(from, to)| format!("({time} >= {} AND {time} < {})", moment(from), moment(to))).collect();
    if terms.is_empty() { "FALSE".to_owned() } else { format!("({})", terms.join(" OR ")) }
}

/// The same as an expression over a table's column.
pub(crate) fn days_filter(time: &str, days: &BTreeSet<i32>) -> Expr {
    let at = |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
    let terms = ranges(days).into_iter().map(|(from, to)| col(time).gt_eq(at(from)).and(col(time).lt(at(to))));
    terms.reduce(Expr::or).unwrap_or_else(|| lit(false))
}

/// From a moment on.
pub(crate) fn since_filter(time: &str, from_micros: i64) -> Expr {
    col(time).gt_eq(lit(ScalarValue::TimestampMicrosecond(Some(from_micros), Some("UTC".into()))))
}

/// The beginning of a moment's day.
pub(crate) fn day_start(micros: i64) -> i64 {
    micros.div_euclid(DAY_MICROS) * DAY_MICROS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_days_are_one_range() {
        let days = BTreeSet::from([3, 4, 9]);
        assert_eq!(ranges(&days), [(3 * DAY_MICROS, 5 * DAY_MICROS), (9 * DAY_MICROS, 10 * DAY_MICROS)]);
        assert_eq!(days_condition("t", &BTreeSet::new()), "FALSE");
    }

    #[test]
    fn a_request_without_topic_is_for_all() {
        let request = |day, topic: Option<&str>| Request { day, batch: None, topic: topic.map(str::to_owned) };
        let requests = [request(1, Some("a")), request(2, None), request(3, Some("b"))];
        assert_eq!(days_of(&requests, "a"), BTreeSet::from([1, 2]));
    }

    #[test]
    fn days_before_the_epoch_begin_at_midnight_too() {
        assert_eq!(day_start(-1), -DAY_MICROS);
        assert_eq!(day_start(DAY_MICROS + 5), DAY_MICROS);
    }
}
