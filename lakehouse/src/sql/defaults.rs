//! Column defaults (format v3): `DEFAULT value` in CREATE TABLE and ADD COLUMN, `ALTER COLUMN c SET | DROP DEFAULT`.
//! Source: Iceberg spec, "Default values". Existing rows get the initial default, rows that leave the column out the
//! write default.

use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::parser::Parser;
use iceberg::spec::{Literal, Type};

use chainalytics_common::{Error, ErrorCode, Result};

use super::statement::parse_error;
use super::unsupported;
use crate::table::arrow_schema::{self, INITIAL_DEFAULT_KEY, WRITE_DEFAULT_KEY};

/// Arrow metadata key of a parsed default that is not computed yet.
const DEFAULT_SQL_KEY: &str = "sql.default";

/// Takes the value behind `DEFAULT`.
pub fn parse_default(parser: &mut Parser<'_>, field: Field) -> Result<Field> {
    let value = parse_value(parser)?;
    let mut metadata = field.metadata().clone();
    metadata.insert(DEFAULT_SQL_KEY.to_owned(), value);
    Ok(field.with_metadata(metadata))
}

/// A literal, a constant function call or a CAST, as text.
pub fn parse_value(parser: &mut Parser<'_>) -> Result<String> {
    parser.parse_prefix().map(|expr| expr.to_string()).map_err(parse_error)
}

/// Whether a field or one within it has a default.
pub fn has_default(field: &Field) -> bool {
    field.metadata().contains_key(DEFAULT_SQL_KEY) || within(field).into_iter().any(has_default)
}

fn within(field: &Field) -> Vec<&Field> {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(Arc::as_ref).collect(),
        DataType::List(element) => vec![element.as_ref()],
        DataType::Map(entries, _) => vec![entries.as_ref()],
        _ => Vec::new(),
    }
}

/// The field with its default computed; both defaults of a new column are the same.
pub async fn resolve(field: Field) -> Result<Field> {
    if within(&field).into_iter().any(has_default) {
        return Err(unsupported("defaults of fields within structs"));
    }
    let mut metadata = field.metadata().clone();
    let Some(sql) = metadata.remove(DEFAULT_SQL_KEY) else { return Ok(field) };
    let field = field.with_metadata(metadata.clone());
    if let Some(json) = compute(&sql, &field).await? {
        metadata.insert(INITIAL_DEFAULT_KEY.to_owned(), json.clone());
        metadata.insert(WRITE_DEFAULT_KEY.to_owned(), json);
    }
    Ok(field.with_metadata(metadata))
}

/// The value of a constant expression for a column, in Iceberg's JSON form; `None` for NULL.
pub async fn compute(sql: &str, field: &Field) -> Result<Option<String>> {
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(ErrorCode::InvalidArgument, format!("{sql} is no default of column '{}' ({}): {why}", field.name(), field.data_type()))
    };
    let fields = arrow_schema::fields_from_arrow(&vec![field.clone()].into(), 0)?;
    let Some(Type::Primitive(primitive)) = fields.first().map(|field| field.field_type.as_ref().clone()) else {
        return Err(unsupported("defaults of struct, list and map columns"));
    };
    // A context of its own: constants only, no table can be read.
    let df = SessionContext::new().sql(&format!("SELECT {sql} AS v")).await.map_err(|e| bad(&e))?;
    let batches = df.collect().await.map_err(|e| bad(&e))?;
    let column = batches.first().filter(|b| b.num_rows() == 1).map(|b| b.column(0)).ok_or_else(|| bad(&"no value"))?;
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let value = cast_with_options(column, field.data_type(), &strict).map_err(|e| bad(&e))?;
    if value.is_null(0) {
        return Ok(None);
    }
    let literal = match ScalarValue::try_from_array(&value, 0).map_err(|e| bad(&e))? {
        ScalarValue::Boolean(Some(v)) => Literal::bool(v),
        ScalarValue::Int32(Some(v)) => Literal::int(v),
        ScalarValue::Int64(Some(v)) => Literal::long(v),
        ScalarValue::Float32(Some(v)) => Literal::float(v),
        ScalarValue::Float64(Some(v)) => Literal::double(v),
        ScalarValue::Decimal128(Some(v), _, _) => Literal::decimal(v),
        ScalarValue::Date32(Some(v)) => Literal::date(v),
        ScalarValue::Time64Microsecond(Some(v)) => Literal::time(v),
        ScalarValue::TimestampMicrosecond(Some(v), _) => Literal::timestamp(v),
        ScalarValue::Utf8(Some(v)) => Literal::string(v),
        ScalarValue::Binary(Some(v)) => Literal::binary(v),
        other => return Err(unsupported(&format!("a default of type {}", other.data_type()))),
    };
    let json = literal.try_into_json(&Type::Primitive(primitive)).map_err(|e| bad(&e))?;
    Ok(Some(json.to_string()))
}
