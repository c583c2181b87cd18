//! Column types and definitions in Spark's spelling, as Arrow fields: the type, nullability, comment and (where Arrow
//! leaves it open) Iceberg's own type.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::{Error, ErrorCode, Result};

use super::defaults::parse_default;
use super::statement::parse_error;
use super::unsupported;
use super::words::{accept, expected, name, next_are, text};
use crate::table::arrow_schema::{DOC_KEY, TYPE_KEY};

/// Nesting of types: parsing is recursive.
const DEPTH_MAX: u32 = 64;

/// Parses `name type [NOT NULL] [COMMENT '…']`.
pub fn parse_column(parser: &mut Parser<'_>) -> Result<Field> {
    let name = name(parser)?;
    let field = parse_type(parser, &name)?;
    parse_options(parser, field)
}

/// Parses the options behind a column's type.
pub fn parse_options(parser: &mut Parser<'_>, mut field: Field) -> Result<Field> {
    loop {
        if accept(parser, "NOT NULL") {
            field.set_nullable(false);
        } else if accept(parser, "NULL") {
            field.set_nullable(true);
        } else if accept(parser, "COMMENT") {
            field = with(field, DOC_KEY, text(parser)?);
        } else if accept(parser, "DEFAULT") {
            field = parse_default(parser, field)?;
        } else if next_are(parser, "GENERATED")
            || next_are(parser, "PRIMARY")
            || next_are(parser, "UNIQUE")
            || next_are(parser, "CHECK")
            || next_are(parser, "REFERENCES")
            || next_are(parser, "CONSTRAINT")
        {
            let option = parser.peek_token();
            return Err(unsupported(&format!("option {option} of column {} (only NOT NULL and COMMENT)", field.name())));
        } else {
            return Ok(field);
        }
    }
}

/// Parses a type; the nullable field of that name and type.
pub fn parse_type(parser: &mut Parser<'_>, name: &str) -> Result<Field> {
    let mut types = TypeParser { parser, owed: 0, depth: 0 };
    let field = types.field(name)?;
    if types.owed > 0 {
        return Err(expected(types.parser, "no further '>'"));
    }
    Ok(field)
}

fn with(field: Field, key: &str, value: String) -> Field {
    let mut metadata: HashMap<String, String> = field.metadata().clone();
    metadata.insert(key.to_owned(), value);
    field.with_metadata(metadata)
}

struct TypeParser<'p, 'a> {
    parser: &'p mut Parser<'a>,
    /// `>` that were taken as part of `>>` and still close an outer type.
    owed: u32,
    depth: u32,
}

impl TypeParser<'_, '_> {
    fn field(&mut self, name: &str) -> Result<Field> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(unsupported("types nested that deeply"));
        }
        let field = self.one(name);
        self.depth -= 1;
        field
    }

    fn one(&mut self, name: &str) -> Result<Field> {
        let generic = matches!(self.parser.peek_nth_token_ref(1).token, Token::Lt);
        if generic && accept(self.parser, "STRUCT") {
            self.parser.advance_token();
            let mut fields = vec![self.member()?];
            while self.owed == 0 && self.parser.consume_token(&Token::Comma) {
                fields.push(self.member()?);
            }
            self.close()?;
            return Ok(Field::new(name, DataType::Struct(Fields::from(fields)), true));
        }
        if generic && (accept(self.parser, "ARRAY") || accept(self.parser, "LIST")) {
            self.parser.advance_token();
            let element = self.field("element")?;
            self.close()?;
            return Ok(Field::new(name, DataType::List(element.into()), true));
        }
        if generic && accept(self.parser, "MAP") {
            self.parser.advance_token();
            let mut key = self.field("key")?;
            key.set_nullable(false);
            if self.owed > 0 || !self.parser.consume_token(&Token::Comma) {
                return Err(expected(self.parser, "MAP<key, value>"));
            }
            let value = self.field("value")?;
            self.close()?;
            let entries = DataType::Struct(Fields::from(vec![key, value]));
            return Ok(Field::new(name, DataType::Map(Field::new("key_value", entries, false).into(), false), true));
        }
        let nanos = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
        if accept(self.parser, "UUID") {
            return Ok(with(Field::new(name, DataType::FixedSizeBinary(16), true), TYPE_KEY, "uuid".to_owned()));
        }
        if accept(self.parser, "TIMESTAMP_NS") {
            return Ok(with(Field::new(name, nanos(None), true), TYPE_KEY, "timestamp_ns".to_owned()));
        }
        if accept(self.parser, "TIMESTAMPTZ_NS") {
            return Ok(with(Field::new(name, nanos(Some("UTC")), true), TYPE_KEY, "timestamptz_ns".to_owned()));
        }
        let sql = self.parser.parse_data_type().map_err(parse_error)?;
        Ok(Field::new(name, sql_type(&sql)?, true))
    }

    /// A struct's field: `name[:] type [NOT NULL] [COMMENT '…']`.
    fn member(&mut self) -> Result<Field> {
        let name = name(self.parser)?;
        let _colon = self.parser.consume_token(&Token::Colon);
        let field = self.field(&name)?;
        if self.owed > 0 { Ok(field) } else { parse_options(self.parser, field) }
    }

    /// The `>` that ends a type.
    fn close(&mut self) -> Result<()> {
        if self.owed > 0 {
            self.owed -= 1;
            return Ok(());
        }
        if self.parser.consume_token(&Token::ShiftRight) {
            self.owed = 1;
            return Ok(());
        }
        if self.parser.consume_token(&Token::Gt) { Ok(()) } else { Err(expected(self.parser, "'>'")) }
    }
}

/// The Arrow type of a SQL type as tables store it: times in microseconds, strings as UTF-8.
pub fn sql_type(sql: &SqlType) -> Result<DataType> {
    let micros = |zone: bool| DataType::Timestamp(TimeUnit::Microsecond, zone.then(|| "UTC".into()));
    Ok(match sql {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) | SqlType::SmallInt(_) | SqlType::Int2(_) | SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) => DataType::Int64,
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => DataType::Float64,
        SqlType::Numeric(info) | SqlType::Decimal(info) | SqlType::Dec(info) => decimal(info)?,
        SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Text | SqlType::String(_) | SqlType::CharVarying(_) => DataType::Utf8,
        SqlType::Bytea | SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Blob(_) => DataType::Binary,
        SqlType::Date => DataType::Date32,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp(None | Some(0..=6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
        | SqlType::TimestampNtz(_)
        | SqlType::Datetime(_) => micros(false),
        SqlType::Timestamp(None | Some(0..=6), TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => micros(true),
        SqlType::Array(ArrayElemTypeDef::SquareBracket(item, None)) => DataType::List(Field::new("element", sql_type(item)?, true).into()),
        SqlType::Custom(name, modifiers) => match (name.to_string().to_ascii_uppercase().as_str(), modifiers.as_slice()) {
            ("LONG", []) => DataType::Int64,
            ("BYTE" | "SHORT", []) => DataType::Int32,
            ("STRING", []) => DataType::Utf8,
            ("TIMESTAMP_LTZ" | "TIMESTAMPTZ", []) => micros(true),
            ("TIMESTAMP_NTZ", []) => micros(false),
            ("FIXED", [length]) => match length.parse::<i32>() {
                Ok(length @ 1..) => DataType::FixedSizeBinary(length),
                _ => return Err(unknown_type(sql)),
            },
            _ => return Err(unknown_type(sql)),
        },
        other => return Err(unknown_type(other)),
    })
}

fn unknown_type(sql: &SqlType) -> Error {
    unsupported(&format!(
        "column type {sql} (known: BOOLEAN, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p,s), STRING, BINARY, FIXED(n), UUID, DATE, TIME, \
         TIMESTAMP, TIMESTAMP_LTZ, ARRAY<t>, MAP<k,v>, STRUCT<f: t>)"
    ))
}

fn decimal(info: &ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(p) => (*p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p, *s),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && s as u64 <= precision => Ok(DataType::Decimal128(p, s)),
        _ => Err(Error::new(
            ErrorCode::SqlUnsupported,
            format!("not supported: DECIMAL({precision}, {scale}): precision is 1 to 38, scale 0 to precision"),
        )),
    }
}
