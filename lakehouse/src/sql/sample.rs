//! TABLESAMPLE in the spelling of Spark and of the standard, as the subquery that it stands for: the planner would leave
//! the clause out silently.
//!
//! | clause | rows |
//! |---|---|
//! | `TABLESAMPLE (10 PERCENT)`, `TABLESAMPLE BERNOULLI (10)` | each with this probability |
//! | `TABLESAMPLE (5 ROWS)` | any five |
//! | `TABLESAMPLE (BUCKET 1 OUT OF 4)` | each with probability 1/4 |

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectNamePart, Query, TableAlias, TableFactor, TableSample, TableSampleKind, TableSampleMethod, TableSampleModifier, TableSampleUnit,
    Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use chainalytics_common::{Error, Result};

use super::statement::{keyword_of, parse_error, syntax_error};
use super::unsupported;

/// Puts an alias that follows TABLESAMPLE, where Spark has it, before it, where the parser looks for it.
pub fn put_alias_first(tokens: &mut [TokenWithSpan]) {
    let mut at = 0;
    while at < tokens.len() {
        if keyword_of(&tokens[at].token) == Keyword::TABLESAMPLE
            && let Some(end) = end_of_sample(tokens, at)
        {
            let named = keyword_of_at(tokens, end) == Keyword::AS;
            let alias = if named { end + 1 } else { end };
            if is_alias(tokens, alias, named) {
                tokens[at..=alias].rotate_right(alias + 1 - end);
            }
            at = end;
        }
        at += 1;
    }
}

fn keyword_of_at(tokens: &[TokenWithSpan], at: usize) -> Keyword {
    tokens.get(at).map_or(Keyword::NoKeyword, |token| keyword_of(&token.token))
}

fn is_alias(tokens: &[TokenWithSpan], at: usize, named: bool) -> bool {
    match tokens.get(at).map(|token| &token.token) {
        Some(Token::Word(word)) => named || word.quote_style.is_some() || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword),
        _ => false,
    }
}

/// Where the clause that begins at `at` ends, if it is one.
fn end_of_sample(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let method = matches!(keyword_of_at(tokens, at + 1), Keyword::BERNOULLI | Keyword::SYSTEM | Keyword::ROW | Keyword::BLOCK);
    let end = end_of_parentheses(tokens, at + 1 + usize::from(method))?;
    match keyword_of_at(tokens, end) {
        Keyword::REPEATABLE | Keyword::SEED => end_of_parentheses(tokens, end + 1),
        _ => Some(end),
    }
}

fn end_of_parentheses(tokens: &[TokenWithSpan], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (at > start).then_some(at + 1);
        }
    }
    None
}

/// Makes subqueries of the samples of a statement.
///
/// # Errors
/// `SqlUnsupported` for repeatable samples and those of blocks; `SqlSyntax` for a number that makes no sense.
pub fn expand_samples(statement: &mut DfStatement) -> Result<()> {
    let statement = match statement {
        DfStatement::Statement(statement) => statement,
        DfStatement::Explain(explain) => return expand_samples(&mut explain.statement),
        _ => return Ok(()),
    };
    match VisitMut::visit(statement.as_mut(), &mut Expand) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Expand;

impl VisitorMut for Expand {
    type Break = Error;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match expand(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn expand(factor: &mut TableFactor) -> Result<()> {
    let (sample, alias) = match factor {
        TableFactor::Table { name, alias, sample, .. } => {
            let own = name.0.last().and_then(ObjectNamePart::as_ident).cloned();
            (sample.take(), alias.clone().or_else(|| own.map(named)))
        }
        TableFactor::Derived { alias, sample, .. } => (sample.take(), alias.clone()),
        _ => return Ok(()),
    };
    let Some(TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = sample else { return Ok(()) };
    let text = format!("SELECT * FROM {factor} {}", chosen(&sample)?);
    let query: Box<Query> = Parser::new(&GenericDialect {}).try_with_sql(&text).and_then(|mut parser| parser.parse_query()).map_err(parse_error)?;
    *factor = TableFactor::Derived { lateral: false, subquery: query, alias, sample: None };
    Ok(())
}

fn named(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: Vec::new(), at: None }
}

/// What leaves the rows of a sample.
fn chosen(sample: &TableSample) -> Result<String> {
    if sample.seed.is_some() {
        return Err(unsupported("a repeatable sample (write the rows of one to a table)"));
    }
    if let Some(method @ (TableSampleMethod::System | TableSampleMethod::Block)) = &sample.name {
        return Err(unsupported(&format!("TABLESAMPLE {method} (use BERNOULLI, which draws rows)")));
    }
    if sample.offset.is_some() {
        return Err(unsupported("TABLESAMPLE with an OFFSET"));
    }
    if let Some(bucket) = &sample.bucket {
        if bucket.on.is_some() {
            return Err(unsupported("TABLESAMPLE (BUCKET … ON …)"));
        }
        let number = |value: &Value| match value {
            Value::Number(digits, _) => digits.parse::<u32>().ok(),
            _ => None,
        };
        return match (number(&bucket.bucket.value), number(&bucket.total.value)) {
            (Some(one), Some(all)) if one <= all && all > 0 => Ok(format!("WHERE random() * {all} < {one}")),
            _ => Err(syntax_error(&format!("TABLESAMPLE ({bucket}): the bucket must be one of those there are"))),
        };
    }
    let Some(quantity) = &sample.quantity else { return Err(syntax_error("TABLESAMPLE without a quantity")) };
    let number = match &quantity.value {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits.to_string()),
            _ => None,
        },
        _ => None,
    };
    let number = number.ok_or_else(|| unsupported(&format!("TABLESAMPLE of {}, which is no number of rows or percent", quantity.value)))?;
    // Without a unit the standard's methods take percent, and Spark takes nothing.
    let percent = match quantity.unit {
        Some(TableSampleUnit::Percent) => true,
        Some(TableSampleUnit::Rows) => false,
        None if sample.name.is_some() || sample.modifier == TableSampleModifier::Sample => true,
        None => return Err(syntax_error(&format!("TABLESAMPLE ({number}): say whether these are PERCENT or ROWS"))),
    };
    match percent {
        true if number.parse::<f64>().is_ok_and(|share| (0.0..=100.0).contains(&share)) => Ok(format!("WHERE random() * 100 < {number}")),
        true => Err(syntax_error(&format!("TABLESAMPLE ({number} PERCENT): it must be between 0 and 100"))),
        false if number.parse::<u64>().is_ok() => Ok(format!("LIMIT {number}")),
        false => Err(syntax_error(&format!("TABLESAMPLE ({number} ROWS): it must be a whole number"))),
    }
}
