//! Tables that are the result of a query over other tables. They are built anew only where something has changed: as a whole when a source
//! has a new snapshot, or by the days that new rows fall into.

use std::collections::BTreeSet;

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::Table;
use chainalytics_lakehouse::sql::load_table;
use datafusion::prelude::{col, lit};
use serde::{Deserialize, Serialize};

use crate::JobContext;
use crate::reprocessing::{Request, days_condition, days_of};
use crate::rows::fetch;
use crate::source::{Position, span};
use crate::stage::{Keep, Part, commit};
use crate::stateful::read_property;

/// Property of a silver copy: changes when it was built anew as a whole, so that whoever follows its rows starts over too.
pub(crate) const GENERATION: &str = "chainalytics.generation";
/// Property of a derived table: the sources' snapshots that it was built from.
const SOURCES: &str = "chainalytics.sources";

/// A table and the query that makes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Derived {
    pub table: &'static str,
    sources: &'static [&'static str],
    query: &'static str,
    by_day: Option<ByDay>,
}

/// A table with rows by day: `{days}` in its query is the condition, `date_key` its day.
#[derive(Debug, Clone, Copy)]
struct ByDay {
    source: &'static str,
    topic: &'static str,
    time: &'static str,
}

impl Derived {
    pub(crate) const fn whole(table: &'static str, sources: &'static [&'static str], query: &'static str) -> Self {
        Self { table, sources, query, by_day: None }
    }

    pub(crate) const fn by_day(table: &'static str, source: &'static str, topic: &'static str, time: &'static str, query: &'static str) -> Self {
        Self { table, sources: &[], query, by_day: Some(ByDay { source, topic, time }) }
    }
}

/// What became of a derived table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    Unchanged,
    Written {
        rows: u64,
        /// The days that were built; `None` for all.
        days: Option<BTreeSet<i32>>,
    },
}

/// Brings a table up to date. `requests` name days to build though they have no new rows; `full` builds all of it.
///
/// # Errors
/// Of the query and of the commit.
pub(crate) async fn derive(context: &JobContext, derived: &Derived, requests: &[Request], full: bool) -> Result<Done> {
    match derived.by_day {
        None => derive_whole(context, derived.table, derived.sources, &[derived.query], full).await,
        Some(by_day) => derive_days(context, derived, by_day, requests, full).await,
    }
}

/// Replaces all rows, by those of one or several queries in one commit, if a source has changed since.
pub(crate) async fn derive_whole(context: &JobContext, table: &str, sources: &[&str], queries: &[&str], full: bool) -> Result<Done> {
    // Taken before the query is planned: what comes in between is seen as a change the next time.
    let mut seen = Vec::with_capacity(sources.len());
    for source in sources {
        let table = load_table(context.session().lakehouse(), &context.table(source)?).await?;
        seen.push(format!("{source}@{}", version(&table)));
    }
    let seen = seen.join(",");
    let mut part = Part::new(context, table, Keep::Nothing).await?;
    if !full && part.table.property(SOURCES) == Some(&seen) {
        return Ok(Done::Unchanged);
    }
    for query in queries {
        part = part.query(context, query).await?;
    }
    let outcomes = commit(context, table, vec![part.set(SOURCES, seen)]).await?;
    Ok(Done::Written { rows: outcomes.iter().map(|o| o.added_rows).sum(), days: None })
}

fn version(table: &Table) -> String {
    format!("{}:{}", table.uuid(), table.current_snapshot_id().unwrap_or_default())
}

/// How far a table has followed its source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Followed {
    generation: String,
    position: Position,
}

/// Up to where a table by day has followed its source.
pub(crate) fn followed_position(table: &Table, source: &str) -> Result<Option<Position>> {
    Ok(read_property::<Followed>(table, &format!("chainalytics.position.{source}"))?.map(|f| f.position))
}

async fn derive_days(context: &JobContext, derived: &Derived, by_day: ByDay, requests: &[Request], full: bool) -> Result<Done> {
    let ByDay { source, topic, time } = by_day;
    let key = format!("chainalytics.position.{source}");
    let source_table = load_table(context.session().lakehouse(), &context.table(source)?).await?;
    let generation = source_table.property(GENERATION).unwrap_or_default().to_owned();
    let mut part = Part::new(context, derived.table, Keep::Nothing).await?;
    let followed = read_property::<Followed>(&part.table, &key)?.filter(|f| !full && f.generation == generation);
    let start = followed.as_ref().map(|f| f.position.clone()).unwrap_or_default();
    let new = span(context, source, time, start).await?;
    let now = Followed { generation, position: new.end.clone() };
    let days = match followed {
        None => None,
        Some(_) => {
            let mut days = days_of(requests, topic);
            if new.rows > 0 {
                let query = format!("SELECT DISTINCT CAST({time} AS DATE) AS d FROM {source} WHERE {}", new.condition());
                let rows = fetch(context.session(), &query).await?;
                days.extend((0..rows.len()).filter_map(|row| rows.day(row, "d")));
            }
            Some(days)
        }
    };
    if days.as_ref().is_some_and(BTreeSet::is_empty) {
        return Ok(Done::Unchanged);
    }
    let condition = days.as_ref().map_or_else(|| "TRUE".to_owned(), |days| days_condition(time, days));
    if let Some(days) = &days {
        let keys = days.iter().map(|day| lit(date_key(*day))).collect();
        part.keep = Keep::AllBut(col("date_key").in_list(keys, false));
    }
    let position = serde_json::to_string(&now).map_err(|e| Error::internal(format!("position of {source}: {e}")))?;
    let part = part.query(context, &derived.query.replace("{days}", &condition)).await?.set(key, position);
    let outcomes = commit(context, derived.table, vec![part]).await?;
    Ok(Done::Written { rows: outcomes.iter().map(|o| o.added_rows).sum(), days })
}

/// `yyyymmdd` of a day since the epoch.
pub(crate) fn date_key(day: i32) -> i32 {
    use chrono::Datelike;
    let date = chrono::NaiveDate::from_num_days_from_ce_opt(day.saturating_add(719_163)).unwrap_or_default();
    date.year() * 10_000 + i32::try_from(date.month() * 100 + date.day()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_keys_read_as_dates() {
        assert_eq!((date_key(0), date_key(20_454), date_key(-1)), (19_700_101, 20_260_101, 19_691_231));
    }
}
