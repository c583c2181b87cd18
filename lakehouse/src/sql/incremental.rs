//! Reads of what happened between two snapshots, as table functions:
//!
//! - `incremental_append('t', after [, until])`: rows that appends added (Spark's read options `start-snapshot-id`,
//!   exclusive, and `end-snapshot-id`, inclusive);
//! - `table_changes('t' [, after [, until]])`: the table's rows with `_change_type`, `_change_ordinal` and
//!   `_commit_snapshot_id`, as `t.changes` gives for the whole history.
//!
//! Snapshots are named by id, or by branch or tag in quotes; NULL leaves an end open. Before parsing the call becomes a name,
//! `ns."t@changes:1:2"`, which the schema provider resolves.

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use chainalytics_common::{Error, ErrorCode, Result};

use super::statement::{parse_error, parser, syntax_error};
use super::time_travel::VERSION_MARK;
use crate::scan::{Incremental, SnapshotRange};
use crate::table::Table;

const CHANGES: &str = "changes";
const APPENDS: &str = "appends";

/// Rewrites calls of the table functions.
pub fn rewrite_incremental(tokens: Vec<TokenWithSpan>, dialect: &dyn Dialect) -> Result<Vec<TokenWithSpan>> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        let Some((function, kind)) = call_at(&tokens, i) else {
            out.push(tokens[i].clone());
            i += 1;
            continue;
        };
        let span = tokens[i].span;
        let mut rest = parser(dialect, tokens[i + 2..].to_vec());
        let arguments = rest.parse_comma_separated(|parser| parser.parse_expr()).map_err(parse_error)?;
        rest.expect_token(&Token::RParen).map_err(parse_error)?;
        i += 2 + rest.index();
        let values: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (table, ends) = match values.as_slice() {
            [table, ends @ ..] if ends.len() <= 2 && (kind == CHANGES || !ends.is_empty()) => (unquote(table), ends),
            _ => return Err(syntax_error(&format!("{function} takes ('table', snapshot after which it begins, last snapshot)"))),
        };
        let Some(table) = table else {
            return Err(syntax_error(&format!("{function}: the table's name stands in quotes, 't' or 'namespace.t'")));
        };
        let end = |at: usize| -> Result<String> {
            match ends.get(at).map(String::as_str) {
                None => Ok(String::new()),
                Some(null) if null.eq_ignore_ascii_case("null") => Ok(String::new()),
                Some(id) if id.parse::<i64>().is_ok() => Ok(id.to_owned()),
                Some(other) => {
                    unquote(other).ok_or_else(|| syntax_error(&format!("{function}: '{other}' is neither a snapshot's id nor a branch or tag in quotes")))
                }
            }
        };
        let mark = format!("{VERSION_MARK}{kind}:{}:{}", end(0)?, end(1)?);
        let word = |value: String| TokenWithSpan {
            token: Token::Word(Word { value, quote_style: Some('"'), keyword: Keyword::NoKeyword }),
            span,
        };
        let mut parts: Vec<String> = table.split('.').map(|part| part.trim_matches('`').to_owned()).collect();
        let Some(name) = parts.pop().filter(|name| !name.is_empty()) else {
            return Err(syntax_error(&format!("{function}: an empty table name")));
        };
        for part in parts {
            out.extend([word(part), TokenWithSpan { token: Token::Period, span }]);
        }
        out.push(word(format!("{name}{mark}")));
        if !has_alias(tokens.get(i).map(|t| &t.token)) {
            out.extend([TokenWithSpan { token: Token::make_keyword("AS"), span }, word(name)]);
        }
    }
    Ok(out)
}

fn call_at(tokens: &[TokenWithSpan], at: usize) -> Option<(&'static str, &'static str)> {
    let Token::Word(word) = &tokens[at].token else { return None };
    if word.quote_style.is_some() || tokens.get(at + 1).map(|t| &t.token) != Some(&Token::LParen) {
        return None;
    }
    [("incremental_append", APPENDS), ("table_changes", CHANGES)].into_iter().find(|(name, _)| word.value.eq_ignore_ascii_case(name))
}

fn has_alias(next: Option<&Token>) -> bool {
    match next {
        Some(Token::Word(word)) => word.quote_style.is_some() || word.keyword == Keyword::AS || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword),
        _ => false,
    }
}

fn unquote(text: &str) -> Option<String> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}

/// The internal name of a table's change log.
pub fn changes_name(table: &str, range: SnapshotRange) -> String {
    let text = |id: Option<i64>| id.map(|id| id.to_string()).unwrap_or_default();
    format!("{table}{VERSION_MARK}{CHANGES}:{}:{}", text(range.after), text(range.until))
}

/// What `t@<mark>` asks for, if it is an incremental read.
pub fn parse_mark(table: &Table, mark: &str) -> Option<Result<Incremental>> {
    let (kind, ends) = mark.split_once(':')?;
    let make = match kind {
        CHANGES => Incremental::Changes,
        APPENDS => Incremental::Appends,
        _ => return None,
    };
    let (after, until) = ends.rsplit_once(':')?;
    let end = |text: &str| match (text, text.parse()) {
        ("", _) => Ok(None),
        (_, Ok(id)) => Ok(Some(id)),
        (name, _) => match table.find_ref(name)? {
            Some(found) => Ok(Some(found.snapshot_id)),
            None => Err(Error::new(ErrorCode::SnapshotNotFound, format!("table {} has no snapshot, branch or tag '{name}'", table.ident()))),
        },
    };
    Some(end(after).and_then(|after| Ok(make(SnapshotRange { after, until: end(until)? }))))
}
