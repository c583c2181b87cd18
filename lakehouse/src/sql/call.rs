//! `CALL [catalog.]system.procedure(name => value, …)`, and the same with values by position.
//!
//! Values are literals, expressions with one value (a subquery on `t.snapshots` finds an id), `map('key', 'value', …)` and
//! `array(1, 2)`.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

use super::names::part_value;
use super::procedures::{self, Arguments};
use super::statement::{expect_end, parse_error, parser, syntax_error};
use super::{Runner, StatementResult, plan_query, rows};

/// The namespace of procedures.
const SYSTEM: &str = "system";

/// A parsed CALL.
#[derive(Debug)]
pub struct CallStatement {
    pub name: ObjectName,
    pub arguments: Vec<Argument>,
}

/// One argument as written.
#[derive(Debug)]
pub struct Argument {
    /// `None` for one by position.
    pub name: Option<String>,
    pub value: Written,
}

/// A value as written.
#[derive(Debug)]
pub enum Written {
    Scalar(Box<Expr>),
    Map(Vec<Expr>),
    Array(Vec<Expr>),
}

/// Parses what follows `CALL`.
pub fn parse_call(dialect: &dyn Dialect, tokens: Vec<TokenWithSpan>) -> Result<CallStatement> {
    let mut parser = parser(dialect, tokens);
    let name = parser.parse_object_name(false).map_err(parse_error)?;
    parser.expect_token(&Token::LParen).map_err(parse_error)?;
    let mut arguments = Vec::new();
    if !parser.consume_token(&Token::RParen) {
        loop {
            arguments.push(parse_argument(&mut parser)?);
            if parser.consume_token(&Token::RParen) {
                break;
            }
            parser.expect_token(&Token::Comma).map_err(parse_error)?;
        }
    }
    expect_end(&parser)?;
    Ok(CallStatement { name, arguments })
}

fn parse_argument(parser: &mut Parser<'_>) -> Result<Argument> {
    let named = matches!(parser.peek_nth_token(1).token, Token::RArrow | Token::Assignment);
    let name = match (named, parser.peek_token().token) {
        (true, Token::Word(word)) => {
            parser.next_token();
            parser.next_token();
            Some(word.value.to_lowercase())
        }
        (true, other) => return Err(syntax_error(&format!("'{other}' cannot be the name of an argument"))),
        (false, _) => None,
    };
    Ok(Argument { name, value: parse_value(parser)? })
}

fn parse_value(parser: &mut Parser<'_>) -> Result<Written> {
    let word = match parser.peek_token().token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_lowercase(),
        _ => String::new(),
    };
    let (open, close) = match (word.as_str(), parser.peek_nth_token(1).token) {
        ("map" | "array", Token::LParen) => (Token::LParen, Token::RParen),
        ("array", Token::LBracket) => (Token::LBracket, Token::RBracket),
        _ => return Ok(Written::Scalar(Box::new(parser.parse_expr().map_err(parse_error)?))),
    };
    parser.next_token();
    parser.expect_token(&open).map_err(parse_error)?;
    let mut items = Vec::new();
    if !parser.consume_token(&close) {
        items = parser.parse_comma_separated(Parser::parse_expr).map_err(parse_error)?;
        parser.expect_token(&close).map_err(parse_error)?;
    }
    Ok(if word == "map" { Written::Map(items) } else { Written::Array(items) })
}

impl Runner<'_> {
    pub(super) async fn call(&self, call: CallStatement) -> Result<StatementResult> {
        let parts: Vec<String> = call.name.0.iter().map(part_value).collect();
        let catalogs = self.ctx.catalog_names();
        let name = match parts.as_slice() {
            [system, name] if system.eq_ignore_ascii_case(SYSTEM) => name,
            [catalog, system, name] if system.eq_ignore_ascii_case(SYSTEM) => {
                if !catalogs.iter().any(|known| known.eq_ignore_ascii_case(catalog)) {
                    return Err(Error::new(
                        ErrorCode::ProcedureNotFound,
                        format!("there is no catalog '{catalog}'; there is {}", catalogs.join(", ")),
                    ));
                }
                name
            }
            _ => {
                return Err(Error::new(
                    ErrorCode::ProcedureNotFound,
                    format!("there is no procedure {}; procedures are called as {SYSTEM}.<name>", call.name),
                ));
            }
        };
        let procedure = procedures::find(name)?;
        let arguments = Arguments::bind(self, procedure, call.arguments).await?;
        let batch: RecordBatch = (procedure.run)(self, &arguments).await?;
        rows(batch)
    }

    /// The value of an expression that is no literal, a subquery perhaps; `None` for NULL.
    pub(super) async fn scalar(&self, expression: &Expr, data_type: DataType) -> Result<Option<ScalarValue>> {
        let wrong = |what: String| procedures::bad_argument(format!("argument {expression}: {what}"));
        let plan = plan_query(self.ctx, self.lakehouse, &format!("SELECT {expression} AS value")).await.map_err(|e| wrong(e.message().to_owned()))?;
        let batches: Vec<RecordBatch> = self.executor.execute_logical(plan).await?.try_collect().await.map_err(Error::from_datafusion)?;
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let batch = batches.iter().find(|batch| batch.num_rows() == 1).filter(|_| count == 1);
        let column = batch.ok_or_else(|| wrong(format!("{count} values")))?.column(0);
        let column = cast(column, &data_type).map_err(|e| wrong(e.to_string()))?;
        let value = ScalarValue::try_from_array(&column, 0).map_err(Error::from_datafusion)?;
        Ok((!value.is_null()).then_some(value))
    }

    /// A table's name in an argument: `t`, `ns.t`, `catalog.ns.t`, parts quoted where needed.
    pub(super) fn table_name(&self, text: &str) -> Result<crate::TableIdent> {
        // The dialect ends here: it cannot be held across an await.
        let dialect = super::dialect_of(&self.ctx.state())?;
        let name = Parser::new(dialect.as_ref())
            .try_with_sql(text)
            .and_then(|mut parser| {
                let name = parser.parse_object_name(false)?;
                parser.expect_token(&Token::EOF)?;
                Ok(name)
            })
            .map_err(|_| procedures::bad_argument(format!("'{text}' is not the name of a table")))?;
        // Backquotes are Spark's; the dialect may not know them as quotes.
        let parts = name.0.iter().map(|part| {
            let value = part_value(part);
            Ident::with_quote('"', value.trim_matches('`'))
        });
        super::names::ident_of(self.ctx, &ObjectName::from(parts.collect::<Vec<_>>()))
    }
}
