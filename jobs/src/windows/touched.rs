//! The part of the state that a batch reads: windows that its rows touch, and windows that the watermark passes now. They come with where
//! they stand, so that exactly these rows go in the batch's commit; all others stay as they are.
//!
//! `window_state` is partitioned by the hour in which a window ends: the windows that close stand together, and rows of about now touch the
//! youngest partitions. Everything is read from the version of the table that the commit is made from.

use std::sync::Arc;

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::dml::RowPlaces;
use chainalytics_lakehouse::scan::{FILE_COLUMN, IcebergTableProvider, MetadataColumn, POSITION_COLUMN, ScanOptions, SnapshotSelector};
use chainalytics_streaming::window::{OpenWindow, Partial, WindowSpec};
use datafusion::common::JoinType;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::prelude::{col, lit};

use crate::JobContext;
use crate::rows::{fetch_frame, frame, moments, texts};
use crate::stateful::timestamp;

use super::queries::figures;

/// Spans of time in a condition at most.
const SPANS_MAX: usize = 64;
/// Spans of time that are no further apart become one: it is how the state is partitioned.
const APART: i64 = 3_600_000_000;

/// Windows that a batch has to do with, and where they stand.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub windows: Vec<OpenWindow>,
    pub places: RowPlaces,
}

impl Known {
    /// Windows of the state that these partials belong to, and those that end after `old` and not after `now`, the watermarks before and after
    /// the batch: no open window ends before.
    pub(super) async fn of(
        context: &JobContext,
        state: &Table,
        query: &str,
        spec: WindowSpec,
        partials: &[&Partial],
        (old, now): (Option<i64>, Option<i64>),
    ) -> Result<Self> {
        let mut known = Self::default();
        let end = || col("window_end");
        if let Some(now) = now {
            let behind = old.map_or_else(|| lit(true), |old| end().gt(timestamp(old)));
            let closing = scan(context, state)?.filter(of_query(query).and(behind).and(end().lt_eq(timestamp(now))));
            known.read(context, closing.map_err(Error::from_datafusion)?).await?;
        }
        if partials.is_empty() {
            return Ok(known);
        }
        let times = |partial: &Partial| (partial.start, spec.end(partial.start, partial.figures.last));
        let open = now.map_or_else(|| lit(true), |now| end().gt(timestamp(now)));
        let reached = of_query(query).and(open).and(overlapping(spans(partials.iter().map(|p| times(p)).collect())));
        let of_batch = frame(
            context.session(),
            vec![
                ("batch_key", texts(partials.iter().map(|p| Some(p.key.as_str())))),
                ("batch_start", moments(partials.iter().map(|p| Some(p.start)))),
                ("batch_end", moments(partials.iter().map(|p| Some(times(p).1)))),
            ],
        )?;
        let reached = scan(context, state)?.filter(reached).and_then(|state| match spec {
            // Sessions that overlap become one; what a session that was joined touches, its parts touch.
            WindowSpec::Session { .. } => {
                let overlap = col("window_start").lt(col("batch_end")).and(end().gt(col("batch_start")));
                state.join(of_batch, JoinType::LeftSemi, &["window_key"], &["batch_key"], Some(overlap))
            }
            _ => state.join(of_batch, JoinType::LeftSemi, &["window_key", "window_start"], &["batch_key", "batch_start"], None),
        });
        known.read(context, reached.map_err(Error::from_datafusion)?).await?;
        Ok(known)
    }

    /// All windows of the state.
    pub(super) async fn all(context: &JobContext, state: &Table, query: &str) -> Result<Self> {
        let mut known = Self::default();
        known.read(context, scan(context, state)?.filter(of_query(query)).map_err(Error::from_datafusion)?).await?;
        Ok(known)
    }

    async fn read(&mut self, context: &JobContext, rows: DataFrame) -> Result<()> {
        let rows = fetch_frame(context.session(), rows, "open windows").await?;
        let window = |row| {
            Some(OpenWindow {
                key: rows.text(row, "window_key")?,
                start: rows.micros(row, "window_start")?,
                end: rows.micros(row, "window_end")?,
                figures: figures(&rows, row)?,
            })
        };
        for row in 0..rows.len() {
            let (Some(window), Some((file, position))) = (window(row), place(&rows, row)) else {
                return Err(Error::internal("a row of window_state lacks a value"));
            };
            if self.places.insert(&file, position) {
                self.windows.push(window);
            }
        }
        Ok(())
    }
}

/// Where the results stand that tell of these windows while they were open.
pub(super) async fn open_results(context: &JobContext, results: &Table, query: &str, windows: &[OpenWindow]) -> Result<RowPlaces> {
    let mut places = RowPlaces::default();
    if windows.is_empty() {
        return Ok(places);
    }
    let told = frame(
        context.session(),
        vec![("batch_key", texts(windows.iter().map(|w| Some(w.key.as_str())))), ("batch_start", moments(windows.iter().map(|w| Some(w.start))))],
    )?;
    let spans = spans(windows.iter().map(|w| (w.start, w.end)).collect());
    let rows = scan(context, results)?
        .filter(of_query(query).and(col("closed").eq(lit(false))).and(overlapping(spans)))
        .and_then(|rows| rows.join(told, JoinType::LeftSemi, &["window_key", "window_start"], &["batch_key", "batch_start"], None))
        .and_then(|rows| rows.select_columns(&[FILE_COLUMN, POSITION_COLUMN]))
        .map_err(Error::from_datafusion)?;
    let rows = fetch_frame(context.session(), rows, "results of open windows").await?;
    for row in 0..rows.len() {
        let (file, position) = place(&rows, row).ok_or_else(|| Error::internal("a row without its place"))?;
        places.insert(&file, position);
    }
    Ok(places)
}

/// Rows of a query, as a condition.
pub(super) fn of_query(query: &str) -> Expr {
    col("query").eq(lit(query))
}

fn place(rows: &crate::rows::Rows, row: usize) -> Option<(String, u64)> {
    Some((rows.text(row, FILE_COLUMN)?, u64::try_from(rows.long(row, POSITION_COLUMN)?).ok()?))
}

/// This version of a table with the places of its rows.
fn scan(context: &JobContext, table: &Table) -> Result<DataFrame> {
    let options = ScanOptions { metadata_columns: vec![MetadataColumn::File, MetadataColumn::Position], ..ScanOptions::default() };
    let provider = IcebergTableProvider::with_options(table, &SnapshotSelector::Current, options)?;
    let plan = LogicalPlanBuilder::scan(table.ident().name(), provider_as_source(Arc::new(provider)), None)
        .and_then(LogicalPlanBuilder::build)
        .map_err(Error::from_datafusion)?;
    Ok(DataFrame::new(context.session().ctx().state(), plan))
}

/// Windows that overlap one of the spans: a condition that files are judged by.
fn overlapping(spans: Vec<(i64, i64)>) -> Expr {
    let overlap = |(from, to): (i64, i64)| col("window_start").lt(timestamp(to)).and(col("window_end").gt(timestamp(from)));
    spans.into_iter().map(overlap).reduce(Expr::or).unwrap_or_else(|| lit(false))
}

/// A few spans of time that cover all of these.
fn spans(mut times: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    times.sort_unstable();
    let mut apart = APART;
    loop {
        let mut spans: Vec<(i64, i64)> = Vec::new();
        for (from, to) in times {
            match spans.last_mut() {
                Some((_, end)) if from <= end.saturating_add(apart) => *end = to.max(*end),
                _ => spans.push((from, to)),
            }
        }
        if spans.len() <= SPANS_MAX {
            return spans;
        }
        times = spans;
        apart = apart.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_what_they_are_made_of_and_stay_few() {
        assert_eq!(spans(Vec::new()), []);
        assert_eq!(spans(vec![(5 * APART, 5 * APART + 1), (0, 10), (7, 9), (10 + APART, 11 + APART)]), [(0, 11 + APART), (5 * APART, 5 * APART + 1)]);
        let times: Vec<(i64, i64)> = (0..200_i64).map(|i| i * 3 * APART + i / 100 * 1_000 * APART).map(|t| (t, t + 7)).collect();
        let few = spans(times.clone());
        assert_eq!(few.len(), 2, "{few:?}");
        assert!(times.iter().all(|(from, to)| few.iter().any(|(f, t)| f <= from && to <= t)));
        assert!(few.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
}
