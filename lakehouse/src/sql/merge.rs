//! MERGE INTO: `[WITH …] MERGE INTO t [AS a] USING source [AS b] ON … WHEN [NOT] MATCHED [BY SOURCE | BY TARGET]
//! [AND …] THEN UPDATE SET … | UPDATE SET * | DELETE | INSERT (…) VALUES (…) | INSERT *`.

use datafusion::common::{DFSchema, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    self, AssignmentTarget, MergeAction as SqlAction, MergeClauseKind, MergeInsertKind, Statement as SqlStatement, TableFactor, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use std::ops::ControlFlow;

use chainalytics_common::{Error, ErrorCode, Result};

use super::changes::last_part;
use super::names::part_value;
use super::statement::{keyword_of, parse_error, parser, syntax_error};
use super::{Runner, StatementResult, unsupported};
use crate::dml::{Assignment, Insertion, Merge, MergeAction, MergeClause, committed_step, merge_rows};
use crate::table::Table;

/// Stands for `*` in `UPDATE SET *` and `INSERT *`, which the parser does not know.
const ALL: &str = "*";

/// A parsed MERGE.
#[derive(Debug)]
pub struct MergeStatement {
    /// `WITH …` before it, as text.
    pub with: Option<String>,
    pub merge: ast::Merge,
}

/// Parses a statement if it is a MERGE.
pub fn parse_merge(tokens: &[TokenWithSpan], dialect: &dyn Dialect) -> Option<Result<MergeStatement>> {
    let word = |i: usize| tokens.get(i).map_or(Keyword::NoKeyword, |t| keyword_of(&t.token));
    let start = match word(0) {
        Keyword::MERGE => 0,
        Keyword::WITH => {
            let mut depth = 0_i32;
            tokens.iter().position(|t| {
                match t.token {
                    Token::LParen => depth += 1,
                    Token::RParen => depth -= 1,
                    _ => {}
                }
                depth == 0 && keyword_of(&t.token) == Keyword::MERGE
            })?
        }
        _ => return None,
    };
    let with = (start > 0).then(|| text(&tokens[..start]));
    let mut parser = parser(dialect, with_stars_named(&tokens[start..]));
    let statement = parser.parse_statement().map_err(parse_error);
    Some(statement.and_then(|statement| {
        super::statement::expect_end(&parser)?;
        match statement {
            SqlStatement::Merge(merge) => Ok(MergeStatement { with, merge }),
            other => Err(syntax_error(&format!("MERGE was expected: {other}"))),
        }
    }))
}

fn text(tokens: &[TokenWithSpan]) -> String {
    let words: Vec<String> = tokens.iter().map(|t| t.token.to_string()).collect();
    words.join(" ")
}

/// `SET *` becomes `SET "*" = 0`, `INSERT *` becomes `INSERT ("*") VALUES (0)`.
fn with_stars_named(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 8);
    for token in tokens {
        let before = out.last().map_or(Keyword::NoKeyword, |t| keyword_of(&t.token));
        let put = |token: Token| TokenWithSpan { token, span: token_span(tokens) };
        let star = || Token::Word(Word { value: ALL.to_owned(), quote_style: Some('"'), keyword: Keyword::NoKeyword });
        let zero = || Token::Number("0".to_owned(), false);
        match (&token.token, before) {
            (Token::Mul, Keyword::SET) => out.extend([star(), Token::Eq, zero()].map(put)),
            (Token::Mul, Keyword::INSERT) => {
                let values = Token::make_keyword("VALUES");
                let row = [Token::LParen, star(), Token::RParen, values, Token::LParen, zero(), Token::RParen];
                out.extend(row.map(put));
            }
            _ => out.push(token.clone()),
        }
    }
    out
}

fn token_span(tokens: &[TokenWithSpan]) -> datafusion::sql::sqlparser::tokenizer::Span {
    tokens.first().map_or_else(datafusion::sql::sqlparser::tokenizer::Span::empty, |t| t.span)
}

/// The tables that a MERGE reads, as a query, for resolving their names.
pub fn as_query(statement: &MergeStatement) -> String {
    let with = statement.with.as_deref().unwrap_or_default();
    format!("{with} SELECT * FROM {}, {}", statement.merge.table, statement.merge.source)
}

/// Schemas by which a clause's expressions are planned.
struct Scopes {
    target: DFSchema,
    source: DFSchema,
    both: DFSchema,
}

impl Runner<'_> {
    pub(super) async fn merge(&self, statement: MergeStatement) -> Result<StatementResult> {
        let MergeStatement { with, merge } = statement;
        if merge.output.is_some() {
            return Err(unsupported("MERGE … OUTPUT or RETURNING"));
        }
        let from = ast::TableWithJoins { relation: merge.table.clone(), joins: Vec::new() };
        let target = self.target(std::slice::from_ref(&from)).await?;
        if let Some(done) = committed_step(&target.table, &self.options) {
            return Ok(StatementResult::Affected { rows: done.added_rows, snapshot_id: done.snapshot_id });
        }
        let source = source_alias(&merge.source)?;
        if source == target.qualifier {
            return Err(Error::new(ErrorCode::SqlPlan, format!("target and source of MERGE are both called {source}; give one of them an alias")));
        }
        let with = with.unwrap_or_default();
        let rows = self.plan_text(&format!("{with} SELECT * FROM {}", merge.source)).await?;
        let state = self.ctx.state();
        let scopes = Scopes::new(&target.table, &target.qualifier, &rows, &source)?;
        let mut planned = Merge {
            on: expression(&state, &merge.on, &scopes.both)?,
            target: target.qualifier.clone(),
            source,
            rows,
            matched: Vec::new(),
            by_source: Vec::new(),
            inserted: Vec::new(),
        };
        for clause in &merge.clauses {
            let scope = match clause.clause_kind {
                MergeClauseKind::Matched => &scopes.both,
                MergeClauseKind::NotMatchedBySource => &scopes.target,
                MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => &scopes.source,
            };
            let condition = clause.predicate.as_ref().map(|p| expression(&state, p, scope)).transpose()?;
            let action = match &clause.action {
                SqlAction::Insert(insert) => {
                    let values = insertion(&state, insert, &target.table, &scopes)?;
                    planned.inserted.push(Insertion { condition, values });
                    continue;
                }
                SqlAction::Delete { .. } => MergeAction::Delete,
                SqlAction::Update(update) => {
                    if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                        return Err(unsupported("WHERE in a clause of MERGE (use WHEN MATCHED AND …)"));
                    }
                    MergeAction::Update(assignments(&state, update, &target.table, &scopes, scope)?)
                }
            };
            match clause.clause_kind {
                MergeClauseKind::Matched => planned.matched.push(MergeClause { condition, action }),
                _ => planned.by_source.push(MergeClause { condition, action }),
            }
        }
        check_order("MATCHED", planned.matched.iter().map(|c| &c.condition))?;
        check_order("NOT MATCHED BY SOURCE", planned.by_source.iter().map(|c| &c.condition))?;
        check_order("NOT MATCHED", planned.inserted.iter().map(|c| &c.condition))?;
        let write = self.write(&state);
        let change = merge_rows(&write, &target.table, planned).await?;
        let rows = change.rows;
        if change.is_empty() && self.options.step.is_none() {
            return Ok(StatementResult::Affected { rows: 0, snapshot_id: target.table.current_snapshot_id() });
        }
        let done = write.commit_rows(&target.table, change).await?;
        Ok(StatementResult::Affected { rows, snapshot_id: done.snapshot_id })
    }
}

/// Only the last clause of a kind may have no condition: those behind it could never act.
fn check_order<'a>(kind: &str, conditions: impl DoubleEndedIterator<Item = &'a Option<Expr>>) -> Result<()> {
    if conditions.rev().skip(1).any(Option::is_none) {
        return Err(syntax_error(&format!("only the last WHEN {kind} clause of MERGE may have no condition")));
    }
    Ok(())
}

impl Scopes {
    fn new(table: &Table, target: &TableReference, rows: &LogicalPlan, source: &TableReference) -> Result<Self> {
        let plan_error = Error::from_datafusion;
        let target = DFSchema::try_from_qualified_schema(target.clone(), table.schema()).map_err(plan_error)?;
        let source = DFSchema::try_from_qualified_schema(source.clone(), rows.schema().as_arrow()).map_err(plan_error)?;
        let both = target.join(&source).map_err(plan_error)?;
        Ok(Self { target, source, both })
    }
}

fn source_alias(source: &TableFactor) -> Result<TableReference> {
    let (name, alias) = match source {
        TableFactor::Table { name, alias, .. } => (name.0.last().map(part_value), alias),
        TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } => (None, alias),
        other => return Err(unsupported(&format!("{other} as source of MERGE (use a subquery)"))),
    };
    let alias = alias.as_ref().map(|a| match a.name.quote_style {
        Some(_) => a.name.value.clone(),
        None => a.name.value.to_lowercase(),
    });
    alias
        .or_else(|| name.map(|n| n.to_lowercase()))
        .map(TableReference::bare)
        .ok_or_else(|| syntax_error("the subquery that MERGE uses needs an alias"))
}

/// Plans an expression over a schema.
fn expression(state: &SessionState, expr: &ast::Expr, schema: &DFSchema) -> Result<Expr> {
    let subquery = visit_expressions(expr, |e| match e {
        ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if subquery.is_break() {
        return Err(unsupported(&format!("a subquery in a clause of MERGE (put it into the source): {expr}")));
    }
    state.create_logical_expr(&expr.to_string(), schema).map_err(Error::from_datafusion)
}

fn is_star(columns: &[String]) -> bool {
    columns.len() == 1 && columns[0] == ALL
}

/// The table's spelling of a column.
fn column_of(table: &Table, name: &str) -> Result<String> {
    let fields = table.schema().fields();
    let exact = fields.iter().find(|f| f.name() == name);
    exact
        .or_else(|| fields.iter().find(|f| f.name().eq_ignore_ascii_case(name)))
        .map(|f| f.name().clone())
        .ok_or_else(|| Error::new(ErrorCode::SchemaMismatch, format!("table {} has no column '{name}'", table.ident())))
}

/// All columns of the table from the source's columns of the same names.
fn by_name(table: &Table, scopes: &Scopes) -> Result<Vec<Assignment>> {
    table
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let exact = scopes.source.iter().find(|(_, f)| f.name() == field.name());
            let found = exact.or_else(|| scopes.source.iter().find(|(_, f)| f.name().eq_ignore_ascii_case(field.name())));
            let (qualifier, source) = found.ok_or_else(|| {
                Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("the source of MERGE has no column '{}', which * of table {} asks for", field.name(), table.ident()),
                )
            })?;
            Ok(Assignment { column: field.name().clone(), value: Expr::from((qualifier, source)) })
        })
        .collect()
}

fn assignments(state: &SessionState, update: &ast::MergeUpdateExpr, table: &Table, scopes: &Scopes, scope: &DFSchema) -> Result<Vec<Assignment>> {
    let mut set: Vec<Assignment> = Vec::with_capacity(update.assignments.len());
    for assignment in &update.assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else {
            return Err(unsupported("assignment to a tuple of columns"));
        };
        let name = last_part(name);
        if name == ALL {
            if scope.fields().len() == scopes.target.fields().len() {
                return Err(syntax_error("UPDATE SET * needs a source row: it does not go with NOT MATCHED BY SOURCE"));
            }
            return by_name(table, scopes);
        }
        let column = column_of(table, &name)?;
        if set.iter().any(|a| a.column == column) {
            return Err(Error::new(ErrorCode::SchemaMismatch, format!("column '{column}' is assigned twice")));
        }
        let value = match &assignment.value {
            ast::Expr::Identifier(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default") => {
                Expr::Literal(datafusion::common::ScalarValue::Null, None)
            }
            value => expression(state, value, scope)?,
        };
        set.push(Assignment { column, value });
    }
    Ok(set)
}

fn insertion(state: &SessionState, insert: &ast::MergeInsertExpr, table: &Table, scopes: &Scopes) -> Result<Vec<Assignment>> {
    if insert.insert_predicate.is_some() {
        return Err(unsupported("WHERE in a clause of MERGE (use WHEN NOT MATCHED AND …)"));
    }
    let columns: Vec<String> = insert.columns.iter().map(last_part).collect();
    let values = match &insert.kind {
        MergeInsertKind::Row => return by_name(table, scopes),
        MergeInsertKind::Values(_) if is_star(&columns) => return by_name(table, scopes),
        MergeInsertKind::Values(values) => values,
    };
    let [row] = values.rows.as_slice() else {
        return Err(syntax_error("INSERT of MERGE takes one row of values"));
    };
    let columns = match columns.is_empty() {
        true => table.schema().fields().iter().map(|f| f.name().clone()).collect(),
        false => columns,
    };
    if columns.len() != row.len() {
        return Err(Error::new(
            ErrorCode::SchemaMismatch,
            format!("INSERT of MERGE names {} columns of table {} and gives {} values", columns.len(), table.ident(), row.len()),
        ));
    }
    let mut given: Vec<Assignment> = Vec::with_capacity(columns.len());
    for (name, value) in columns.iter().zip(row.iter()) {
        let column = column_of(table, name)?;
        if given.iter().any(|a| a.column == column) {
            return Err(Error::new(ErrorCode::SchemaMismatch, format!("column '{column}' is given twice")));
        }
        given.push(Assignment { column, value: expression(state, value, &scopes.source)? });
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::statement::split_statements;
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn stars_and_common_table_expressions_parse() {
        let sql = "WITH s AS (SELECT 1 * 2 AS id) MERGE INTO ns.t AS a USING s ON a.id = s.id \
             WHEN MATCHED AND s.id * 2 > 3 THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT * \
             WHEN NOT MATCHED BY SOURCE THEN DELETE";
        let tokens = split_statements(sql, &GenericDialect {}).unwrap().remove(0);
        let parsed = parse_merge(&tokens, &GenericDialect {}).unwrap().unwrap();
        assert!(parsed.with.unwrap().starts_with("WITH s AS"));
        assert_eq!(parsed.merge.clauses.len(), 3);
        let select = split_statements("SELECT 1", &GenericDialect {}).unwrap().remove(0);
        assert!(parse_merge(&select, &GenericDialect {}).is_none());
    }
}
