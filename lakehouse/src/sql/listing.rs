//! What SHOW TABLES, SHOW VIEWS and SHOW NAMESPACES list: `[{IN | FROM} namespace] [[LIKE] 'pattern']`.

use datafusion::sql::sqlparser::ast::ObjectName;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::Result;

use super::statement::{expect_end, parse_error};
use super::words::{accept, text};

/// A listing as written.
#[derive(Debug, Default)]
pub struct Listing {
    pub namespace: Option<ObjectName>,
    /// Spark's pattern: `*` stands for anything, `|` separates alternatives, letter case is ignored.
    pub pattern: Option<String>,
}

/// Parses what follows `SHOW TABLES`.
pub fn parse_listing(parser: &mut Parser<'_>) -> Result<Listing> {
    let mut listing = Listing::default();
    if accept(parser, "IN") || accept(parser, "FROM") {
        listing.namespace = Some(parser.parse_object_name(false).map_err(parse_error)?);
    }
    let like = accept(parser, "LIKE");
    if like || matches!(parser.peek_token_ref().token, Token::SingleQuotedString(_)) {
        listing.pattern = Some(text(parser)?);
    }
    expect_end(parser)?;
    Ok(listing)
}

impl Listing {
    /// Whether a name is listed.
    pub fn lists(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.pattern.as_ref().is_none_or(|pattern| pattern.to_lowercase().split('|').any(|one| fits(one.trim(), &name)))
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let lists = |pattern: &str, name: &str| Listing { namespace: None, pattern: Some(pattern.to_owned()) }.lists(name);
        assert!(lists("b*_events", "bronze_user_EVENTS") && lists("*", "x") && lists("a|s*r", "silver") && lists("a*b*c", "a1b2c"));
        assert!(!lists("b*_events", "bronze") && !lists("a", "ab") && !lists("ab*ba", "aba"));
    }
}
