//! Views: `CREATE [OR REPLACE] VIEW`, `DROP VIEW`, `SHOW VIEWS`, and their use: a view's name in a query is replaced by its
//! query, so that plans hold nothing but tables.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, Query, Statement as SqlStatement, TableAlias, TableFactor, VisitMut, VisitorMut, visit_relations_mut,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use futures::FutureExt;
use futures::future::BoxFuture;

use chainalytics_common::{Error, ErrorCode, Result};

use super::create_table::parse_properties;
use super::listing::Listing;
use super::names::{ident_of, lakehouse_ident, part_value, plan, prepare, wrap};
use super::statement::{ParsedStatement, expect_end, parse_error, split_statements};
use super::words::{accept, expect, list, name, text};
use super::{Runner, StatementResult, dialect_of, rows};
use crate::catalog::ViewDefinition;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::scan::plain_type;
use crate::table::arrow_schema::DOC_KEY;

/// Views within views.
const DEPTH_MAX: u32 = 32;

/// A parsed `CREATE VIEW`.
#[derive(Debug)]
pub struct CreateView {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Names and comments of the columns, if they are not the query's own.
    pub columns: Vec<(String, Option<String>)>,
    pub properties: Vec<(String, String)>,
    pub query: Box<Query>,
}

/// Parses what follows `CREATE [OR REPLACE] VIEW`.
pub fn parse_create_view(parser: &mut Parser<'_>, or_replace: bool) -> Result<CreateView> {
    let if_not_exists = accept(parser, "IF NOT EXISTS");
    let view_name = parser.parse_object_name(false).map_err(parse_error)?;
    let columns = match parser.peek_token_ref().token {
        Token::LParen => list(parser, false, |parser| {
            let column = name(parser)?;
            Ok((column, if accept(parser, "COMMENT") { Some(text(parser)?) } else { None }))
        })?,
        _ => Vec::new(),
    };
    let mut properties = Vec::new();
    loop {
        if accept(parser, "COMMENT") {
            properties.push(("comment".to_owned(), text(parser)?));
        } else if accept(parser, "TBLPROPERTIES") {
            properties.extend(parse_properties(parser)?);
        } else {
            break;
        }
    }
    expect(parser, "AS")?;
    let query = parser.parse_query().map_err(parse_error)?;
    expect_end(parser)?;
    Ok(CreateView { name: view_name, or_replace, if_not_exists, columns, properties, query })
}

impl Runner<'_> {
    pub(super) async fn create_view(&self, create: CreateView) -> Result<StatementResult> {
        let ident = ident_of(self.ctx, &create.name)?;
        let catalog = self.lakehouse.catalog();
        if create.if_not_exists && catalog.find_view(&ident).await?.is_some() {
            return Ok(StatementResult::Ok);
        }
        let mut sql = create.query.to_string();
        let planned = plan(self.ctx, self.lakehouse, wrap(SqlStatement::Query(create.query))).await?;
        let count = planned.schema().fields().len();
        if !create.columns.is_empty() {
            if create.columns.len() != count {
                return Err(Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("view {ident} names {} columns, its query gives {count}", create.columns.len()),
                ));
            }
            let names: Vec<String> = create.columns.iter().map(|(column, _)| format!("\"{}\"", column.replace('"', "\"\""))).collect();
            sql = format!("SELECT * FROM ({sql}) AS v ({})", names.join(", "));
        }
        let fields: Vec<Field> = planned
            .schema()
            .fields()
            .iter()
            .enumerate()
            .map(|(i, field)| {
                let given = create.columns.get(i);
                let name = given.map_or_else(|| field.name().clone(), |(name, _)| name.clone());
                let comment = given.and_then(|(_, comment)| comment.clone());
                let field = Field::new(name, plain_type(field.data_type()), true);
                match comment {
                    Some(comment) => field.with_metadata([(DOC_KEY.to_owned(), comment)].into()),
                    None => field,
                }
            })
            .collect();
        let state = self.ctx.state();
        let view = ViewDefinition {
            sql,
            default_namespace: state.config_options().catalog.default_schema.split('.').map(str::to_owned).collect(),
            schema: Arc::new(Schema::new(fields)),
            properties: create.properties.into_iter().collect::<BTreeMap<_, _>>(),
        };
        catalog.create_view(&ident, &view, create.or_replace).await?;
        Ok(StatementResult::Ok)
    }

    pub(super) async fn drop_views(&self, names: &[ObjectName], if_exists: bool) -> Result<StatementResult> {
        for name in names {
            let parts: Vec<String> = name.0.iter().map(part_value).collect();
            if let [bare] = parts.as_slice()
                && self.ctx.deregister_table(TableReference::bare(bare.clone())).map_err(Error::from_datafusion)?.is_some()
            {
                continue; // a temporary view of the session
            }
            let ident = ident_of(self.ctx, name)?;
            let ident = match view_ident(self.lakehouse, &ident).await? {
                Some(known) => known,
                None if if_exists => continue,
                None => return Err(Error::new(ErrorCode::TableNotFound, format!("view {ident} does not exist"))),
            };
            self.lakehouse.catalog().drop_view(&ident).await?;
        }
        Ok(StatementResult::Ok)
    }

    pub(super) async fn show_views(&self, listing: &Listing) -> Result<StatementResult> {
        let namespace = match &listing.namespace {
            Some(name) => self.namespace(name),
            None => self.ctx.state().config_options().catalog.default_schema.clone(),
        };
        let mut views = self.lakehouse.catalog().list_views(&namespace).await?;
        views.retain(|view| listing.lists(view.name()));
        let batch = RecordBatch::try_from_iter([
            ("namespace", Arc::new(views.iter().map(|_| Some(namespace.as_str())).collect::<StringArray>()) as _),
            ("viewName", Arc::new(views.iter().map(|view| Some(view.name())).collect::<StringArray>()) as _),
            ("isTemporary", Arc::new(views.iter().map(|_| Some(false)).collect::<BooleanArray>()) as _),
        ]);
        rows(batch.map_err(|e| Error::new(ErrorCode::Internal, format!("SHOW VIEWS: {e}")))?)
    }
}

/// Loads a view by its name, letter case ignored if none has exactly that name.
pub async fn find_view(lakehouse: &Lakehouse, ident: &TableIdent) -> Result<Option<ViewDefinition>> {
    match view_ident(lakehouse, ident).await? {
        Some(ident) => lakehouse.catalog().find_view(&ident).await,
        None => Ok(None),
    }
}

async fn view_ident(lakehouse: &Lakehouse, ident: &TableIdent) -> Result<Option<TableIdent>> {
    let mut views = lakehouse.catalog().list_views(&ident.namespace_key()).await?;
    let exact = views.iter().position(|view| view == ident);
    let at = exact.or_else(|| views.iter().position(|view| view.name().eq_ignore_ascii_case(ident.name())));
    Ok(at.map(|at| views.swap_remove(at)))
}

/// Replaces the views among `missing` (names that are no tables) in a statement by their queries; says whether there
/// were any.
pub async fn expand_views(ctx: &SessionContext, lakehouse: &Lakehouse, statement: &mut DfStatement, missing: &[TableReference]) -> Result<bool> {
    let mut found = HashMap::new();
    for reference in missing {
        if let Some(ident) = lakehouse_ident(ctx, reference)
            && let Some(view) = find_view(lakehouse, &ident).await?
        {
            found.insert(ident.clone(), expanded(ctx, lakehouse, ident, view, 1).await?);
        }
    }
    if found.is_empty() {
        return Ok(false);
    }
    replace(ctx, &found, statement);
    Ok(true)
}

/// The query of a view, the views in it replaced too.
fn expanded<'a>(
    ctx: &'a SessionContext,
    lakehouse: &'a Lakehouse,
    ident: TableIdent,
    view: ViewDefinition,
    depth: u32,
) -> BoxFuture<'a, Result<Box<Query>>> {
    async move {
        let broken = |what: &str| Error::new(ErrorCode::SqlPlan, format!("view {ident}: {what}"));
        if depth > DEPTH_MAX {
            return Err(broken("it refers to views more than 32 levels deep, or to itself"));
        }
        let tokens = split_statements(&view.sql, dialect_of(&ctx.state())?.as_ref())?;
        let [tokens] = tokens.try_into().map_err(|_| broken("it is not one query"))?;
        let ParsedStatement::DataFusion(statement) = prepare(ctx, lakehouse, tokens).await? else {
            return Err(broken("it is not a query"));
        };
        let mut statement = *statement;
        let references = ctx.state().resolve_table_references(&statement).unwrap_or_default();
        qualify(ctx, &mut statement, &references, &view.default_namespace);
        let references = ctx.state().resolve_table_references(&statement).unwrap_or_default();
        let mut inner = HashMap::new();
        for reference in references {
            let Some(inner_ident) = lakehouse_ident(ctx, &reference) else { continue };
            if let Some(view) = find_view(lakehouse, &inner_ident).await? {
                let query = expanded(ctx, lakehouse, inner_ident.clone(), view, depth + 1).await?;
                inner.insert(inner_ident, query);
            }
        }
        replace(ctx, &inner, &mut statement);
        match statement {
            DfStatement::Statement(statement) => match *statement {
                SqlStatement::Query(query) => Ok(query),
                _ => Err(broken("it is not a query")),
            },
            _ => Err(broken("it is not a query")),
        }
    }
    .boxed()
}

/// Puts the view's own namespace in front of bare table names, where the session has another.
fn qualify(ctx: &SessionContext, statement: &mut DfStatement, tables: &[TableReference], namespace: &[String]) {
    if namespace.is_empty() || namespace.join(".") == ctx.state().config_options().catalog.default_schema {
        return;
    }
    let DfStatement::Statement(statement) = statement else { return };
    let _done = visit_relations_mut(statement.as_mut(), |name: &mut ObjectName| {
        // Names of common table expressions are not among the tables.
        if let [part] = name.0.as_slice()
            && tables.iter().any(|table| table.schema().is_none() && table.table().eq_ignore_ascii_case(&part_value(part)))
        {
            name.0.insert(0, ObjectNamePart::Identifier(Ident::with_quote('"', namespace.join("."))));
        }
        ControlFlow::<()>::Continue(())
    });
}

fn replace(ctx: &SessionContext, views: &HashMap<TableIdent, Box<Query>>, statement: &mut DfStatement) {
    let statement = match statement {
        DfStatement::Statement(statement) => statement.as_mut(),
        DfStatement::Explain(explain) => return replace(ctx, views, &mut explain.statement),
        _ => return,
    };
    let _done = statement.visit(&mut Replacer { ctx, views });
}

struct Replacer<'a> {
    ctx: &'a SessionContext,
    views: &'a HashMap<TableIdent, Box<Query>>,
}

impl VisitorMut for Replacer<'_> {
    type Break = ();

    // After the visit of what is below: a view's query is complete already.
    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let found = ident_of(self.ctx, name).ok().and_then(|ident| {
            let same = |known: &&TableIdent| known.namespace() == ident.namespace() && known.name().eq_ignore_ascii_case(ident.name());
            self.views.keys().find(same).and_then(|known| self.views.get(known))
        });
        let (Some(query), Some(own)) = (found, name.0.last()) else {
            return ControlFlow::Continue(());
        };
        let own = match own.as_ident() {
            Some(ident) => ident.clone(),
            None => Ident::new(part_value(own)),
        };
        let alias = alias.take().unwrap_or(TableAlias { explicit: true, name: own, columns: Vec::new(), at: None });
        *factor = TableFactor::Derived { lateral: false, subquery: query.clone(), alias: Some(alias), sample: None };
        ControlFlow::Continue(())
    }
}
