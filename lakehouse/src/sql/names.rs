//! From tokens to a plan: versions and times resolved, names of columns in their tables' letter case, metadata tables
//! under their internal names, and missing tables reported with what is there.

use std::ops::ControlFlow;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{Int64Type, TimeUnit};
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Statement as SqlStatement, visit_relations_mut};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use chainalytics_common::{Error, ErrorCode, Result};

use super::catalog::{LakehouseCatalogProvider, METADATA_MARK, find_owner, ref_name, table_not_found};
use super::dialect_of;
use super::incremental::rewrite_incremental;
use super::letter_case::MixedCase;
use super::metadata_columns::add_metadata_columns;
use super::metadata_tables::MetadataKind;
use super::output_names::{is_about_names, tell_apart};
use super::sample::{expand_samples, put_alias_first};
use super::statement::{ParsedStatement, parse_statement};
use super::time_travel::{VERSION_MARK, resolve_marker, rewrite_time_travel};
use super::views::{expand_views, find_view};
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::settings::SessionSettings;

/// Numbers of `TIMESTAMP AS OF` below this are seconds (Spark's), others milliseconds.
const SECONDS_MAX: i64 = 100_000_000_000;

/// Rewrites and parses one statement.
pub async fn prepare(ctx: &SessionContext, lakehouse: &Lakehouse, tokens: Vec<TokenWithSpan>) -> Result<ParsedStatement> {
    // A dialect cannot be held across an await (it is not Send), so each step takes its own.
    let state = ctx.state();
    follow_settings(ctx, &state);
    let parse = |tokens| parse_statement(tokens, dialect_of(&state)?.as_ref());
    let mut tokens = rewrite_incremental(tokens, dialect_of(&state)?.as_ref())?;
    put_alias_first(&mut tokens);
    let (mut tokens, as_of) = rewrite_time_travel(tokens, dialect_of(&state)?.as_ref())?;
    for clause in &as_of {
        let timestamp_ms = evaluate_time(&clause.expression).await?;
        resolve_marker(&mut tokens, clause, timestamp_ms);
    }
    let statement = parse(tokens.clone())?;
    let mut mixed = MixedCase::default();
    for reference in references(ctx, &statement) {
        if let Some(ident) = lakehouse_ident(ctx, &reference)
            && let Some((table, _)) = find_owner(lakehouse, &without_marks(&ident)).await?
        {
            for field in table.schema().fields() {
                mixed.add(field.name());
            }
        } else if let Some(ident) = lakehouse_ident(ctx, &reference)
            && let Some(view) = find_view(lakehouse, &ident).await?
        {
            for field in view.schema.fields() {
                mixed.add(field.name());
            }
        }
    }
    if mixed.apply(&mut tokens) {
        // A column may be called like a keyword (`ORDER`): what then no longer parses stays as it was written.
        return Ok(parse(tokens).unwrap_or(statement));
    }
    Ok(statement)
}

/// Lets the catalogs of the lakehouse read as the session's settings say.
fn follow_settings(ctx: &SessionContext, state: &SessionState) {
    let settings = SessionSettings::of(state);
    for catalog in ctx.catalog_names().iter().filter_map(|name| ctx.catalog(name)) {
        if let Some(catalog) = catalog.downcast_ref::<LakehouseCatalogProvider>() {
            catalog.follow(&settings, &state.config_options().catalog.default_schema);
        }
    }
}

/// As [`plan`], for a query whose columns may have equal names.
pub async fn plan_result(ctx: &SessionContext, lakehouse: &Lakehouse, statement: DfStatement) -> Result<LogicalPlan> {
    let mut named = statement.clone();
    match plan(ctx, lakehouse, statement).await {
        Err(error) if is_about_names(&error) && tell_apart(&mut named) => plan(ctx, lakehouse, named).await.map_err(|_| error),
        planned => planned,
    }
}

/// Plans a statement of DataFusion's.
pub async fn plan(ctx: &SessionContext, lakehouse: &Lakehouse, mut statement: DfStatement) -> Result<LogicalPlan> {
    name_metadata_tables(ctx, &mut statement);
    add_metadata_columns(ctx, &mut statement).await;
    expand_samples(&mut statement)?;
    let state = ctx.state();
    match state.statement_to_plan(statement.clone()).await {
        Ok(plan) => Ok(plan),
        Err(error) => {
            // The planner only says "not found": it may be a view; if not, say what is there.
            if !error.strip_backtrace().contains("not found") {
                return Err(Error::from_datafusion(error));
            }
            let mut missing = Vec::new();
            for reference in state.resolve_table_references(&statement).unwrap_or_default() {
                if !exists(ctx, &reference).await {
                    missing.push(reference);
                }
            }
            // A call of a table function names no table; only if nothing else is missing was its name used as one.
            missing.sort_by_key(|reference| state.table_functions().contains_key(reference.table()));
            if expand_views(ctx, lakehouse, &mut statement, &missing).await? {
                return Box::pin(plan(ctx, lakehouse, statement)).await;
            }
            match missing.iter().find_map(|reference| lakehouse_ident(ctx, reference)) {
                Some(ident) => Err(table_not_found(lakehouse, &ident).await),
                None => Err(Error::from_datafusion(error)),
            }
        }
    }
}

async fn exists(ctx: &SessionContext, reference: &TableReference) -> bool {
    !matches!(ctx.table_provider(reference.clone()).await, Err(datafusion::error::DataFusionError::Plan(_)))
}

/// Whether planning a statement needs the listing of tables.
pub fn needs_listing(statement: &DfStatement) -> bool {
    let text = statement.to_string().to_lowercase();
    text.starts_with("show") || text.contains("information_schema") || text.starts_with("create")
}

/// The lakehouse table that a reference means; `None` for tables of other catalogs.
pub fn lakehouse_ident(ctx: &SessionContext, reference: &TableReference) -> Option<TableIdent> {
    let state = ctx.state();
    let defaults = &state.config_options().catalog;
    let resolved = reference.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
    let catalog = ctx.catalog(&resolved.catalog)?;
    let ours = catalog.is::<LakehouseCatalogProvider>() && resolved.schema.as_ref() != "information_schema";
    ours.then(|| TableIdent::new(&resolved.schema, resolved.table.to_string()))
}

/// The lakehouse table that a name as written means.
pub fn ident_of(ctx: &SessionContext, name: &ObjectName) -> Result<TableIdent> {
    let state = ctx.state();
    let defaults = &state.config_options().catalog;
    let mut parts: Vec<String> = name.0.iter().map(part_value).collect();
    let mut catalog = defaults.default_catalog.clone();
    // A first part that names a catalog is one, if a namespace and a table are left behind it.
    if parts.len() >= 3 && ctx.catalog(&parts[0]).is_some() {
        catalog = parts.remove(0);
    }
    let provider = ctx.catalog(&catalog);
    let provider = provider.as_ref().and_then(|catalog| catalog.downcast_ref::<LakehouseCatalogProvider>());
    let ours = provider.is_some();
    let moved = provider.is_some_and(|provider| provider.default_namespace() != defaults.default_schema);
    match parts.pop() {
        Some(table) if ours && parts.is_empty() => Ok(TableIdent::new(&defaults.default_schema, table)),
        // After USE `t.branch_x` is a table of the namespace in use.
        Some(last) if ours && moved && parts.len() == 1 && ref_name(&last).is_some() => {
            Ok(TableIdent::new(&format!("{}.{}", defaults.default_schema, parts[0]), last))
        }
        Some(table) if ours && parts[0] != "information_schema" => Ok(TableIdent::new(&parts.join("."), table)),
        _ => Err(Error::new(ErrorCode::SqlUnsupported, format!("{name} is not a table of the lakehouse, it can only be read"))),
    }
}

/// A name's part without quotes.
pub fn part_value(part: &ObjectNamePart) -> String {
    part.as_ident().map_or_else(|| part.to_string(), |ident| ident.value.clone())
}

fn without_marks(ident: &TableIdent) -> TableIdent {
    let base = ident.name().split(['@', METADATA_MARK]).next().unwrap_or(ident.name());
    TableIdent::new(&ident.namespace_key(), base)
}

fn references(ctx: &SessionContext, statement: &ParsedStatement) -> Vec<TableReference> {
    let sql = match statement {
        ParsedStatement::DataFusion(statement) => statement.as_ref().clone(),
        ParsedStatement::Insert(insert) => wrap(SqlStatement::Insert(insert.insert.clone())),
        ParsedStatement::Delete(delete) => wrap(SqlStatement::Delete(delete.as_ref().clone())),
        ParsedStatement::Update(update) => wrap(SqlStatement::Update(update.as_ref().clone())),
        ParsedStatement::Merge(merge) => {
            let query = super::merge::as_query(merge);
            let state = ctx.state();
            match state.sql_to_statement(&query, &state.config_options().sql_parser.dialect) {
                Ok(statement) => statement,
                Err(_) => return Vec::new(),
            }
        }
        ParsedStatement::CreateTable(create) => match &create.query {
            Some(query) => wrap(SqlStatement::Query(query.clone())),
            None => return Vec::new(),
        },
        ParsedStatement::CreateView(create) => wrap(SqlStatement::Query(create.query.clone())),
        _ => return Vec::new(),
    };
    ctx.state().resolve_table_references(&sql).unwrap_or_default()
}

pub fn wrap(statement: SqlStatement) -> DfStatement {
    DfStatement::Statement(Box::new(statement))
}

/// Turns `[catalog.]ns.t.snapshots` into `[catalog.]ns."t$snapshots"`, `ns.t.branch_x` into `ns."t@branch:x"`, and
/// joins further levels of a namespace; DataFusion knows three levels of names only.
fn name_metadata_tables(ctx: &SessionContext, statement: &mut DfStatement) {
    let DfStatement::Statement(statement) = statement else {
        if let DfStatement::Explain(explain) = statement {
            name_metadata_tables(ctx, &mut explain.statement);
        }
        return;
    };
    let catalogs = ctx.catalog_names();
    let _done = visit_relations_mut(statement.as_mut(), |name: &mut ObjectName| {
        if name.0.len() < 3 {
            return ControlFlow::<()>::Continue(());
        }
        let mut parts: Vec<String> = name.0.iter().map(part_value).collect();
        let catalog = if catalogs.contains(&parts[0]) { Some(name.0[0].clone()) } else { None };
        if catalog.is_some() {
            parts.remove(0);
        }
        // `catalog.ns.files` is a table named "files".
        let Some(mut last) = parts.pop().filter(|_| !parts.is_empty()) else {
            return ControlFlow::Continue(());
        };
        if parts.len() >= 2
            && let Some(mark) = mark_of(&last)
            && let Some(table) = parts.pop()
        {
            last = format!("{table}{mark}");
        } else if parts.len() < 2 {
            return ControlFlow::Continue(());
        }
        let quoted = |text: String| ObjectNamePart::Identifier(Ident::with_quote('"', text));
        name.0 = catalog.into_iter().chain([quoted(parts.join(".")), quoted(last)]).collect();
        ControlFlow::Continue(())
    });
}

/// What a last level that names a metadata table or ref becomes behind the table's name.
fn mark_of(last: &str) -> Option<String> {
    if MetadataKind::parse(last).is_some() {
        return Some(format!("{METADATA_MARK}{last}"));
    }
    ref_name(last).map(|name| format!("{VERSION_MARK}ref:{name}"))
}

/// The value of a `TIMESTAMP AS OF` expression, milliseconds since 1970 UTC.
pub(super) async fn evaluate_time(expression: &str) -> Result<i64> {
    let bad = |why: &dyn std::fmt::Display| Error::new(ErrorCode::SqlSyntax, format!("'{expression}' is not a point in time: {why}"));
    if let Ok(number) = expression.trim_matches('\'').parse::<i64>() {
        return Ok(if number.abs() < SECONDS_MAX { number.saturating_mul(1000) } else { number });
    }
    // A context of its own: constants only, no table can be read.
    let df = SessionContext::new().sql(&format!("SELECT CAST(({expression}) AS TIMESTAMP(3)) AS t")).await.map_err(|e| bad(&e))?;
    let batches = df.collect().await.map_err(|e| bad(&e))?;
    let column = batches.first().filter(|b| b.num_rows() == 1).map(|b| b.column(0)).ok_or_else(|| bad(&"no value"))?;
    let millis = datafusion::arrow::compute::cast(column, &datafusion::arrow::datatypes::DataType::Timestamp(TimeUnit::Millisecond, None))
        .and_then(|c| datafusion::arrow::compute::cast(&c, &datafusion::arrow::datatypes::DataType::Int64))
        .map_err(|e| bad(&e))?;
    let millis = millis.as_primitive::<Int64Type>();
    if datafusion::arrow::array::Array::is_null(millis, 0) {
        return Err(bad(&"it is NULL"));
    }
    Ok(millis.value(0))
}
