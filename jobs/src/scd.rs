//! `scd_customer`: the customer dimension with its history (SCD type 2).
//!
//! Names and regions come from the change feed (`bronze_customer_changes`), in the order of each customer's sequence; segment, purchase
//! behaviour and life-cycle stage from what customers did. A version is closed only when an attribute has changed or the customer was
//! deleted, at the time of that change; a change that tells nothing new leaves no trace. Running again changes nothing.

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::prelude::{col, lit};
use futures::future::BoxFuture;
use serde_json::json;

use crate::rows::fetch;
use crate::stage::{Keep, Part, commit};
use crate::{Job, JobContext, JobReport, NoArgs, parse};

const CHANGES: &str = include_str!("../sql/scd/changes.sql");
const BEHAVIOUR: &str = include_str!("../sql/scd/behaviour.sql");
const EFFECTIVE: &str = include_str!("../sql/scd/effective.sql");
const NEW_VERSIONS: &str = include_str!("../sql/scd/new_versions.sql");
const CURRENT_VERSIONS: &str = include_str!("../sql/scd/current_versions.sql");

/// Keeps `dim_customer`.
pub(crate) struct ScdCustomer;

impl Job for ScdCustomer {
    fn name(&self) -> &'static str {
        "scd_customer"
    }

    fn description(&self) -> &'static str {
        "dim_customer with its history (SCD type 2), from the change feed and from behaviour; part of gold_aggregation"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            parse::<NoArgs>(self.name(), args)?;
            let versions = update(&context).await?;
            Ok(json!({ "versions_opened": versions.opened, "versions_closed": versions.closed }))
        })
    }
}

/// What an update of the dimension did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub opened: u64,
    pub closed: u64,
}

/// Brings the dimension up to date; first the feed, then behaviour.
pub(crate) async fn update(context: &JobContext) -> Result<Versions> {
    let mut versions = Versions::default();
    let catalog = context.session().lakehouse().catalog();
    // Lakes set up before there was a feed have no table for it.
    if catalog.table_exists(&context.table("bronze_customer_changes")?).await? {
        refuse_unknown_operations(context).await?;
        apply(context, "changes", CHANGES, &mut versions).await?;
    }
    apply(context, "behaviour", BEHAVIOUR, &mut versions).await?;
    Ok(versions)
}

async fn refuse_unknown_operations(context: &JobContext) -> Result<()> {
    let query = "SELECT operation, count(*) AS n FROM bronze_customer_changes WHERE lower(operation) NOT IN ('insert', 'update', 'delete') \
                 GROUP BY operation ORDER BY operation LIMIT 5";
    let unknown = fetch(context.session(), query).await?;
    if unknown.len() == 0 {
        return Ok(());
    }
    let names: Vec<String> = (0..unknown.len()).filter_map(|row| unknown.text(row, "operation")).collect();
    let message = format!("bronze_customer_changes has operations other than insert, update and delete: {}", names.join(", "));
    Err(Error::new(ErrorCode::SchemaMismatch, message))
}

/// Applies told changes in one commit.
async fn apply(context: &JobContext, source: &str, told: &str, versions: &mut Versions) -> Result<()> {
    context.check_cancelled()?;
    let effective = EFFECTIVE.replace("{told}", told);
    let counted = format!(
        "SELECT count(*) FILTER (WHERE operation <> 'delete') AS opened, count(*) FILTER (WHERE place = 1 AND had_current) AS closed, count(*) AS n FROM ({effective})"
    );
    let part = Part::new(context, "dim_customer", Keep::AllBut(col("is_current").eq(lit(true)))).await?;
    let counts = fetch(context.session(), &counted).await?;
    if counts.count(0, "n") == 0 {
        return Ok(());
    }
    // Two sets of files in one commit: a UNION would have to run as one stage.
    let part = part.query(context, &CURRENT_VERSIONS.replace("{effective}", &effective)).await?;
    let part = part.query(context, &NEW_VERSIONS.replace("{effective}", &effective)).await?;
    commit(context, &format!("dim_customer:{source}"), vec![part]).await?;
    versions.opened += counts.count(0, "opened");
    versions.closed += counts.count(0, "closed");
    tracing::info!(source, opened = counts.count(0, "opened"), closed = counts.count(0, "closed"), "customer dimension updated");
    Ok(())
}
