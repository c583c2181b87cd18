//! `CREATE TABLE` in Spark's spelling:
//! `CREATE [OR REPLACE] TABLE [IF NOT EXISTS] t (columns) [USING iceberg] [PARTITIONED BY (…)] [LOCATION '…']
//! [COMMENT '…'] [TBLPROPERTIES ('k' = 'v', …)] [AS query]`, `REPLACE TABLE …`; the clauses after the columns in any
//! order.

use datafusion::arrow::datatypes::Field;
use datafusion::sql::sqlparser::ast::{ObjectName, Query};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::Result;

use super::statement::{parse_error, syntax_error};
use super::terms::transform_term;
use super::types::{parse_column, parse_options, parse_type};
use super::unsupported;
use super::words::{next_are, path};
use crate::commit::Term;

/// What a statement does with a table of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    Create,
    CreateIfNotExists,
    CreateOrReplace,
    /// The table must exist.
    Replace,
}

/// A parsed `CREATE TABLE` or `REPLACE TABLE`.
#[derive(Debug)]
pub struct CreateTableStatement {
    pub name: ObjectName,
    pub mode: CreateMode,
    /// Columns with type, nullability and comment.
    pub columns: Vec<Field>,
    pub partition: Vec<Term>,
    pub location: Option<String>,
    pub properties: Vec<(String, String)>,
    pub query: Option<Box<Query>>,
}

/// Parses what follows `CREATE [OR REPLACE] TABLE` or `REPLACE TABLE`.
pub fn parse_create_table(parser: &mut Parser<'_>, mode: CreateMode) -> Result<CreateTableStatement> {
    let lenient = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    if lenient && mode != CreateMode::Create {
        return Err(syntax_error("IF NOT EXISTS does not go with REPLACE"));
    }
    let mut statement = CreateTableStatement {
        name: parser.parse_object_name(false).map_err(parse_error)?,
        mode: if lenient { CreateMode::CreateIfNotExists } else { mode },
        columns: Vec::new(),
        partition: Vec::new(),
        location: None,
        properties: Vec::new(),
        query: None,
    };
    if parser.consume_token(&Token::LParen) {
        parse_columns(parser, &mut statement.columns)?;
    }
    loop {
        if parser.parse_keyword(Keyword::USING) {
            let format = parser.parse_identifier().map_err(parse_error)?;
            if !format.value.eq_ignore_ascii_case("iceberg") {
                return Err(unsupported(&format!(
                    "USING {format} (tables of the lakehouse are Iceberg tables; use CREATE EXTERNAL TABLE … STORED AS for plain files)"
                )));
            }
        } else if parser.parse_keyword(Keyword::PARTITIONED) {
            parser.expect_keyword(Keyword::BY).map_err(parse_error)?;
            parse_partition_terms(parser, &mut statement)?;
        } else if parser.parse_keyword(Keyword::LOCATION) {
            statement.location = Some(parser.parse_literal_string().map_err(parse_error)?);
        } else if parser.parse_keyword(Keyword::COMMENT) {
            let text = parser.parse_literal_string().map_err(parse_error)?;
            statement.properties.push(("comment".to_string(), text));
        } else if parser.parse_keyword(Keyword::TBLPROPERTIES) || parser.parse_keyword(Keyword::OPTIONS) {
            let pairs = parse_properties(parser)?;
            statement.properties.extend(pairs);
        } else if parser.parse_keyword(Keyword::AS) {
            statement.query = Some(parser.parse_query().map_err(parse_error)?);
            break;
        } else {
            break;
        }
    }
    if statement.columns.is_empty() && statement.query.is_none() {
        return Err(syntax_error("CREATE TABLE needs columns or AS <query>"));
    }
    if !statement.columns.is_empty() && statement.query.is_some() {
        return Err(unsupported("CREATE TABLE with both a column list and AS <query>"));
    }
    Ok(statement)
}

fn parse_columns(parser: &mut Parser<'_>, columns: &mut Vec<Field>) -> Result<()> {
    if parser.consume_token(&Token::RParen) {
        return Ok(());
    }
    loop {
        for constraint in ["PRIMARY KEY", "FOREIGN KEY", "CONSTRAINT", "UNIQUE", "CHECK"] {
            if next_are(parser, constraint) {
                return Err(unsupported(&format!("table constraint {constraint} (only NOT NULL on columns)")));
            }
        }
        columns.push(parse_column(parser)?);
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map(|_| ()).map_err(parse_error)
}

fn parse_partition_terms(parser: &mut Parser<'_>, statement: &mut CreateTableStatement) -> Result<()> {
    parser.expect_token(&Token::LParen).map_err(parse_error)?;
    loop {
        let column = path(parser)?;
        match (column.as_slice(), &parser.peek_token_ref().token) {
            ([function], Token::LParen) => {
                parser.advance_token();
                statement.partition.push(transform_term(parser, function)?);
            }
            (_, Token::Comma | Token::RParen) => {
                statement.partition.push(Term { column, transform: "identity".to_owned() });
            }
            // Hive's spelling: the partition column is declared here.
            ([name], _) => {
                let field = parse_type(parser, name)?;
                statement.columns.push(parse_options(parser, field)?);
                statement.partition.push(Term { column, transform: "identity".to_owned() });
            }
            _ => return Err(syntax_error(&format!("unexpected text behind partition column {}", column.join(".")))),
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map(|_| ()).map_err(parse_error)
}

pub(super) fn parse_properties(parser: &mut Parser<'_>) -> Result<Vec<(String, String)>> {
    parser.expect_token(&Token::LParen).map_err(parse_error)?;
    let mut pairs = Vec::new();
    loop {
        let key = property_key(parser)?;
        let _equals = parser.consume_token(&Token::Eq);
        let value = match parser.next_token().token {
            Token::SingleQuotedString(s) | Token::DoubleQuotedString(s) => s,
            Token::Number(n, _) => n,
            Token::Word(w) => w.value,
            other => return Err(syntax_error(&format!("unexpected '{other}' as the value of property {key}"))),
        };
        pairs.push((key, value));
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map_err(parse_error)?;
    Ok(pairs)
}

/// A property's key: quoted, or words joined by dots.
pub(super) fn property_key(parser: &mut Parser<'_>) -> Result<String> {
    let mut key = match parser.next_token().token {
        Token::SingleQuotedString(s) | Token::DoubleQuotedString(s) => return Ok(s),
        Token::Word(w) => w.value,
        other => return Err(syntax_error(&format!("unexpected '{other}' as a property's key"))),
    };
    while parser.consume_token(&Token::Period) || parser.consume_token(&Token::Minus) {
        let separator = if parser.get_current_token().token == Token::Minus { '-' } else { '.' };
        let next = parser.parse_identifier().map_err(parse_error)?;
        key.push(separator);
        key.push_str(&next.value);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::statement::{ParsedStatement, parse_statement, split_statements};
    use super::*;
    use datafusion::arrow::datatypes::{DataType, TimeUnit};
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn sparks_spelling_parses() {
        let sql = "CREATE TABLE IF NOT EXISTS Bronze.Events (event_id STRING NOT NULL COMMENT 'k', n BIGINT, \
                   ts TIMESTAMP, tz TIMESTAMP_LTZ, p DECIMAL(12,2), tags ARRAY<STRING>) USING iceberg \
                   PARTITIONED BY (days(ts), bucket(4, n), event_id) LOCATION 's3://b/t' \
                   TBLPROPERTIES ('write.format.default' = 'parquet', 'format-version' = '2')";
        let dialect = GenericDialect {};
        let tokens = split_statements(sql, &dialect).unwrap().remove(0);
        let ParsedStatement::CreateTable(create) = parse_statement(tokens, &dialect).unwrap() else { panic!("not a CREATE TABLE") };
        assert!(create.mode == CreateMode::CreateIfNotExists && !create.columns[0].is_nullable());
        assert_eq!(create.columns[2].data_type(), &DataType::Timestamp(TimeUnit::Microsecond, None));
        assert!(matches!(create.columns[3].data_type(), DataType::Timestamp(_, Some(_))));
        let terms: Vec<&str> = create.partition.iter().map(|t| t.transform.as_str()).collect();
        assert_eq!(terms, ["day", "bucket[4]", "identity"]);
        assert_eq!(create.properties.len(), 2);
        assert_eq!(create.location.as_deref(), Some("s3://b/t"));
    }
}
