//! `create_changelog_view`: a temporary view of what happened to a table between two snapshots.

use std::fmt::Write as _;

use chainalytics_common::{Error, Result};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::datasource::ViewTable;
use iceberg::spec::TableMetadata;

use super::result::{batch, texts};
use super::{Arguments, Kind, Procedure, bad_argument, optional, required};
use crate::scan::SnapshotRange;
use crate::scan::changes::{CHANGE_ORDINAL_COLUMN, CHANGE_TYPE_COLUMN, COMMIT_SNAPSHOT_COLUMN, snapshot_as_of};
use crate::sql::Runner;
use crate::sql::incremental::changes_name;
use crate::table::Table;

pub const PROCEDURES: &[Procedure] = &[Procedure {
    name: "create_changelog_view",
    parameters: &[
        required("table", Kind::Text),
        optional("changelog_view", Kind::Text),
        optional("options", Kind::Map),
        optional("compute_updates", Kind::Bool),
        optional("identifier_columns", Kind::Texts),
        optional("net_changes", Kind::Bool),
    ],
    run: |runner, arguments| Box::pin(create_changelog_view(runner, arguments)),
}];

async fn create_changelog_view(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let given = arguments.texts("identifier_columns");
    let net = arguments.flag("net_changes").unwrap_or(false);
    // As in Spark, naming identifier columns asks for update images.
    let updates = arguments.flag("compute_updates").unwrap_or(given.is_some());
    if updates && net {
        return Err(bad_argument("create_changelog_view: net_changes and update images exclude each other"));
    }
    let columns: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    let source = source(&table, arguments)?;
    let sql = if updates {
        let identifiers = match given {
            Some(given) => resolve(&table, given)?,
            None => identifier_columns(table.metadata()),
        };
        if identifiers.is_empty() {
            return Err(bad_argument(
                "create_changelog_view: update images need identifier_columns => array('…'), or identifier fields of the table",
            ));
        }
        update_images(&without_carry_over(&source, &columns), &columns, &identifiers)
    } else if net {
        net_changes(&source, &columns)
    } else {
        without_carry_over(&source, &columns)
    };
    let name = match arguments.text("changelog_view") {
        Some(name) => name.trim_matches('`').to_owned(),
        None => format!("{}_changes", table.ident().name()),
    };
    comparable(&table)?;
    let plan = crate::sql::plan_query(runner.ctx, runner.lakehouse, &sql).await?;
    let view = std::sync::Arc::new(ViewTable::new(plan, None));
    let reference = datafusion::common::TableReference::bare(name.clone());
    // A view of that name gives way, as CREATE OR REPLACE TEMPORARY VIEW has it.
    runner.ctx.deregister_table(reference.clone()).map_err(Error::from_datafusion)?;
    runner.ctx.register_table(reference, view).map_err(Error::from_datafusion)?;
    batch([("changelog_view", texts([name]))])
}

/// The change log of the range that the options name, as it stands in a FROM clause.
fn source(table: &Table, arguments: &Arguments) -> Result<String> {
    let mut range = SnapshotRange { after: None, until: table.current_snapshot_id() };
    let mut empty = false;
    let options = arguments.map("options");
    for (key, value) in &options {
        let number = || value.parse::<i64>().map_err(|_| bad_argument(format!("create_changelog_view: option '{key}' is '{value}', it must be a number")));
        match key.to_ascii_lowercase().as_str() {
            "start-snapshot-id" => range.after = Some(number()?),
            "end-snapshot-id" => range.until = Some(number()?),
            "start-timestamp" => {
                let at = number()?;
                range.after = snapshot_as_of(table, at);
                empty |= table.current_snapshot().is_none_or(|head| head.timestamp_ms < at);
            }
            "end-timestamp" => {
                range.until = snapshot_as_of(table, number()?);
                empty |= range.until.is_none();
            }
            _ => {
                return Err(bad_argument(format!(
                    "create_changelog_view: unknown option '{key}'; there are start-snapshot-id, end-snapshot-id, start-timestamp, end-timestamp"
                )));
            }
        }
    }
    for (one, other) in [("start-snapshot-id", "start-timestamp"), ("end-snapshot-id", "end-timestamp")] {
        if options.contains_key(one) && options.contains_key(other) {
            return Err(bad_argument(format!("create_changelog_view: '{one}' and '{other}' exclude each other")));
        }
    }
    let ident = table.ident();
    let name = format!("{}.{}", quoted(&ident.namespace_key()), quoted(&changes_name(ident.name(), range)));
    Ok(if empty { format!("(SELECT * FROM {name} WHERE false) AS c") } else { format!("{name} AS c") })
}

/// A row that a copy-on-write change took out of one file and wrote unchanged to another is no change.
fn without_carry_over(source: &str, columns: &[String]) -> String {
    let rows = list(columns);
    format!(
        "SELECT {rows}, {CHANGE_TYPE_COLUMN}, {CHANGE_ORDINAL_COLUMN}, {COMMIT_SNAPSHOT_COLUMN} FROM (SELECT *, \
         row_number() OVER (PARTITION BY {rows}, {CHANGE_ORDINAL_COLUMN}, {CHANGE_TYPE_COLUMN}) AS \"#n\", \
         sum(CASE WHEN {CHANGE_TYPE_COLUMN} = 'DELETE' THEN 1 ELSE 0 END) OVER (PARTITION BY {rows}, {CHANGE_ORDINAL_COLUMN}) AS \"#deletes\", \
         sum(CASE WHEN {CHANGE_TYPE_COLUMN} = 'INSERT' THEN 1 ELSE 0 END) OVER (PARTITION BY {rows}, {CHANGE_ORDINAL_COLUMN}) AS \"#inserts\" \
         FROM {source}) AS c WHERE \"#n\" > CASE WHEN \"#deletes\" < \"#inserts\" THEN \"#deletes\" ELSE \"#inserts\" END"
    )
}

/// A deleted and an inserted row of one snapshot with the same identifiers are an update.
fn update_images(changes: &str, columns: &[String], identifiers: &[String]) -> String {
    let (rows, keys) = (list(columns), list(identifiers));
    format!(
        "SELECT {rows}, CASE WHEN \"#deletes\" > 1 \
         THEN CAST(CAST(concat('Cannot compute updates: several rows with the same identifiers were deleted by snapshot ', CAST({COMMIT_SNAPSHOT_COLUMN} AS VARCHAR)) AS BIGINT) AS VARCHAR) \
         WHEN \"#deletes\" = 1 AND \"#inserts\" > 0 AND {CHANGE_TYPE_COLUMN} = 'DELETE' THEN 'UPDATE_BEFORE' \
         WHEN \"#deletes\" = 1 AND \"#n\" = 1 AND {CHANGE_TYPE_COLUMN} = 'INSERT' THEN 'UPDATE_AFTER' \
         ELSE {CHANGE_TYPE_COLUMN} END AS {CHANGE_TYPE_COLUMN}, {CHANGE_ORDINAL_COLUMN}, {COMMIT_SNAPSHOT_COLUMN} FROM (SELECT *, \
         row_number() OVER (PARTITION BY {keys}, {CHANGE_ORDINAL_COLUMN}, {CHANGE_TYPE_COLUMN}) AS \"#n\", \
         sum(CASE WHEN {CHANGE_TYPE_COLUMN} = 'DELETE' THEN 1 ELSE 0 END) OVER (PARTITION BY {keys}, {CHANGE_ORDINAL_COLUMN}) AS \"#deletes\", \
         sum(CASE WHEN {CHANGE_TYPE_COLUMN} = 'INSERT' THEN 1 ELSE 0 END) OVER (PARTITION BY {keys}, {CHANGE_ORDINAL_COLUMN}) AS \"#inserts\" \
         FROM ({changes}) AS u) AS c"
    )
}

/// What is left when opposite changes of equal rows cancel each other over the whole range: as many copies as one side has
/// more, told as the newest of them.
fn net_changes(source: &str, columns: &[String]) -> String {
    let rows = list(columns);
    format!(
        "SELECT {rows}, {CHANGE_TYPE_COLUMN}, {CHANGE_ORDINAL_COLUMN}, {COMMIT_SNAPSHOT_COLUMN} FROM (SELECT *, \
         row_number() OVER (PARTITION BY {rows}, {CHANGE_TYPE_COLUMN} ORDER BY {CHANGE_ORDINAL_COLUMN} DESC) AS \"#last\", \
         sum(CASE WHEN {CHANGE_TYPE_COLUMN} = 'INSERT' THEN 1 ELSE -1 END) OVER (PARTITION BY {rows}) AS \"#net\" \
         FROM {source}) AS c \
         WHERE ({CHANGE_TYPE_COLUMN} = 'INSERT' AND \"#last\" <= \"#net\") OR ({CHANGE_TYPE_COLUMN} = 'DELETE' AND \"#last\" <= -\"#net\")"
    )
}

fn list(columns: &[String]) -> String {
    let mut text = String::new();
    for (i, column) in columns.iter().enumerate() {
        let _infallible = write!(text, "{}{}", if i > 0 { ", " } else { "" }, quoted(column));
    }
    text
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn resolve(table: &Table, given: &[String]) -> Result<Vec<String>> {
    let find = |wanted: &String| {
        let found = table.schema().fields().iter().find(|field| field.name().eq_ignore_ascii_case(wanted));
        found.map(|field| field.name().clone()).ok_or_else(|| {
            bad_argument(format!("create_changelog_view: table {} has no column '{wanted}' (identifier_columns)", table.ident()))
        })
    };
    given.iter().map(find).collect()
}

/// The top-level identifier fields of the table.
fn identifier_columns(metadata: &TableMetadata) -> Vec<String> {
    let schema = metadata.current_schema();
    let ids: Vec<i32> = schema.identifier_field_ids().collect();
    schema.as_struct().fields().iter().filter(|field| ids.contains(&field.id)).map(|field| field.name.clone()).collect()
}

/// Rows are compared with each other, which maps cannot be.
fn comparable(table: &Table) -> Result<()> {
    let has_map = |field: &std::sync::Arc<datafusion::arrow::datatypes::Field>| holds_map(field.data_type());
    match table.schema().fields().iter().find(|field| has_map(field)) {
        Some(field) => Err(bad_argument(format!(
            "create_changelog_view: column '{}' of table {} holds maps, which cannot be compared; table_changes('{}') gives the log as it is",
            field.name(),
            table.ident(),
            table.ident()
        ))),
        None => Ok(()),
    }
}

fn holds_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::List(item) => holds_map(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_map(field.data_type())),
        _ => false,
    }
}
