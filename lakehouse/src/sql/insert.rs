//! INSERT in Spark's spelling: `INSERT {INTO | OVERWRITE} [TABLE] t [PARTITION (d = '…', h)] [(columns) | BY NAME] query`,
//! `INSERT INTO t REPLACE WHERE condition query`, `WITH … INSERT …`.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, Insert, SelectItem, SetExpr, Statement as SqlStatement, TableObject};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use chainalytics_common::{Error, ErrorCode, Result};

use super::changes::{affected, last_part, refuse};
use super::names::{plan, plan_result, wrap};
use super::statement::{keyword_of, parse_error, parser};
use super::{Runner, StatementResult, unsupported};
use crate::dml::{Casting, Matching, WriteMode, committed_step, fit};
use crate::settings::{self, SessionSettings};
use crate::table::Table;

/// Table property: what `INSERT OVERWRITE` replaces in a partitioned table, `dynamic` (the default: the partitions
/// that the new rows fall into) or `static` (everything, or what `PARTITION (…)` names).
const OVERWRITE_MODE: &str = "write.overwrite-mode";

/// A parsed INSERT.
#[derive(Debug)]
pub struct InsertStatement {
    pub insert: Insert,
    /// `BY NAME`: columns of the query go by their names.
    pub by_name: bool,
    /// `REPLACE WHERE`: rows of this condition go.
    pub replace: Option<ast::Expr>,
}

/// What Spark's spelling of INSERT says beyond what the parser knows.
#[derive(Debug, Default)]
pub struct InsertClauses {
    by_name: bool,
    replace: Option<ast::Expr>,
}

impl InsertClauses {
    /// With the statement that the parser made of the rest.
    pub fn with(self, insert: Insert) -> InsertStatement {
        InsertStatement { insert, by_name: self.by_name, replace: self.replace }
    }
}

/// Takes `BY NAME` and `REPLACE WHERE …` out of an INSERT's tokens.
pub fn take_clauses(tokens: &mut Vec<TokenWithSpan>, dialect: &dyn Dialect) -> Result<InsertClauses> {
    let mut clauses = InsertClauses::default();
    let word = |tokens: &[TokenWithSpan], i: usize| match tokens.get(i).map(|t| &t.token) {
        Some(Token::Word(word)) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    };
    let Some(start) = tokens.iter().position(|t| keyword_of(&t.token) == Keyword::INSERT) else { return Ok(clauses) };
    if start > 0 && word(tokens, 0) != "WITH" {
        return Ok(clauses);
    }
    let mut at = start + 1;
    while matches!(word(tokens, at).as_str(), "INTO" | "OVERWRITE" | "TABLE") {
        at += 1;
    }
    let mut name = parser(dialect, tokens[at..].to_vec());
    if name.parse_object_name(false).is_err() {
        return Ok(clauses);
    }
    at += name.index();
    if word(tokens, at) == "PARTITION" {
        let mut depth = 0_usize;
        at += 1;
        while let Some(token) = tokens.get(at) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
    }
    if word(tokens, at) == "BY" && word(tokens, at + 1) == "NAME" {
        tokens.drain(at..at + 2);
        clauses.by_name = true;
    } else if word(tokens, at) == "REPLACE" && word(tokens, at + 1) == "WHERE" {
        let mut condition = parser(dialect, tokens[at + 2..].to_vec());
        clauses.replace = Some(condition.parse_expr().map_err(parse_error)?);
        let end = at + 2 + condition.index();
        tokens.drain(at..end);
    }
    Ok(clauses)
}

impl Runner<'_> {
    pub(super) async fn insert(&self, statement: InsertStatement) -> Result<StatementResult> {
        let InsertStatement { insert, by_name, replace } = statement;
        let TableObject::TableName(name) = &insert.table else {
            return Err(unsupported("INSERT into anything but a table"));
        };
        refuse(insert.on.is_some(), "INSERT … ON CONFLICT (use MERGE INTO)")?;
        refuse(insert.returning.is_some(), "INSERT … RETURNING")?;
        refuse(!insert.assignments.is_empty(), "INSERT … SET")?;
        refuse(by_name && !insert.columns.is_empty(), "INSERT … BY NAME with a list of columns")?;
        refuse(replace.is_some() && insert.overwrite, "INSERT OVERWRITE … REPLACE WHERE (use INSERT INTO)")?;
        let Some(mut source) = insert.source else {
            return Err(unsupported("INSERT without VALUES or a query"));
        };
        name_duplicates(&mut source.body);
        let table = self.table_to_change(name).await?;
        if let Some(done) = committed_step(&table, &self.options) {
            return Ok(affected(done.added_rows, &done));
        }
        let source = wrap(SqlStatement::Query(source));
        let mut query = match by_name {
            true => plan(self.ctx, self.lakehouse, source).await?,
            false => plan_result(self.ctx, self.lakehouse, source).await?,
        };
        let state = self.ctx.state();
        let named: Vec<String> = insert.columns.iter().map(last_part).collect();
        let mut matching = match (by_name, named.is_empty()) {
            (true, _) => Matching::ByName,
            (false, true) => Matching::ByPosition,
            (false, false) => Matching::Named(named),
        };
        let partition = match &insert.partitioned {
            Some(terms) => PartitionClause::plan(&state, &table, terms)?,
            None => PartitionClause::default(),
        };
        if !partition.fixed.is_empty() {
            (query, matching) = partition.add_to(query, &table, matching)?;
        }
        let mode = match (&replace, insert.overwrite) {
            (Some(condition), _) => {
                let schema = DFSchema::try_from(table.schema().as_ref().clone()).map_err(Error::from_datafusion)?;
                let condition = state.create_logical_expr(&condition.to_string(), &schema);
                WriteMode::OverwriteFilter(condition.map_err(Error::from_datafusion)?)
            }
            (None, false) => WriteMode::Append,
            (None, true) => overwrite_mode(&table, &partition, &SessionSettings::of(&state))?,
        };
        let done = self.write(&state).plan(&table, query, &matching, Casting::Checked, mode).await?;
        Ok(affected(done.added_rows, &done))
    }
}

fn overwrite_mode(table: &Table, partition: &PartitionClause, settings: &SessionSettings) -> Result<WriteMode> {
    if table.partition_fields().is_empty() {
        return Ok(WriteMode::OverwriteAll);
    }
    let mode = settings.get(settings::OVERWRITE_MODE).or(table.property(OVERWRITE_MODE)).map(str::to_ascii_lowercase);
    let dynamic = match mode.as_deref() {
        None => None,
        Some("dynamic") => Some(true),
        Some("static") => Some(false),
        Some(other) => {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("table {}: property {OVERWRITE_MODE} is '{other}', it must be dynamic or static", table.ident()),
            ));
        }
    };
    Ok(match partition.filter() {
        // Values that are named replace their partitions, unless only those of the new rows were asked for.
        Some(filter) if !(dynamic == Some(true) && partition.free) => WriteMode::OverwriteFilter(filter),
        Some(_) => WriteMode::OverwritePartitions,
        None if dynamic == Some(false) => WriteMode::OverwriteAll,
        None => WriteMode::OverwritePartitions,
    })
}

/// `PARTITION (d = '2026-01-01', h)`.
#[derive(Default)]
struct PartitionClause {
    /// Columns with a value of their own, in the column's type.
    fixed: Vec<(String, ScalarValue)>,
    /// Whether columns without one were named.
    free: bool,
}

impl PartitionClause {
    fn plan(state: &SessionState, table: &Table, terms: &[ast::Expr]) -> Result<Self> {
        let mut clause = Self::default();
        for term in terms {
            let (column, value) = match term {
                ast::Expr::Identifier(name) => (name.value.clone(), None),
                ast::Expr::BinaryOp { left, op: ast::BinaryOperator::Eq, right } => match left.as_ref() {
                    ast::Expr::Identifier(name) => (name.value.clone(), Some(right)),
                    _ => return Err(unsupported(&format!("PARTITION ({term})"))),
                },
                _ => return Err(unsupported(&format!("PARTITION ({term})"))),
            };
            let fields = table.schema().fields();
            let field = fields
                .iter()
                .find(|f| f.name().eq_ignore_ascii_case(&column))
                .ok_or_else(|| Error::new(ErrorCode::SchemaMismatch, format!("table {} has no column '{column}'", table.ident())))?;
            let partitions = table.partition_fields();
            if !partitions.iter().any(|p| p.source == *field.name() && p.transform == "identity") {
                return Err(Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("'{column}' is no partition column of table {} (columns with a transform cannot be named in PARTITION)", table.ident()),
                ));
            }
            let Some(value) = value else {
                clause.free = true;
                continue;
            };
            if clause.fixed.iter().any(|(name, _)| name == field.name()) {
                return Err(Error::new(ErrorCode::SchemaMismatch, format!("column '{column}' is given twice")));
            }
            let empty = Arc::new(DFSchema::empty());
            let value = state.create_logical_expr(&value.to_string(), &empty).map_err(Error::from_datafusion)?;
            let value = fit(value, &empty, field, &table.ident().to_string(), Casting::Checked)?;
            let context =
                SimplifyContext::builder().with_schema(Arc::clone(&empty)).with_config_options(Arc::clone(state.config().options())).build();
            let simplifier = ExprSimplifier::new(context);
            let value = simplifier.coerce(value, &empty).and_then(|v| simplifier.simplify(v)).map_err(Error::from_datafusion)?;
            let Expr::Literal(value, _) = value else {
                return Err(unsupported(&format!("a value in PARTITION that is no constant: {term}")));
            };
            clause.fixed.push((field.name().clone(), value));
        }
        Ok(clause)
    }

    /// The rows of the partitions that have the fixed values.
    fn filter(&self) -> Option<Expr> {
        let terms = self.fixed.iter().map(|(name, value)| {
            let column = Expr::Column(Column::from_name(name));
            if value.is_null() { column.is_null() } else { column.eq(lit(value.clone())) }
        });
        terms.reduce(Expr::and)
    }

    /// The query with the fixed values as columns.
    fn add_to(&self, query: LogicalPlan, table: &Table, matching: Matching) -> Result<(LogicalPlan, Matching)> {
        let fixed = |name: &str| self.fixed.iter().any(|(fixed, _)| fixed == name);
        let mut exprs: Vec<Expr> = query.schema().columns().into_iter().map(Expr::Column).collect();
        let by_name = matching == Matching::ByName;
        for (i, (name, value)) in self.fixed.iter().enumerate() {
            let name = if by_name { name.clone() } else { format!("#partition{i}") };
            exprs.push(lit(value.clone()).alias(name));
        }
        let matching = match matching {
            Matching::ByName => Matching::ByName,
            Matching::ByPosition => {
                let rest = table.schema().fields().iter().map(|f| f.name().clone()).filter(|name| !fixed(name));
                Matching::Named(rest.chain(self.fixed.iter().map(|(name, _)| name.clone())).collect())
            }
            Matching::Named(names) => Matching::Named(names.into_iter().chain(self.fixed.iter().map(|(name, _)| name.clone())).collect()),
        };
        let plan = LogicalPlanBuilder::from(query).project(exprs).and_then(LogicalPlanBuilder::build);
        Ok((plan.map_err(Error::from_datafusion)?, matching))
    }
}

/// Names the second and later of equal select items (`SELECT 0, 0`): DataFusion refuses equal names, to which a
/// positional INSERT gives no meaning.
fn name_duplicates(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            let mut seen = HashSet::new();
            for (i, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(expr) = item
                    && !seen.insert(expr.to_string().to_lowercase())
                {
                    let alias = ast::Ident::with_quote('"', format!("#{i}"));
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
        }
        SetExpr::Query(query) => name_duplicates(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            name_duplicates(left);
            name_duplicates(right);
        }
        _ => {}
    }
}

/// `WITH … INSERT …`: the parser makes a query of it; this is the INSERT with the WITH in its own query.
pub fn insert_of_query(mut query: Box<ast::Query>) -> std::result::Result<Insert, Box<ast::Query>> {
    match *query.body {
        SetExpr::Insert(SqlStatement::Insert(mut insert)) => {
            if let Some(source) = &mut insert.source
                && source.with.is_none()
            {
                source.with = query.with.take();
            }
            Ok(insert)
        }
        body => {
            query.body = Box::new(body);
            Err(query)
        }
    }
}
