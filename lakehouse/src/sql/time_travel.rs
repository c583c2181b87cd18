//! Time travel: `t VERSION AS OF 123`, `t FOR VERSION AS OF 'branch'`, `t TIMESTAMP AS OF '…'`,
//! `t FOR SYSTEM_TIME AS OF …`.
//!
//! DataFusion's planner silently ignores the version of a table factor (it would return today's rows), so
//! the clause is rewritten before parsing: `ns.t VERSION AS OF 5` becomes `ns."t@version:5" AS t`, a name which
//! the schema provider resolves to a table pinned to that snapshot.

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use chainalytics_common::Result;

use super::statement::{keyword_of, parse_error, parser, syntax_error};

/// A time-travel clause whose value is an expression, to be computed by the driver before planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsOf {
    /// The name that stands in the rewritten statement, `t@timestamp:<placeholder>`.
    pub marker: String,
    /// The SQL expression that gives the point in time.
    pub expression: String,
}

/// Separates a table's name from its pinned version in an internal name.
pub const VERSION_MARK: char = '@';

/// Rewrites each `AS OF` clause of a statement. Literal versions are resolved by name alone; time expressions
/// are returned too, because the driver must compute them once.
pub fn rewrite_time_travel(tokens: Vec<TokenWithSpan>, dialect: &dyn Dialect) -> Result<(Vec<TokenWithSpan>, Vec<AsOf>)> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut as_of = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let Some((kind, value_at)) = clause_at(&tokens, i) else {
            out.push(tokens[i].clone());
            i += 1;
            continue;
        };
        let Some(TokenWithSpan { token: Token::Word(name), span }) = out.pop() else {
            return Err(syntax_error("AS OF must follow a table name"));
        };
        let mut rest = parser(dialect, tokens[value_at..].to_vec());
        let expression = rest.parse_expr().map_err(parse_error)?;
        // `index()` counts the tokens taken from `tokens[value_at..]`.
        let after = value_at + rest.index();
        let text = expression.to_string();
        let marker = match kind {
            Kind::Version => format!("{}{VERSION_MARK}version:{}", name.value, unquote(&text)),
            Kind::Time => {
                let marker = format!("{}{VERSION_MARK}timestamp:#{}", name.value, as_of.len());
                as_of.push(AsOf { marker: marker.clone(), expression: text });
                marker
            }
        };
        let quoted = |value: &str| TokenWithSpan {
            token: Token::Word(Word { value: value.to_string(), quote_style: Some('"'), keyword: Keyword::NoKeyword }),
            span,
        };
        out.push(quoted(&marker));
        if !has_alias(tokens.get(after).map(|t| &t.token)) {
            out.push(TokenWithSpan { token: Token::make_keyword("AS"), span });
            out.push(TokenWithSpan { token: Token::Word(name), span });
        }
        i = after;
    }
    Ok((out, as_of))
}

#[derive(Clone, Copy)]
enum Kind {
    Version,
    Time,
}

/// Recognises `[FOR] (VERSION | SYSTEM_VERSION | TIMESTAMP | SYSTEM_TIME) AS OF` and says where its value starts.
fn clause_at(tokens: &[TokenWithSpan], at: usize) -> Option<(Kind, usize)> {
    if at == 0 {
        return None;
    }
    let word = |i: usize| tokens.get(i).map_or(Keyword::NoKeyword, |t| keyword_of(&t.token));
    let i = if word(at) == Keyword::FOR { at + 1 } else { at };
    let name = match tokens.get(i).map(|t| &t.token) {
        Some(Token::Word(w)) if w.quote_style.is_none() => w.value.to_ascii_uppercase(),
        _ => return None,
    };
    let kind = match name.as_str() {
        "VERSION" | "SYSTEM_VERSION" => Kind::Version,
        "TIMESTAMP" | "SYSTEM_TIME" => Kind::Time,
        _ => return None,
    };
    let is_of = |i: usize| matches!(tokens.get(i).map(|t| &t.token), Some(Token::Word(w)) if w.value.eq_ignore_ascii_case("of"));
    (word(i + 1) == Keyword::AS && is_of(i + 2)).then_some((kind, i + 3))
}

fn has_alias(next: Option<&Token>) -> bool {
    match next {
        Some(Token::Word(word)) => word.quote_style.is_some() || word.keyword == Keyword::AS || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword),
        _ => false,
    }
}

fn unquote(text: &str) -> String {
    text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).map_or_else(|| text.to_string(), |t| t.replace("''", "'"))
}

/// Puts a computed time into the statement: `t@timestamp:#0` becomes `t@timestamp:<milliseconds since 1970 UTC>`.
pub fn resolve_marker(tokens: &mut [TokenWithSpan], as_of: &AsOf, timestamp_ms: i64) {
    let stem = as_of.marker.rsplit_once('#').map_or(as_of.marker.as_str(), |(stem, _)| stem);
    for token in tokens {
        if let Token::Word(word) = &mut token.token
            && word.value == as_of.marker
        {
            word.value = format!("{stem}{timestamp_ms}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::statement::split_statements;
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    fn rewrite(sql: &str) -> (String, Vec<AsOf>) {
        let dialect = GenericDialect {};
        let tokens = split_statements(sql, &dialect).unwrap().remove(0);
        let (tokens, as_of) = rewrite_time_travel(tokens, &dialect).unwrap();
        let text: Vec<String> = tokens.iter().map(|t| t.token.to_string()).collect();
        (text.join(" "), as_of)
    }

    #[test]
    fn versions_become_marker_names_and_keep_the_alias() {
        assert_eq!(rewrite("select * from ns.t version as of 12 where a = 1").0, "select * from ns . \"t@version:12\" AS t where a = 1");
        assert_eq!(
            rewrite("select x.a from t for version as of 'v1' as x join u on 1=1").0,
            "select x . a from \"t@version:v1\" as x join u on 1 = 1"
        );
    }

    #[test]
    fn times_are_left_to_the_driver() {
        let (text, as_of) = rewrite("select * from t for system_time as of now() - interval '1' day x");
        assert_eq!(text, "select * from \"t@timestamp:#0\" x");
        assert_eq!(as_of[0].marker, "t@timestamp:#0");
        assert!(as_of[0].expression.to_lowercase().starts_with("now() - interval '1' day"));
    }
}
