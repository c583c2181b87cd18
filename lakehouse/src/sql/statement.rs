//! From SQL text to statements: splits a script at `;`, recognises the statements that the driver plans
//! itself (DDL and DML on lakehouse tables) and hands everything else to DataFusion's parser.

use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{Delete, ObjectName, ObjectType, Statement as SqlStatement, Update};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use chainalytics_common::{Error, ErrorCode, Result};

use super::alter_parse::{AlterTable, parse_alter_table};
use super::call::{CallStatement, parse_call};
use super::create_table::{CreateMode, CreateTableStatement, parse_create_table};
use super::insert::{InsertClauses, InsertStatement, insert_of_query, take_clauses};
use super::listing::{Listing, parse_listing};
use super::merge::{MergeStatement, parse_merge};
use super::namespaces::{AlterNamespace, CreateNamespace, parse_alter_namespace, parse_create_namespace};
use super::session::{SessionStatement, parse_session};
use super::set::{SetStatement, parse_set};
use super::views::{CreateView, parse_create_view};
use super::words;

/// Nesting allowed in one expression: the parser is recursive, so that a hostile text must not exhaust the stack.
const RECURSION_LIMIT: usize = 128;

/// One parsed statement. Names are as written; resolving them is the planner's work.
#[derive(Debug)]
pub enum ParsedStatement {
    CreateTable(Box<CreateTableStatement>),
    DropTable {
        names: Vec<ObjectName>,
        if_exists: bool,
        purge: bool,
    },
    CreateView(Box<CreateView>),
    DropView {
        names: Vec<ObjectName>,
        if_exists: bool,
    },
    ShowViews(Listing),
    CreateNamespace(CreateNamespace),
    AlterNamespace(AlterNamespace),
    AlterTable(Box<AlterTable>),
    DropNamespace {
        names: Vec<ObjectName>,
        if_exists: bool,
        cascade: bool,
    },
    ShowNamespaces(Listing),
    ShowTables(Listing),
    ShowCreateTable {
        name: ObjectName,
    },
    ShowProperties {
        name: ObjectName,
        key: Option<String>,
    },
    Describe {
        name: ObjectName,
        extended: bool,
    },
    DescribeNamespace {
        name: ObjectName,
        extended: bool,
    },
    Insert(Box<InsertStatement>),
    Delete(Box<Delete>),
    Update(Box<Update>),
    Merge(Box<MergeStatement>),
    Set(SetStatement),
    Session(SessionStatement),
    Call(Box<CallStatement>),
    /// Everything that DataFusion plans: queries, EXPLAIN, SET, CREATE EXTERNAL TABLE, views, COPY.
    DataFusion(Box<DfStatement>),
}

/// Splits `sql` into the tokens of its statements, white space and comments removed.
pub fn split_statements(sql: &str, dialect: &dyn Dialect) -> Result<Vec<Vec<TokenWithSpan>>> {
    let tokens = Tokenizer::new(dialect, sql).tokenize_with_location().map_err(|e| syntax_error(&e.to_string()))?;
    let mut statements = Vec::new();
    let mut current = Vec::new();
    for token in tokens {
        match token.token {
            Token::Whitespace(_) => {}
            Token::SemiColon => {
                if !current.is_empty() {
                    statements.push(std::mem::take(&mut current));
                }
            }
            Token::EOF => {}
            _ => current.push(token),
        }
    }
    if !current.is_empty() {
        statements.push(current);
    }
    Ok(statements)
}

/// The texts of the statements of a script, for callers that run and report them one by one.
pub fn split_text(sql: &str) -> Result<Vec<String>> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(|e| syntax_error(&e.to_string()))?;
    let mut line_starts = vec![0];
    line_starts.extend(sql.char_indices().filter(|(_, c)| *c == '\n').map(|(i, _)| i + 1));
    // Columns count characters, from one.
    let offset = |line: u64, column: u64| {
        let start = usize::try_from(line).ok().and_then(|l| line_starts.get(l.saturating_sub(1)).copied()).unwrap_or(0);
        let skip = usize::try_from(column).unwrap_or(1).saturating_sub(1);
        sql[start..].char_indices().nth(skip).map_or(sql.len(), |(i, _)| start + i)
    };
    let mut statements = Vec::new();
    let mut start = 0;
    let mut seen = false;
    for token in &tokens {
        match token.token {
            Token::SemiColon => {
                let end = offset(token.span.start.line, token.span.start.column);
                if seen {
                    statements.push(sql[start..end].trim().to_string());
                }
                (start, seen) = (end + 1, false);
            }
            Token::Whitespace(_) | Token::EOF => {}
            _ => seen = true,
        }
    }
    if seen {
        statements.push(sql[start..].trim().to_string());
    }
    Ok(statements)
}

/// Parses the tokens of one statement, its time-travel clauses already rewritten (see `time_travel`).
pub fn parse_statement(mut tokens: Vec<TokenWithSpan>, dialect: &dyn Dialect) -> Result<ParsedStatement> {
    let session_view = take_temporary(&mut tokens);
    let word = |i: usize| tokens.get(i).map_or(Keyword::NoKeyword, |t| keyword_of(&t.token));
    let text = |i: usize| tokens.get(i).map(|t| t.token.to_string().to_ascii_uppercase()).unwrap_or_default();
    if let Some(merge) = parse_merge(&tokens, dialect) {
        return Ok(ParsedStatement::Merge(Box::new(merge?)));
    }
    if let Some(set) = parse_set(&tokens) {
        return Ok(ParsedStatement::Set(set));
    }
    if matches!(text(0).as_str(), "USE" | "SHOW" | "REFRESH" | "TRUNCATE" | "COMMENT")
        && let Some(statement) = parse_session(&mut parser(dialect, tokens.clone()))?
    {
        return Ok(ParsedStatement::Session(statement));
    }
    match word(0) {
        Keyword::CREATE => {
            let replace = word(1) == Keyword::OR && word(2) == Keyword::REPLACE;
            let at = if replace { 3 } else { 1 };
            if word(at) == Keyword::TABLE {
                let mut parser = parser(dialect, tokens[at + 1..].to_vec());
                let mode = if replace { CreateMode::CreateOrReplace } else { CreateMode::Create };
                let statement = parse_create_table(&mut parser, mode)?;
                expect_end(&parser)?;
                return Ok(ParsedStatement::CreateTable(Box::new(statement)));
            }
            if word(at) == Keyword::VIEW && !session_view {
                let mut parser = parser(dialect, tokens[at + 1..].to_vec());
                return Ok(ParsedStatement::CreateView(Box::new(parse_create_view(&mut parser, replace)?)));
            }
            if is_namespace_word(&text(at)) && !replace {
                let mut parser = parser(dialect, tokens[at + 1..].to_vec());
                let create = parse_create_namespace(&mut parser)?;
                expect_end(&parser)?;
                return Ok(ParsedStatement::CreateNamespace(create));
            }
        }
        Keyword::REPLACE if word(1) == Keyword::TABLE => {
            let mut parser = parser(dialect, tokens[2..].to_vec());
            let statement = parse_create_table(&mut parser, CreateMode::Replace)?;
            expect_end(&parser)?;
            return Ok(ParsedStatement::CreateTable(Box::new(statement)));
        }
        Keyword::ALTER if is_namespace_word(&text(1)) => {
            let mut parser = parser(dialect, tokens[2..].to_vec());
            let alter = parse_alter_namespace(&mut parser)?;
            expect_end(&parser)?;
            return Ok(ParsedStatement::AlterNamespace(alter));
        }
        Keyword::ALTER if word(1) == Keyword::TABLE => {
            let mut parser = parser(dialect, tokens[2..].to_vec());
            return Ok(ParsedStatement::AlterTable(Box::new(parse_alter_table(&mut parser)?)));
        }
        Keyword::DROP => {
            let kind = text(1);
            if matches!(word(1), Keyword::TABLE | Keyword::VIEW) || is_namespace_word(&kind) {
                let mut parser = parser(dialect, tokens[2..].to_vec());
                let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
                let names = parser.parse_comma_separated(|p| p.parse_object_name(false)).map_err(parse_error)?;
                let purge = parser.parse_keyword(Keyword::PURGE);
                let cascade = !parser.parse_keyword(Keyword::RESTRICT) && parser.parse_keyword(Keyword::CASCADE);
                expect_end(&parser)?;
                if word(1) == Keyword::VIEW {
                    return Ok(ParsedStatement::DropView { names, if_exists });
                }
                return Ok(if word(1) == Keyword::TABLE {
                    ParsedStatement::DropTable { names, if_exists, purge }
                } else {
                    ParsedStatement::DropNamespace { names, if_exists, cascade }
                });
            }
        }
        Keyword::SHOW => match text(1).as_str() {
            "SCHEMAS" | "NAMESPACES" | "DATABASES" => {
                return Ok(ParsedStatement::ShowNamespaces(parse_listing(&mut parser(dialect, tokens[2..].to_vec()))?));
            }
            "CREATE" if word(2) == Keyword::TABLE => {
                let mut parser = parser(dialect, tokens[3..].to_vec());
                let name = parser.parse_object_name(false).map_err(parse_error)?;
                let _serde = words::accept(&mut parser, "AS SERDE");
                expect_end(&parser)?;
                return Ok(ParsedStatement::ShowCreateTable { name });
            }
            "TBLPROPERTIES" => {
                let mut parser = parser(dialect, tokens[2..].to_vec());
                let name = parser.parse_object_name(false).map_err(parse_error)?;
                let key = match parser.peek_token().token {
                    Token::LParen => words::list(&mut parser, false, super::create_table::property_key)?.pop(),
                    _ => None,
                };
                expect_end(&parser)?;
                return Ok(ParsedStatement::ShowProperties { name, key });
            }
            kind @ ("TABLES" | "VIEWS") => {
                let listing = parse_listing(&mut parser(dialect, tokens[2..].to_vec()))?;
                return Ok(match kind {
                    "VIEWS" => ParsedStatement::ShowViews(listing),
                    _ => ParsedStatement::ShowTables(listing),
                });
            }
            _ => {}
        },
        Keyword::CALL => return Ok(ParsedStatement::Call(Box::new(parse_call(dialect, tokens[1..].to_vec())?))),
        Keyword::DESCRIBE | Keyword::DESC => {
            if is_namespace_word(&text(1)) && tokens.len() > 2 {
                let mut parser = parser(dialect, tokens[2..].to_vec());
                let extended = tokens.len() > 3 && words::accept(&mut parser, "EXTENDED");
                let name = parser.parse_object_name(false).map_err(parse_error)?;
                expect_end(&parser)?;
                return Ok(ParsedStatement::DescribeNamespace { name, extended });
            }
            let mut skip = if word(1) == Keyword::TABLE { 2 } else { 1 };
            let extended = matches!(text(skip).as_str(), "EXTENDED" | "FORMATTED") && tokens.len() > skip + 1;
            if extended {
                skip += 1;
            }
            // DESCRIBE of a query stays DataFusion's.
            if !matches!(word(skip), Keyword::SELECT | Keyword::WITH | Keyword::NoKeyword)
                || tokens.get(skip).is_some_and(|t| matches!(&t.token, Token::Word(w) if w.keyword == Keyword::NoKeyword))
            {
                let mut parser = parser(dialect, tokens[skip..].to_vec());
                let name = parser.parse_object_name(false).map_err(parse_error)?;
                expect_end(&parser)?;
                return Ok(ParsedStatement::Describe { name, extended });
            }
        }
        _ => {}
    }
    let mut tokens = tokens;
    let clauses = take_clauses(&mut tokens, dialect)?;
    let mut df = DFParserBuilder::new(tokens).with_dialect(dialect).with_recursion_limit(RECURSION_LIMIT).build().map_err(Error::from_datafusion)?;
    let mut statements = df.parse_statements().map_err(Error::from_datafusion)?;
    let Some(statement) = statements.pop_front() else {
        return Err(syntax_error("the statement is empty"));
    };
    Ok(classify(statement, clauses))
}

fn classify(statement: DfStatement, clauses: InsertClauses) -> ParsedStatement {
    match statement {
        DfStatement::Statement(sql) => match *sql {
            SqlStatement::Insert(insert) => ParsedStatement::Insert(Box::new(clauses.with(insert))),
            SqlStatement::Query(query) => match insert_of_query(query) {
                Ok(insert) => ParsedStatement::Insert(Box::new(clauses.with(insert))),
                Err(query) => ParsedStatement::DataFusion(Box::new(DfStatement::Statement(Box::new(SqlStatement::Query(query))))),
            },
            SqlStatement::Delete(delete) => ParsedStatement::Delete(Box::new(delete)),
            SqlStatement::Update(update) => ParsedStatement::Update(Box::new(update)),
            SqlStatement::Drop { object_type: ObjectType::Table, names, if_exists, purge, .. } => {
                ParsedStatement::DropTable { names, if_exists, purge }
            }
            other => ParsedStatement::DataFusion(Box::new(DfStatement::Statement(Box::new(other)))),
        },
        other => ParsedStatement::DataFusion(Box::new(other)),
    }
}

/// Takes the word TEMPORARY out of `CREATE … TEMPORARY VIEW`: what DataFusion calls a view lives in the session only.
fn take_temporary(tokens: &mut Vec<TokenWithSpan>) -> bool {
    let word = |i: usize| tokens.get(i).map_or(Keyword::NoKeyword, |t| keyword_of(&t.token));
    let at = if word(1) == Keyword::OR && word(2) == Keyword::REPLACE { 3 } else { 1 };
    let found = word(0) == Keyword::CREATE && matches!(word(at), Keyword::TEMP | Keyword::TEMPORARY) && word(at + 1) == Keyword::VIEW;
    if found {
        tokens.remove(at);
    }
    found
}

pub(super) fn parser<'a>(dialect: &'a dyn Dialect, tokens: Vec<TokenWithSpan>) -> Parser<'a> {
    Parser::new(dialect).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(tokens)
}

pub(super) fn keyword_of(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

fn is_namespace_word(word: &str) -> bool {
    matches!(word, "SCHEMA" | "NAMESPACE" | "DATABASE")
}

pub(super) fn expect_end(parser: &Parser<'_>) -> Result<()> {
    let next = parser.peek_token();
    match next.token {
        Token::EOF => Ok(()),
        other => Err(syntax_error(&format!("unexpected '{other}' at line {}, column {}", next.span.start.line, next.span.start.column))),
    }
}

pub(super) fn parse_error(error: ParserError) -> Error {
    match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => syntax_error(&m),
        ParserError::RecursionLimitExceeded => syntax_error("expressions are nested too deeply"),
    }
}

pub(super) fn syntax_error(message: &str) -> Error {
    Error::new(ErrorCode::SqlSyntax, format!("SQL syntax error: {message}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn scripts_split_at_semicolons_outside_strings_and_comments() {
        let script = "select 'a;ü' as x; -- c;d\n\n ;select /* ; */ 2\n;";
        assert_eq!(split_text(script).unwrap(), ["select 'a;ü' as x", "select /* ; */ 2"]);
        assert_eq!(split_statements(script, &GenericDialect {}).unwrap().len(), 2);
    }
}
