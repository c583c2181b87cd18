//! Column names are case-insensitive, as in Spark, but keep the case they were created with. DataFusion lowers
//! unquoted identifiers and then compares exactly, so identifiers that mean a mixed-case column of a referenced
//! table are quoted with that column's spelling before the statement is planned.

use std::collections::HashMap;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// Spellings of the columns whose names are not all lower case, by lower-case name.
#[derive(Debug, Default)]
pub struct MixedCase {
    /// `None` where two tables spell the name differently: it must then be quoted by the writer.
    spellings: HashMap<String, Option<String>>,
}

impl MixedCase {
    pub fn add(&mut self, column: &str) {
        let lower = column.to_lowercase();
        self.spellings
            .entry(lower)
            .and_modify(|known| {
                if known.as_deref() != Some(column) {
                    *known = None;
                }
            })
            .or_insert_with(|| Some(column.to_string()));
    }

    /// Quotes the identifiers that mean a mixed-case column; says whether there were any.
    pub fn apply(&self, tokens: &mut [TokenWithSpan]) -> bool {
        if self.spellings.iter().all(|(lower, s)| s.as_ref().is_none_or(|s| s == lower)) {
            return false;
        }
        let mut changed = false;
        for i in 0..tokens.len() {
            let call = matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::LParen));
            let literal = matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::SingleQuotedString(_)));
            let before = i.checked_sub(1).map(|before| &tokens[before].token);
            let cast = match before {
                Some(Token::Word(word)) => word.keyword == Keyword::AS,
                Some(token) => *token == Token::DoubleColon,
                None => false,
            };
            let Token::Word(word) = &mut tokens[i].token else { continue };
            if word.quote_style.is_some() || call {
                continue;
            }
            // `DATE '…'` and `CAST(x AS DATE)` name a type even where a column is called "Date".
            let names_type = matches!(word.keyword, Keyword::DATE | Keyword::TIME | Keyword::TIMESTAMP | Keyword::DATETIME | Keyword::INTERVAL);
            if names_type && (literal || cast) {
                continue;
            }
            if let Some(Some(spelling)) = self.spellings.get(&word.value.to_lowercase())
                && *spelling != word.value.to_lowercase()
            {
                word.value.clone_from(spelling);
                word.quote_style = Some('"');
                word.keyword = Keyword::NoKeyword;
                changed = true;
            }
        }
        changed
    }
}
