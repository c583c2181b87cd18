//! The setup jobs: tables of each layer, made if they are not there, and the check that they are as declared.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::CreateTable;
use chainalytics_streaming::topics::{DEAD_LETTERS_TABLE, bronze_schema, dead_letters_schema, platform_topics};
use serde_json::json;

use crate::layers::LAYERS;
use crate::{Job, JobContext, JobReport, NoArgs, parse};

const SILVER: &str = include_str!("../sql/setup/silver.sql");
const GOLD: &str = include_str!("../sql/setup/gold.sql");
const BRONZE_PROPERTIES: &[(&str, &str)] = &[("write.parquet.compression-codec", "snappy")];

/// Tables of the bronze layer: one per topic, and the dead letters.
pub(crate) struct CreateBronzeTables;
/// Tables of the silver layer.
pub(crate) struct CreateSilverTables;
/// Tables of the gold layer.
pub(crate) struct CreateGoldTables;
/// Fails if a table of the platform is missing or lacks a column.
pub(crate) struct VerifyTableCreation;

#[async_trait]
impl Job for CreateBronzeTables {
    fn name(&self) -> &'static str {
        "create_bronze_tables"
    }

    fn description(&self) -> &'static str {
        "Create the bronze tables, one per topic, and the dead-letter table"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        parse::<NoArgs>(self.name(), args)?;
        let mut created = Vec::new();
        for definition in bronze_tables(&context)? {
            let name = definition.ident.name().to_owned();
            let catalog = context.session().lakehouse().catalog();
            if !catalog.table_exists(&definition.ident).await? {
                catalog.create_table(definition, true).await?;
                created.push(name);
            }
        }
        Ok(json!({ "created": created }))
    }
}

/// What the bronze tables are to be.
fn bronze_tables(context: &JobContext) -> Result<Vec<CreateTable>> {
    let mut tables = Vec::new();
    for topic in platform_topics() {
        let table = CreateTable::new(context.table(&topic.table)?, bronze_schema(&topic.schema)).partitioned_by(topic.event_time.clone(), "day");
        tables.push(table);
    }
    tables.push(CreateTable::new(context.table(DEAD_LETTERS_TABLE)?, dead_letters_schema()).partitioned_by("ingested_at", "day"));
    let with_properties = |table: CreateTable| BRONZE_PROPERTIES.iter().fold(table, |t, (key, value)| t.with_property(*key, *value));
    Ok(tables.into_iter().map(with_properties).collect())
}

#[async_trait]
impl Job for CreateSilverTables {
    fn name(&self) -> &'static str {
        "create_silver_tables"
    }

    fn description(&self) -> &'static str {
        "Create the silver tables"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        parse::<NoArgs>(self.name(), args)?;
        create(&context, SILVER).await
    }
}

#[async_trait]
impl Job for CreateGoldTables {
    fn name(&self) -> &'static str {
        "create_gold_tables"
    }

    fn description(&self) -> &'static str {
        "Create the gold tables"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        parse::<NoArgs>(self.name(), args)?;
        create(&context, GOLD).await
    }
}

async fn create(context: &JobContext, script: &str) -> Result<JobReport> {
    let statements: Vec<&str> = script.split(';').collect();
    for (done, statement) in statements.iter().enumerate() {
        context.check_cancelled()?;
        context.progress("creating tables", done, statements.len(), 0);
        context.session().sql(statement).await?;
    }
    Ok(json!({ "declared": names(script) }))
}

/// Names of the tables that a script creates.
fn names(script: &str) -> Vec<&str> {
    let after = script.split("CREATE TABLE IF NOT EXISTS ").skip(1);
    after.filter_map(|rest| rest.split_whitespace().next()).collect()
}

#[async_trait]
impl Job for VerifyTableCreation {
    fn name(&self) -> &'static str {
        "verify_table_creation"
    }

    fn description(&self) -> &'static str {
        "Fail if a table of the platform is missing or lacks a column"
    }

    async fn run(&self, context: JobContext, args: Vec<String>) -> Result<JobReport> {
        parse::<NoArgs>(self.name(), args)?;
        let catalog = context.session().lakehouse().catalog().clone();
        let (mut problems, mut found) = (Vec::new(), BTreeMap::new());
        for expected in bronze_tables(&context)? {
            match catalog.find_table(&expected.ident).await? {
                None => problems.push(format!("{} is missing", expected.ident.name())),
                Some(table) => {
                    for field in expected.schema.fields() {
                        if table.schema().field_with_name(field.name()).is_err() {
                            problems.push(format!("{} lacks the column {}", expected.ident.name(), field.name()));
                        }
                    }
                    found.insert(expected.ident.name().to_owned(), table.schema().fields().len());
                }
            }
        }
        let declared = names(SILVER).into_iter().chain(names(GOLD)).chain(LAYERS.iter().map(|l| l.silver));
        for name in declared {
            match catalog.find_table(&context.table(name)?).await? {
                None => problems.push(format!("{name} is missing")),
                Some(table) => {
                    found.insert(name.to_owned(), table.schema().fields().len());
                }
            }
        }
        if problems.is_empty() {
            return Ok(json!({ "tables": found }));
        }
        problems.dedup();
        Err(Error::new(ErrorCode::TableNotFound, format!("the platform's tables are not as declared: {}", problems.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_silver_copy_is_declared() {
        let declared = names(SILVER);
        assert!(LAYERS.iter().all(|layer| declared.contains(&layer.silver)));
        assert!(names(GOLD).contains(&"gold_executive_dashboard"));
    }
}
