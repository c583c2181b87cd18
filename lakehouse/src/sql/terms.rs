//! Partition and sort terms in Spark's spelling: a column, `bucket(16, id)` or `bucket(id, 16)`, `truncate(4, name)`,
//! `days(ts)`.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::Result;

use super::statement::{parse_error, syntax_error};
use super::words::{accept, expected, path};
use crate::commit::{PartitionTarget, SortTerm, Term};

/// Parses a term.
pub fn parse_term(parser: &mut Parser<'_>) -> Result<Term> {
    let column = path(parser)?;
    match column.as_slice() {
        [function] if parser.peek_token_ref().token == Token::LParen => {
            parser.advance_token();
            transform_term(parser, function)
        }
        _ => Ok(Term { column, transform: "identity".to_owned() }),
    }
}

/// Parses what follows `bucket(`, `days(`, …
pub fn transform_term(parser: &mut Parser<'_>, function: &str) -> Result<Term> {
    let mut column = None;
    let mut number = None;
    loop {
        match parser.peek_token().token {
            Token::Number(digits, _) if number.is_none() => {
                parser.advance_token();
                number = Some(digits.parse::<u32>().map_err(|_| syntax_error(&format!("'{digits}' is no width")))?);
            }
            Token::Word(_) if column.is_none() => column = Some(path(parser)?),
            _ => return Err(expected(parser, &format!("a column or a width in {function}(…)"))),
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map_err(parse_error)?;
    let Some(column) = column else {
        return Err(syntax_error(&format!("the partition term {function}(…) names no column")));
    };
    let transform = match (function.to_ascii_lowercase().as_str(), number) {
        ("year" | "years", None) => "year".to_owned(),
        ("month" | "months", None) => "month".to_owned(),
        ("day" | "days" | "date", None) => "day".to_owned(),
        ("hour" | "hours" | "date_hour", None) => "hour".to_owned(),
        ("identity", None) => "identity".to_owned(),
        ("bucket", Some(n)) if n > 0 && i32::try_from(n).is_ok() => format!("bucket[{n}]"),
        ("truncate", Some(n)) if n > 0 && i32::try_from(n).is_ok() => format!("truncate[{n}]"),
        _ => {
            return Err(syntax_error(&format!(
                "unknown partition term {function}: use a column, years(c), months(c), days(c), hours(c), bucket(n, c) or truncate(n, c)"
            )));
        }
    };
    Ok(Term { column, transform })
}

/// Parses the partition field that a DROP or REPLACE means.
pub fn parse_target(parser: &mut Parser<'_>) -> Result<PartitionTarget> {
    let term = parse_term(parser)?;
    Ok(match term.column.as_slice() {
        [word] if term.transform == "identity" => PartitionTarget::Word(word.clone()),
        _ => PartitionTarget::Term(term),
    })
}

/// Parses `term [ASC | DESC] [NULLS FIRST | LAST]`.
pub fn parse_sort_term(parser: &mut Parser<'_>) -> Result<SortTerm> {
    let term = parse_term(parser)?;
    let descending = accept(parser, "DESC");
    if !descending {
        let _ascending = accept(parser, "ASC");
    }
    // Iceberg's defaults: nulls are the smallest.
    let nulls_first = if accept(parser, "NULLS FIRST") { true } else { !(accept(parser, "NULLS LAST") || descending) };
    Ok(SortTerm { term, descending, nulls_first })
}
