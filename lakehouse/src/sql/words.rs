//! Small steps of parsing for Iceberg's own statements, whose words SQL does not reserve.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::Result;

use super::statement::{parse_error, syntax_error};

/// Whether the next words are these (separated by spaces, letter case ignored, not quoted).
pub fn next_are(parser: &Parser<'_>, words: &str) -> bool {
    words.split(' ').enumerate().all(|(i, word)| match &parser.peek_nth_token_ref(i).token {
        Token::Word(next) => next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word),
        _ => false,
    })
}

/// Takes the next words if they are these; all or none.
pub fn accept(parser: &mut Parser<'_>, words: &str) -> bool {
    let found = next_are(parser, words);
    if found {
        for _ in words.split(' ') {
            parser.advance_token();
        }
    }
    found
}

/// Takes these words.
pub fn expect(parser: &mut Parser<'_>, words: &str) -> Result<()> {
    if accept(parser, words) { Ok(()) } else { Err(expected(parser, words)) }
}

/// The error for what stands at the parser's place.
pub fn expected(parser: &Parser<'_>, what: &str) -> chainalytics_common::Error {
    let next = parser.peek_token_ref();
    match &next.token {
        Token::EOF => syntax_error(&format!("expected {what}, found the end of the statement")),
        token => syntax_error(&format!("expected {what}, found '{token}' at line {}, column {}", next.span.start.line, next.span.start.column)),
    }
}

/// An identifier without its quotes.
pub fn name(parser: &mut Parser<'_>) -> Result<String> {
    parser.parse_identifier().map(|ident| ident.value).map_err(parse_error)
}

/// A column's name, levels separated by dots.
pub fn path(parser: &mut Parser<'_>) -> Result<Vec<String>> {
    let mut path = vec![name(parser)?];
    while parser.consume_token(&Token::Period) {
        path.push(name(parser)?);
    }
    Ok(path)
}

/// A string in quotes.
pub fn text(parser: &mut Parser<'_>) -> Result<String> {
    parser.parse_literal_string().map_err(parse_error)
}

/// A whole number, with a sign or in quotes too.
pub fn number(parser: &mut Parser<'_>, what: &str) -> Result<i64> {
    let negative = parser.consume_token(&Token::Minus);
    let digits = match parser.peek_token().token {
        Token::Number(digits, _) | Token::SingleQuotedString(digits) => digits,
        _ => return Err(expected(parser, what)),
    };
    let value: i64 = digits.parse().map_err(|_| expected(parser, what))?;
    parser.advance_token();
    Ok(if negative { value.saturating_neg() } else { value })
}

/// One or more of something, in parentheses or (if `bare`) without.
pub fn list<T>(parser: &mut Parser<'_>, bare: bool, mut one: impl FnMut(&mut Parser<'_>) -> Result<T>) -> Result<Vec<T>> {
    let open = parser.consume_token(&Token::LParen);
    if !open && !bare {
        return Err(expected(parser, "("));
    }
    let mut all = vec![one(parser)?];
    while parser.consume_token(&Token::Comma) {
        all.push(one(parser)?);
    }
    if open {
        parser.expect_token(&Token::RParen).map_err(parse_error)?;
    }
    Ok(all)
}
