//! `SET spark.… = value` and `RESET spark.…`: the session's settings, their values in quotes or bare as Spark takes them.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use chainalytics_common::{Error, ErrorCode, Result};

use super::ddl::text_batch;
use super::statement::keyword_of;
use super::{Runner, StatementResult, rows};
use crate::settings::SessionSettings;

/// A parsed SET or RESET of one of our keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetStatement {
    /// `SET key = value`; an empty value unsets.
    Put { key: String, value: String },
    /// `SET key`.
    Show { key: String },
}

/// Parses a statement about a key that begins with `spark.`; `None` if it is something else.
pub fn parse_set(tokens: &[TokenWithSpan]) -> Option<SetStatement> {
    let (first, rest) = tokens.split_first()?;
    let reset = keyword_of(&first.token) == Keyword::RESET;
    let ours = matches!(&rest.first()?.token, Token::Word(word) if word.value.eq_ignore_ascii_case("spark"));
    if !(reset || keyword_of(&first.token) == Keyword::SET) || !ours {
        return None;
    }
    let equals = rest.iter().position(|token| token.token == Token::Eq);
    let (key, value) = rest.split_at(equals.unwrap_or(rest.len()));
    let key = key.iter().map(text).collect();
    Some(match (reset, equals) {
        (true, _) => SetStatement::Put { key, value: String::new() },
        (false, None) => SetStatement::Show { key },
        (false, Some(_)) => SetStatement::Put { key, value: value.iter().skip(1).map(text).collect() },
    })
}

fn text(token: &TokenWithSpan) -> String {
    match &token.token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Runner<'_> {
    pub(super) fn set(&self, statement: &SetStatement) -> Result<StatementResult> {
        match statement {
            SetStatement::Put { key, value } => {
                let state = self.ctx.state_ref();
                let mut state = state.write();
                let settings = state.config_mut().options_mut().extensions.get_mut::<SessionSettings>();
                let settings = settings.ok_or_else(|| Error::new(ErrorCode::Internal, "the session was opened without its settings"))?;
                settings.put(key, value)?;
                Ok(StatementResult::Ok)
            }
            SetStatement::Show { key } => {
                let settings = SessionSettings::of(&self.ctx.state());
                let value = settings.get(key).unwrap_or("<undefined>").to_owned();
                rows(text_batch(&[("key", vec![key.clone()]), ("value", vec![value])])?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::statement::split_statements;
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn values_may_be_bare() {
        let parse = |sql: &str| parse_set(&split_statements(sql, &GenericDialect {}).unwrap().remove(0));
        let put = |key: &str, value: &str| Some(SetStatement::Put { key: key.to_owned(), value: value.to_owned() });
        assert_eq!(parse("SET spark.wap.branch = audit-2"), put("spark.wap.branch", "audit-2"));
        assert_eq!(parse("set spark.sql.iceberg.distribution-mode='range'"), put("spark.sql.iceberg.distribution-mode", "range"));
        assert_eq!(parse("RESET spark.wap.id"), put("spark.wap.id", ""));
        assert_eq!(parse("SET spark.wap.id"), Some(SetStatement::Show { key: "spark.wap.id".to_owned() }));
        assert_eq!(parse("SET datafusion.execution.batch_size = 1"), None);
    }
}
