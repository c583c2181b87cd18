//! `CREATE TABLE` in Spark's spelling:
//! `CREATE [OR REPLACE] TABLE [IF NOT EXISTS] t (columns) [USING iceberg] [PARTITIONED BY (…)] [LOCATION '…']
//! [COMMENT '…'] [TBLPROPERTIES ('k' = 'v', …)] [AS query]`; the clauses after the columns in any order.

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, ColumnDef, ColumnOption, DataType as SqlType, ExactNumberInfo, Ident, ObjectName, Query,
    TimezoneInfo,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::{Error, ErrorCode, Result};

use super::statement::{parse_error, syntax_error};

/// A parsed `CREATE TABLE`.
#[derive(Debug)]
pub struct CreateTableStatement {
    pub name: ObjectName,
    pub if_not_exists: bool,
    pub or_replace: bool,
    pub columns: Vec<Column>,
    pub partition: Vec<PartitionTerm>,
    pub location: Option<String>,
    pub properties: Vec<(String, String)>,
    pub query: Option<Box<Query>>,
}

/// One column; its type already in Arrow's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    pub required: bool,
    pub comment: Option<String>,
}

/// One term of `PARTITIONED BY`: a source column and a transform in Iceberg's spelling
/// (`identity`, `year`, `month`, `day`, `hour`, `bucket[16]`, `truncate[4]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTerm {
    pub column: String,
    pub transform: String,
}

/// Parses what follows `CREATE [OR REPLACE] TABLE`.
pub fn parse_create_table(parser: &mut Parser<'_>, or_replace: bool) -> Result<CreateTableStatement> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_object_name(false).map_err(parse_error)?;
    let (defs, constraints) = parser.parse_columns().map_err(parse_error)?;
    if let Some(constraint) = constraints.first() {
        return Err(unsupported(&format!("table constraint {constraint} (only NOT NULL on columns)")));
    }
    let mut statement = CreateTableStatement {
        name,
        if_not_exists,
        or_replace,
        columns: defs.iter().map(column).collect::<Result<_>>()?,
        partition: Vec::new(),
        location: None,
        properties: Vec::new(),
        query: None,
    };
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

fn parse_partition_terms(parser: &mut Parser<'_>, statement: &mut CreateTableStatement) -> Result<()> {
    parser.expect_token(&Token::LParen).map_err(parse_error)?;
    loop {
        let word = parser.parse_identifier().map_err(parse_error)?;
        if parser.consume_token(&Token::LParen) {
            statement.partition.push(transform_term(parser, &word)?);
        } else if matches!(parser.peek_token().token, Token::Comma | Token::RParen) {
            statement.partition.push(PartitionTerm { column: word.value, transform: "identity".to_string() });
        } else {
            // Hive's spelling: the partition column is declared here.
            let data_type = parser.parse_data_type().map_err(parse_error)?;
            statement.columns.push(Column {
                name: word.value.clone(),
                data_type: sql_type(&data_type)?,
                required: false,
                comment: None,
            });
            statement.partition.push(PartitionTerm { column: word.value, transform: "identity".to_string() });
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map_err(parse_error)?;
    Ok(())
}

/// Parses the arguments of `bucket(16, id)`, `bucket(id, 16)`, `truncate(name, 4)`, `days(ts)`; `(` is consumed.
fn transform_term(parser: &mut Parser<'_>, name: &Ident) -> Result<PartitionTerm> {
    let mut column = None;
    let mut number = None;
    loop {
        match parser.next_token().token {
            Token::Number(n, _) if number.is_none() => {
                number = Some(n.parse::<u32>().map_err(|_| syntax_error(&format!("'{n}' is no width")))?);
            }
            Token::Word(w) if column.is_none() => column = Some(w.value),
            other => return Err(syntax_error(&format!("unexpected '{other}' in the partition term {name}(…)"))),
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map_err(parse_error)?;
    let Some(column) = column else {
        return Err(syntax_error(&format!("the partition term {name}(…) names no column")));
    };
    let transform = match (name.value.to_ascii_lowercase().as_str(), number) {
        ("year" | "years", None) => "year".to_string(),
        ("month" | "months", None) => "month".to_string(),
        ("day" | "days" | "date", None) => "day".to_string(),
        ("hour" | "hours" | "date_hour", None) => "hour".to_string(),
        ("identity", None) => "identity".to_string(),
        ("bucket", Some(n)) if n > 0 => format!("bucket[{n}]"),
        ("truncate", Some(n)) if n > 0 => format!("truncate[{n}]"),
        _ => {
            return Err(Error::new(
                ErrorCode::SqlSyntax,
                format!(
                    "unknown partition term {name}: use a column, years(c), months(c), days(c), hours(c), bucket(n, c) or truncate(n, c)"
                ),
            ));
        }
    };
    Ok(PartitionTerm { column, transform })
}

fn parse_properties(parser: &mut Parser<'_>) -> Result<Vec<(String, String)>> {
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
fn property_key(parser: &mut Parser<'_>) -> Result<String> {
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

fn column(def: &ColumnDef) -> Result<Column> {
    let mut column = Column {
        name: def.name.value.clone(),
        data_type: sql_type(&def.data_type)?,
        required: false,
        comment: None,
    };
    for option in &def.options {
        match &option.option {
            ColumnOption::NotNull => column.required = true,
            ColumnOption::Null => {}
            ColumnOption::Comment(text) => column.comment = Some(text.clone()),
            other => return Err(unsupported(&format!("option {other} of column {}", def.name))),
        }
    }
    Ok(column)
}

/// The Arrow type of a SQL type as tables store it: times in microseconds, strings as UTF-8.
pub fn sql_type(sql: &SqlType) -> Result<DataType> {
    let micros = |zone: bool| DataType::Timestamp(TimeUnit::Microsecond, zone.then(|| "+00:00".into()));
    Ok(match sql {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_)
        | SqlType::SmallInt(_)
        | SqlType::Int2(_)
        | SqlType::Int(_)
        | SqlType::Integer(_)
        | SqlType::Int4(_) => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) => DataType::Int64,
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => DataType::Float64,
        SqlType::Numeric(info) | SqlType::Decimal(info) | SqlType::Dec(info) => decimal(info)?,
        SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Text | SqlType::String(_) | SqlType::CharVarying(_) => {
            DataType::Utf8
        }
        SqlType::Bytea | SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Blob(_) => DataType::Binary,
        SqlType::Date => DataType::Date32,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp(None | Some(0..=6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
        | SqlType::TimestampNtz(_)
        | SqlType::Datetime(_) => micros(false),
        SqlType::Timestamp(None | Some(0..=6), TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => micros(true),
        SqlType::Array(ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, None)) => {
            DataType::List(Field::new("element", sql_type(item)?, true).into())
        }
        SqlType::Struct(fields, _) => {
            let fields = fields
                .iter()
                .map(|f| {
                    let name = f.field_name.as_ref().map(|n| n.value.clone()).unwrap_or_default();
                    Ok(Field::new(name, sql_type(&f.field_type)?, true))
                })
                .collect::<Result<Vec<_>>>()?;
            DataType::Struct(Fields::from(fields))
        }
        SqlType::Map(key, value) => {
            let entries = vec![Field::new("key", sql_type(key)?, false), Field::new("value", sql_type(value)?, true)];
            DataType::Map(Field::new("key_value", DataType::Struct(Fields::from(entries)), false).into(), false)
        }
        SqlType::Custom(name, _) => match name.to_string().to_ascii_uppercase().as_str() {
            "LONG" => DataType::Int64,
            "BYTE" | "SHORT" => DataType::Int32,
            "STRING" => DataType::Utf8,
            "TIMESTAMP_LTZ" | "TIMESTAMPTZ" => micros(true),
            "TIMESTAMP_NTZ" => micros(false),
            _ => return Err(unsupported(&format!("column type {sql}"))),
        },
        other => return Err(unsupported(&format!("column type {other}"))),
    })
}

fn decimal(info: &ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(p) => (*p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p, *s),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && s as u64 <= precision => Ok(DataType::Decimal128(p, s)),
        _ => Err(unsupported(&format!("DECIMAL({precision}, {scale}): precision is 1 to 38, scale 0 to precision"))),
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::SqlUnsupported, format!("not supported: {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::statement::{ParsedStatement, parse_statement, split_statements};
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn sparks_spelling_parses() {
        let sql = "CREATE TABLE IF NOT EXISTS Bronze.Events (event_id STRING NOT NULL COMMENT 'k', n BIGINT, \
                   ts TIMESTAMP, tz TIMESTAMP_LTZ, p DECIMAL(12,2), tags ARRAY<STRING>) USING iceberg \
                   PARTITIONED BY (days(ts), bucket(4, n), event_id) LOCATION 's3://b/t' \
                   TBLPROPERTIES ('write.format.default' = 'parquet', 'format-version' = '2')";
        let dialect = GenericDialect {};
        let tokens = split_statements(sql, &dialect).unwrap().remove(0);
        let ParsedStatement::CreateTable(create) = parse_statement(tokens, &dialect).unwrap() else {
            panic!("not a CREATE TABLE")
        };
        assert!(create.if_not_exists && create.columns[0].required);
        assert_eq!(create.columns[2].data_type, DataType::Timestamp(TimeUnit::Microsecond, None));
        assert!(matches!(&create.columns[3].data_type, DataType::Timestamp(_, Some(_))));
        let terms: Vec<&str> = create.partition.iter().map(|t| t.transform.as_str()).collect();
        assert_eq!(terms, ["day", "bucket[4]", "identity"]);
        assert_eq!(create.properties.len(), 2);
        assert_eq!(create.location.as_deref(), Some("s3://b/t"));
    }
}
