//! The setup jobs: tables of each layer, made if they are not there, and the check that they are as declared.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::sql::split_text;
use chainalytics_lakehouse::{CommitOptions, CreateTable, TableChange, Transaction};
use chainalytics_streaming::topics::{DEAD_LETTERS_TABLE, bronze_schema, dead_letters_schema, platform_topics};
use futures::future::BoxFuture;
use serde_json::json;

use crate::rows::timestamp_type;
use crate::{Job, JobContext, JobReport, NoArgs, parse};

/// Bronze tables that no topic feeds directly, and the platform's monitoring.
const BRONZE: &str = include_str!("../sql/setup/bronze.sql");
const SILVER: &str = include_str!("../sql/setup/silver.sql");
const GOLD: &str = include_str!("../sql/setup/gold.sql");
/// The data model's compression and retention, and care between a stream's batches.
pub(crate) const BRONZE_PROPERTIES: &[(&str, &str)] =
    &[("write.parquet.compression-codec", "snappy"), ("chainalytics.retention-days", "90"), ("chainalytics.maintenance.enabled", "true")];

/// Tables of the bronze layer: one per topic, and the dead letters.
pub(crate) struct CreateBronzeTables;
/// Tables of the silver layer.
pub(crate) struct CreateSilverTables;
/// Tables of the gold layer.
pub(crate) struct CreateGoldTables;
/// Fails if a table of the platform is missing or lacks a column.
pub(crate) struct VerifyTableCreation;

impl Job for CreateBronzeTables {
    fn name(&self) -> &'static str {
        "create_bronze_tables"
    }

    fn description(&self) -> &'static str {
        "Create the bronze tables (one per topic, dead letters, late data, change feed) and those of monitoring and data quality"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
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
            create(&context, BRONZE, &mut created).await?;
            Ok(json!({ "created": created }))
        })
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

impl Job for CreateSilverTables {
    fn name(&self) -> &'static str {
        "create_silver_tables"
    }

    fn description(&self) -> &'static str {
        "Create the silver tables"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            parse::<NoArgs>(self.name(), args)?;
            let mut created = Vec::new();
            create(&context, SILVER, &mut created).await?;
            Ok(json!({ "created": created }))
        })
    }
}

impl Job for CreateGoldTables {
    fn name(&self) -> &'static str {
        "create_gold_tables"
    }

    fn description(&self) -> &'static str {
        "Create the gold tables"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            parse::<NoArgs>(self.name(), args)?;
            let mut created = Vec::new();
            create(&context, GOLD, &mut created).await?;
            Ok(json!({ "created": created }))
        })
    }
}

/// Creates the tables of a script that are not there, and adds columns that older tables of it lack.
async fn create(context: &JobContext, script: &str, created: &mut Vec<String>) -> Result<()> {
    let catalog = context.session().lakehouse().catalog();
    let declared = declarations(script)?;
    for (done, declaration) in declared.iter().enumerate() {
        context.check_cancelled()?;
        context.progress("creating tables", done, declared.len(), 0);
        let ident = context.table(&declaration.name)?;
        let Some(table) = catalog.find_table(&ident).await? else {
            context.session().sql(&declaration.statement).await?;
            created.push(declaration.name.clone());
            continue;
        };
        let lacking: Vec<_> = declaration.columns.iter().filter(|c| table.schema().field_with_name(&c.name).is_err()).collect();
        if lacking.is_empty() {
            continue;
        }
        let fields = lacking.iter().map(|c| c.to_arrow()).collect::<Result<Vec<_>>>()?;
        let change = TableChange::metadata(ident).add_columns(fields);
        Transaction::new(context.session().lakehouse()).add(change).commit(CommitOptions::default()).await?;
        tracing::info!(table = declaration.name, columns = lacking.len(), "columns added");
    }
    Ok(())
}

/// A table as a script declares it.
struct Declaration {
    name: String,
    statement: String,
    columns: Vec<ColumnDeclaration>,
}

struct ColumnDeclaration {
    name: String,
    sql_type: String,
}

impl ColumnDeclaration {
    /// As a column that rows written before have no value for.
    fn to_arrow(&self) -> Result<FieldRef> {
        let data_type = match self.sql_type.as_str() {
            "STRING" => DataType::Utf8,
            "INT" => DataType::Int32,
            "BIGINT" => DataType::Int64,
            "DOUBLE" => DataType::Float64,
            "BOOLEAN" => DataType::Boolean,
            "DATE" => DataType::Date32,
            "TIMESTAMP_LTZ" => timestamp_type(),
            other => return Err(Error::internal(format!("column {} is declared as {other}", self.name))),
        };
        Ok(Arc::new(Field::new(&self.name, data_type, true)))
    }
}

/// The tables that a script declares.
fn declarations(script: &str) -> Result<Vec<Declaration>> {
    let mut declared = Vec::new();
    for statement in split_text(script)? {
        let code: Vec<&str> = statement.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        let statement = code.join("\n");
        let parts = statement.trim().strip_prefix("CREATE TABLE IF NOT EXISTS ").and_then(|rest| rest.split_once('('));
        let Some((name, rest)) = parts else {
            return Err(Error::internal(format!("a set-up script holds something else than CREATE TABLE IF NOT EXISTS: {statement}")));
        };
        let body = rest.split("\n)").next().unwrap_or_default();
        let columns = body.split(',').filter_map(|column| {
            let mut words = column.split_whitespace();
            Some(ColumnDeclaration { name: words.next()?.to_owned(), sql_type: words.next()?.to_owned() })
        });
        declared.push(Declaration { name: name.trim().to_owned(), columns: columns.collect(), statement: statement.clone() });
    }
    Ok(declared)
}

impl Job for VerifyTableCreation {
    fn name(&self) -> &'static str {
        "verify_table_creation"
    }

    fn description(&self) -> &'static str {
        "Fail if a table of the platform is missing or lacks a column"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            parse::<NoArgs>(self.name(), args)?;
            let Verified { found, problems } = verify(&context).await?;
            if problems.is_empty() {
                return Ok(json!({ "tables": found }));
            }
            Err(Error::new(ErrorCode::TableNotFound, format!("the platform's tables are not as declared: {}", problems.join("; "))))
        })
    }
}

/// The platform's tables as they are.
pub(crate) struct Verified {
    /// Columns of each table that is there.
    found: BTreeMap<String, usize>,
    /// What is missing, in words.
    pub problems: Vec<String>,
}

/// Looks for every declared table and column.
///
/// # Errors
/// Of the catalog.
pub(crate) async fn verify(context: &JobContext) -> Result<Verified> {
    let catalog = context.session().lakehouse().catalog().clone();
    let (mut problems, mut found) = (Vec::new(), BTreeMap::new());
    for expected in bronze_tables(context)? {
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
    for script in [BRONZE, SILVER, GOLD] {
        for declaration in declarations(script)? {
            let name = declaration.name;
            let Some(table) = catalog.find_table(&context.table(&name)?).await? else {
                problems.push(format!("{name} is missing"));
                continue;
            };
            let lacking = declaration.columns.iter().filter(|c| table.schema().field_with_name(&c.name).is_err());
            problems.extend(lacking.map(|c| format!("{name} lacks the column {}", c.name)));
            found.insert(name, table.schema().fields().len());
        }
    }
    Ok(Verified { found, problems })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::layers::LAYERS;

    #[test]
    fn scripts_are_read_as_they_are_meant() {
        let mut names = Vec::new();
        for script in [BRONZE, SILVER, GOLD] {
            for declaration in declarations(script).unwrap() {
                assert!(declaration.columns.len() > 2, "{}", declaration.name);
                assert!(declaration.columns.iter().all(|column| column.to_arrow().is_ok()), "{}", declaration.name);
                names.push(declaration.name);
            }
        }
        assert!(LAYERS.iter().all(|layer| names.iter().any(|name| name == layer.silver)));
        for name in ["dim_customer", "gold_executive_dashboard", "reprocessing_queue", "data_quality_report", "bronze_streaming_events_late"] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
    }
}
