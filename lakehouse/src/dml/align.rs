//! Fits a query's columns to a table's: by name or by position, missing optional columns as NULL, types cast only
//! where no value can be lost silently.

use datafusion::arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, lit};

use chainalytics_common::{Error, ErrorCode, Result};

use crate::scan::values::literal_to_scalar;
use crate::table::arrow_schema::write_default;

/// How strict a cast to the table's type must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Casting {
    /// DataFrames: only widening, which never loses anything.
    Lossless,
    /// SQL's INSERT and UPDATE (ANSI store assignment): numbers to any number, text to dates and times; a value
    /// that does not fit fails the query.
    Checked,
}

/// Which column of the input goes to which of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matching {
    /// By name, letter case ignored; every input column must be one of the table's.
    ByName,
    /// By position, all columns of the table.
    ByPosition,
    /// The n-th input column goes to the named column; columns not named get NULL.
    Named(Vec<String>),
}

/// Projects `input` to the columns of `target`, in its order and types.
pub fn align(input: LogicalPlan, target: &SchemaRef, table: &str, matching: &Matching, casting: Casting) -> Result<LogicalPlan> {
    let sources = sources(input.schema(), target, table, matching)?;
    let mut exprs = Vec::with_capacity(target.fields().len());
    for (field, source) in target.fields().iter().zip(sources) {
        let Some(index) = source else {
            if let Some(value) = write_default(field).and_then(|value| literal_to_scalar(&value, field.data_type())) {
                exprs.push(lit(value).alias(field.name()));
                continue;
            }
            if !field.is_nullable() {
                return Err(Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("column '{}' of table {table} is required (NOT NULL) but gets no value", field.name()),
                ));
            }
            exprs.push(cast(lit(ScalarValue::Null), plain(field.data_type())).alias(field.name()));
            continue;
        };
        let (qualifier, source) = input.schema().qualified_field(index);
        let column = Expr::Column(Column::new(qualifier.cloned(), source.name()));
        let expr = match (source.data_type(), field.data_type()) {
            // Writers take views as they are.
            (DataType::Utf8View, DataType::Utf8) | (DataType::BinaryView, DataType::Binary) => column,
            (from, _) => fit_type(column, from, field, table, casting)?,
        };
        exprs.push(expr.alias(field.name()));
    }
    LogicalPlanBuilder::from(input).project(exprs).and_then(LogicalPlanBuilder::build).map_err(Error::from_datafusion)
}

/// A value in the type of the table's column.
pub(crate) fn fit(value: Expr, schema: &DFSchema, field: &Field, table: &str, casting: Casting) -> Result<Expr> {
    if let (Expr::Literal(literal, _), false) = (&value, field.is_nullable())
        && literal.is_null()
    {
        return Err(Error::new(
            ErrorCode::SchemaMismatch,
            format!("column '{}' of table {table} is required (NOT NULL) but gets NULL", field.name()),
        ));
    }
    let from = value.get_type(schema).map_err(Error::from_datafusion)?;
    fit_type(value, &from, field, table, casting)
}

fn fit_type(value: Expr, from: &DataType, field: &Field, table: &str, casting: Casting) -> Result<Expr> {
    let wanted = plain(field.data_type());
    if *from == wanted {
        Ok(value)
    } else if castable(from, &wanted, casting) {
        Ok(cast(value, wanted))
    } else {
        Err(Error::new(
            ErrorCode::SchemaMismatch,
            format!(
                "column '{}' of table {table} is {}, the query gives {from}: write an explicit CAST if the loss is meant",
                field.name(),
                field.data_type(),
            ),
        ))
    }
}

/// For each column of the table the index of the input's column, or `None` for NULL.
fn sources(input: &DFSchema, target: &SchemaRef, table: &str, matching: &Matching) -> Result<Vec<Option<usize>>> {
    let count = input.fields().len();
    match matching {
        Matching::ByPosition => {
            if count != target.fields().len() {
                return Err(Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("table {table} has {} columns, the query gives {count}", target.fields().len()),
                ));
            }
            Ok((0..count).map(Some).collect())
        }
        Matching::ByName => {
            let names: Vec<String> = input.fields().iter().map(|f| f.name().clone()).collect();
            place(&names, target, table)
        }
        Matching::Named(names) => {
            if count != names.len() {
                return Err(Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("{} columns of table {table} are named, the query gives {count}", names.len()),
                ));
            }
            place(names, target, table)
        }
    }
}

fn place(names: &[String], target: &SchemaRef, table: &str) -> Result<Vec<Option<usize>>> {
    let mut places = vec![None; target.fields().len()];
    for (index, name) in names.iter().enumerate() {
        let exact = target.fields().iter().position(|f| f.name() == name);
        let at = exact.or_else(|| target.fields().iter().position(|f| f.name().eq_ignore_ascii_case(name)));
        let Some(at) = at else {
            let known: Vec<&str> = target.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(Error::new(ErrorCode::SchemaMismatch, format!("table {table} has no column '{name}'; it has {}", known.join(", "))));
        };
        if places[at].replace(index).is_some() {
            return Err(Error::new(ErrorCode::SchemaMismatch, format!("column '{name}' of table {table} is given twice")));
        }
    }
    Ok(places)
}

/// A type without field metadata (field ids of nested columns), as computed columns have it.
fn plain(data_type: &DataType) -> DataType {
    crate::scan::plain_type(data_type)
}

fn castable(from: &DataType, to: &DataType, casting: Casting) -> bool {
    lossless(from, to) || (casting == Casting::Checked && checked(from, to))
}

/// Whether every value of `from` is a value of `to`.
fn lossless(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    match (from, to) {
        (a, b) if a == b => true,
        (D::Null, _) => true,
        (D::Dictionary(_, value), to) => value.as_ref() == to || lossless(value, to),
        (D::Int8 | D::Int16 | D::UInt8 | D::UInt16, D::Int32 | D::Int64 | D::Float32 | D::Float64) => true,
        (D::Int32 | D::UInt32, D::Int64 | D::Float64) => true,
        (D::Float16, D::Float32 | D::Float64) | (D::Float32, D::Float64) => true,
        (D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32, D::Decimal128(p, s)) => {
            i32::from(*p) - i32::from(*s) >= integer_digits(from)
        }
        (D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s), D::Decimal128(to_p, to_s)) => {
            to_s >= s && i32::from(*to_p) - i32::from(*to_s) >= i32::from(*p) - i32::from(*s)
        }
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, D::Utf8 | D::LargeUtf8 | D::Utf8View) => true,
        (D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_), D::Binary | D::LargeBinary | D::BinaryView) => true,
        // Tables hold microseconds; nanoseconds of engines' own functions (now(), literals) are cut to them.
        (D::Timestamp(_, None), D::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, None)) => true,
        (D::Timestamp(_, Some(_)), D::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, Some(_))) => true,
        (D::Date32 | D::Date64, D::Date32) => true,
        (D::Date32, D::Timestamp(_, None)) => true,
        (D::Time32(_) | D::Time64(_), D::Time64(TimeUnit::Microsecond)) => true,
        (D::List(a) | D::LargeList(a) | D::ListView(a), D::List(b) | D::LargeList(b)) => lossless(a.data_type(), b.data_type()),
        (D::Struct(a), D::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && lossless(a.data_type(), b.data_type()))
        }
        (D::Map(a, _), D::Map(b, _)) => match (a.data_type(), b.data_type()) {
            // Entry names differ between writers ("entries", "key_value"); order does not.
            (D::Struct(a), D::Struct(b)) if a.len() == 2 && b.len() == 2 => a.iter().zip(b).all(|(a, b)| lossless(a.data_type(), b.data_type())),
            _ => false,
        },
        _ => false,
    }
}

/// Whether SQL assigns `from` to `to`, failing for values that do not fit.
fn checked(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    let text = |t: &DataType| matches!(t, D::Utf8 | D::LargeUtf8 | D::Utf8View);
    let number = |t: &DataType| t.is_numeric();
    match (from, to) {
        (D::Dictionary(_, value), to) => checked(value, to),
        (from, to) if number(from) && number(to) => true,
        (from, D::Date32 | D::Timestamp(_, _) | D::Time64(_)) if text(from) => true,
        (D::Timestamp(_, _), D::Timestamp(_, _) | D::Date32) => true,
        (D::Date32 | D::Date64, D::Timestamp(_, _)) => true,
        (from, to) if text(to) => from.is_numeric() || matches!(from, D::Boolean | D::Date32 | D::Date64 | D::Timestamp(_, _) | D::Time64(_)),
        (from, D::Binary | D::LargeBinary) if text(from) => true,
        (D::List(a) | D::LargeList(a), D::List(b) | D::LargeList(b)) => {
            lossless(a.data_type(), b.data_type()) || checked(a.data_type(), b.data_type())
        }
        _ => false,
    }
}

fn integer_digits(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        _ => 19,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use super::*;
    use datafusion::arrow::datatypes::{Field, Schema};

    fn input(fields: Vec<Field>) -> LogicalPlan {
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        LogicalPlan::EmptyRelation(datafusion::logical_expr::EmptyRelation { produce_one_row: false, schema: Arc::new(schema) })
    }

    fn target() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("Id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]))
    }

    #[test]
    fn names_match_without_case_and_missing_optional_columns_are_null() {
        let plan = align(input(vec![Field::new("id", DataType::Int32, true)]), &target(), "t", &Matching::ByName, Casting::Lossless).unwrap();
        assert_eq!(plan.schema().field(0).name(), "Id");
        assert_eq!(plan.schema().field(0).data_type(), &DataType::Int64);
        assert_eq!(plan.schema().field(1).data_type(), &DataType::Utf8);
    }

    #[test]
    fn losses_missing_and_unknown_columns_are_errors_with_names() {
        let fail = |fields, matching, casting| {
            let error = align(input(fields), &target(), "t", &matching, casting).unwrap_err();
            assert_eq!(error.code(), ErrorCode::SchemaMismatch);
            error.to_string()
        };
        let id = || Field::new("id", DataType::Int64, true);
        assert!(fail(vec![Field::new("id", DataType::Utf8, true)], Matching::ByName, Casting::Lossless).contains("Id"));
        assert!(fail(vec![Field::new("id", DataType::Float64, true)], Matching::ByName, Casting::Lossless).contains("Id"));
        assert!(fail(vec![Field::new("name", DataType::Utf8, true)], Matching::ByName, Casting::Lossless).contains("Id"));
        assert!(fail(vec![id(), Field::new("nmae", DataType::Utf8, true)], Matching::ByName, Casting::Lossless).contains("nmae"));
        assert!(fail(vec![id()], Matching::ByPosition, Casting::Checked).contains("2 columns"));
        // SQL may assign a number to a narrower one: the cast fails at run time if a value does not fit.
        align(
            input(vec![Field::new("a", DataType::Decimal128(38, 0), true), Field::new("b", DataType::Int32, true)]),
            &target(),
            "t",
            &Matching::ByPosition,
            Casting::Checked,
        )
        .unwrap();
    }
}
