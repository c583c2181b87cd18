//! `apply_retention`: takes out rows that are older than their table keeps them (`chainalytics.retention-days`): bronze 90 days, silver two
//! years, gold seven. Whole days by the table's partitions, so that files go and none is rewritten.

use chainalytics_common::Result;
use chainalytics_lakehouse::Table;
use clap::Parser;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};
use futures::future::BoxFuture;
use serde_json::{Map, json};

use crate::derived::date_key;
use crate::reprocessing::day_start;
use crate::rows::{as_long, fetch};
use crate::source::moment;
use crate::stage::{Keep, Part, commit};
use crate::{Job, JobContext, JobReport, parse, parse_moment};

const RETENTION: &str = "chainalytics.retention-days";
const DAY_MICROS: i64 = 86_400_000_000;

/// Deletes what has been kept long enough.
pub(crate) struct ApplyRetention;

#[derive(Debug, Parser)]
#[command(name = "apply_retention")]
struct Args {
    /// Only count what would go
    #[arg(long)]
    dry_run: bool,
    /// The time that counts as now, RFC 3339
    #[arg(long, value_parser = parse_moment)]
    now: Option<i64>,
}

impl Job for ApplyRetention {
    fn name(&self) -> &'static str {
        "apply_retention"
    }

    fn description(&self) -> &'static str {
        "Delete rows beyond their table's retention: bronze 90 days, silver 2 years, gold 7 years (-- --dry-run)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let now = args.now.unwrap_or_else(crate::now_micros);
            let lakehouse = context.session().lakehouse();
            let idents = lakehouse.catalog().list_tables(lakehouse.default_namespace()).await?;
            let (mut tables, mut rows) = (Map::new(), 0_u64);
            for (done, ident) in idents.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(ident.name(), done, idents.len(), rows);
                // A table that someone drops meanwhile has nothing to keep.
                let Some(table) = lakehouse.catalog().find_table(ident).await? else { continue };
                let Some(expired) = expired(&table, now) else { continue };
                let query = format!("SELECT count(*) AS n FROM {} WHERE {}", ident.name(), expired.sql);
                let n = fetch(context.session(), &query).await?.count(0, "n");
                if n == 0 {
                    continue;
                }
                if !args.dry_run {
                    let part = Part { table, keep: Keep::AllBut(expired.filter), frames: Vec::new(), properties: Vec::new() };
                    commit(&context, &format!("retention:{}", ident.name()), vec![part]).await?;
                }
                tracing::info!(table = ident.name(), rows = n, dry_run = args.dry_run, "rows beyond retention");
                rows += n;
                tables.insert(ident.name().to_owned(), json!(as_long(n)));
            }
            context.progress("done", idents.len(), idents.len(), rows);
            Ok(json!({ "deleted": tables, "rows": rows, "dry_run": args.dry_run }))
        })
    }
}

struct Expired {
    filter: Expr,
    sql: String,
}

/// Rows before the first day that is kept; `None` for tables without retention or without days.
fn expired(table: &Table, now: i64) -> Option<Expired> {
    let days = table.property(RETENTION)?.parse::<i64>().ok().filter(|days| *days > 0)?;
    let first_kept = day_start(now) - days.checked_mul(DAY_MICROS)?;
    table.partition_fields().into_iter().find_map(|field| match (field.transform.as_str(), field.source.as_str()) {
        ("day", time) => Some(Expired {
            filter: col(time).lt(lit(ScalarValue::TimestampMicrosecond(Some(first_kept), Some("UTC".into())))),
            sql: format!("{time} < {}", moment(first_kept)),
        }),
        ("identity", "date_key") => {
            let key = date_key(i32::try_from(first_kept / DAY_MICROS).ok()?);
            Some(Expired { filter: col("date_key").lt(lit(key)), sql: format!("date_key < {key}") })
        }
        _ => None,
    })
}
