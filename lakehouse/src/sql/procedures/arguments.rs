//! Arguments of a call: matched to the procedure's parameters, checked and evaluated.

use std::collections::BTreeMap;

use chainalytics_common::Result;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value as SqlValue};

use super::super::call::{Argument, Written};
use super::super::names::evaluate_time;
use super::{Kind, Parameter, Procedure, bad_argument};
use crate::sql::Runner;

/// A value.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Long(i64),
    Bool(bool),
    /// Milliseconds since 1970 UTC.
    Time(i64),
    Map(BTreeMap<String, String>),
    Longs(Vec<i64>),
    Texts(Vec<String>),
}

/// Checked arguments by name. Those that were left out or NULL are not there.
#[derive(Debug, Default)]
pub struct Arguments {
    values: BTreeMap<&'static str, Value>,
}

impl Arguments {
    /// Matches what was written to the parameters of `procedure`.
    ///
    /// # Errors
    /// `ProcedureArgument`: unknown, given twice, missing, too many, or of another type.
    pub async fn bind(runner: &Runner<'_>, procedure: &'static Procedure, written: Vec<Argument>) -> Result<Self> {
        let named = written.iter().filter(|argument| argument.name.is_some()).count();
        if named > 0 && named < written.len() {
            return Err(bad_argument(format!("{}: arguments by name and by position cannot be mixed", procedure.name)));
        }
        let mut values = BTreeMap::new();
        for (position, argument) in written.into_iter().enumerate() {
            let parameter = match &argument.name {
                Some(name) => by_name(procedure, name)?,
                None => procedure
                    .parameters
                    .get(position)
                    .ok_or_else(|| bad_argument(format!("{} takes at most {} arguments", procedure.name, procedure.parameters.len())))?,
            };
            let value = evaluate(runner, procedure, parameter, argument.value).await?;
            if values.insert(parameter.name, value).is_some() {
                return Err(bad_argument(format!("{}: argument '{}' is given twice", procedure.name, parameter.name)));
            }
        }
        let values: BTreeMap<&'static str, Value> = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let missing = procedure.parameters.iter().find(|p| p.required && !values.contains_key(p.name));
        match missing {
            Some(missing) => {
                Err(bad_argument(format!("{}: argument '{}' is missing; it takes {}", procedure.name, missing.name, signature(procedure))))
            }
            None => Ok(Self { values }),
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn required_text(&self, name: &str) -> Result<&str> {
        self.text(name).ok_or_else(|| bad_argument(format!("argument '{name}' is missing")))
    }

    pub fn long(&self, name: &str) -> Option<i64> {
        match self.values.get(name) {
            Some(Value::Long(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn required_long(&self, name: &str) -> Result<i64> {
        self.long(name).ok_or_else(|| bad_argument(format!("argument '{name}' is missing")))
    }

    /// A count: a whole number of at least `least`.
    pub fn count<T: TryFrom<i64>>(&self, name: &str, least: i64) -> Result<Option<T>> {
        let Some(number) = self.long(name) else { return Ok(None) };
        match T::try_from(number) {
            Ok(count) if number >= least => Ok(Some(count)),
            _ => Err(bad_argument(format!("argument '{name}' is {number}, it must be at least {least}"))),
        }
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.values.get(name) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub fn time_ms(&self, name: &str) -> Option<i64> {
        match self.values.get(name) {
            Some(Value::Time(time)) => Some(*time),
            _ => None,
        }
    }

    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        match self.values.get(name) {
            Some(Value::Map(map)) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// An array of strings; `None` if it was left out.
    pub fn texts(&self, name: &str) -> Option<&[String]> {
        match self.values.get(name) {
            Some(Value::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    pub fn longs(&self, name: &str) -> Vec<i64> {
        match self.values.get(name) {
            Some(Value::Longs(numbers)) => numbers.clone(),
            _ => Vec::new(),
        }
    }
}

fn by_name(procedure: &'static Procedure, name: &str) -> Result<&'static Parameter> {
    let found = procedure.parameters.iter().find(|parameter| parameter.name == name);
    found.ok_or_else(|| bad_argument(format!("{} has no argument '{name}'; it takes {}", procedure.name, signature(procedure))))
}

fn signature(procedure: &Procedure) -> String {
    procedure.parameters.iter().map(|parameter| parameter.name).collect::<Vec<_>>().join(", ")
}

async fn evaluate(runner: &Runner<'_>, procedure: &Procedure, parameter: &Parameter, written: Written) -> Result<Option<Value>> {
    let wrong =
        |what: &str| bad_argument(format!("{}: argument '{}' must be {}, not {what}", procedure.name, parameter.name, parameter.kind.article()));
    let value = match (parameter.kind, written) {
        (_, Written::Scalar(expr)) if is_null(&expr) => return Ok(None),
        (kind, Written::Scalar(expr)) if is_computed(&expr) => return computed(runner, kind, &expr).await,
        (Kind::Text, Written::Scalar(expr)) => Value::Text(text(&expr).ok_or_else(|| wrong(&expr.to_string()))?),
        (Kind::Long, Written::Scalar(expr)) => Value::Long(long(&expr).ok_or_else(|| wrong(&expr.to_string()))?),
        (Kind::Bool, Written::Scalar(expr)) => match expr.as_ref() {
            Expr::Value(value) => match value.value {
                SqlValue::Boolean(flag) => Value::Bool(flag),
                _ => return Err(wrong(&expr.to_string())),
            },
            _ => return Err(wrong(&expr.to_string())),
        },
        (Kind::Time, Written::Scalar(expr)) => {
            let time = evaluate_time(&expr.to_string())
                .await
                .map_err(|error| bad_argument(format!("{}: argument '{}': {}", procedure.name, parameter.name, error.message())))?;
            Value::Time(time)
        }
        (Kind::Map, Written::Map(mut items)) => {
            for item in items.iter_mut().filter(|item| is_computed(item)) {
                let found = runner.scalar(item, DataType::Utf8).await?;
                let Some(ScalarValue::Utf8(Some(text))) = found else { return Err(wrong(&format!("a map with {item}, which is NULL"))) };
                *item = Expr::Value(SqlValue::SingleQuotedString(text).into());
            }
            Value::Map(map(&items).map_err(|what| wrong(&what))?)
        }
        (Kind::Longs, Written::Array(items)) => {
            let mut numbers = Vec::with_capacity(items.len());
            for item in &items {
                let number = match is_computed(item) {
                    true => computed(runner, Kind::Long, item).await?.and_then(|value| match value {
                        Value::Long(number) => Some(number),
                        _ => None,
                    }),
                    false => long(item),
                };
                numbers.push(number.ok_or_else(|| wrong("an array of something else"))?);
            }
            Value::Longs(numbers)
        }
        (Kind::Texts, Written::Array(items)) => {
            let texts = items.iter().map(|item| text(item).ok_or_else(|| wrong("an array of something else"))).collect::<Result<_>>()?;
            Value::Texts(texts)
        }
        (_, Written::Scalar(expr)) => return Err(wrong(&expr.to_string())),
        (_, Written::Map(_)) => return Err(wrong("a map")),
        (_, Written::Array(_)) => return Err(wrong("an array")),
    };
    Ok(Some(value))
}

fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == SqlValue::Null)
}

/// Whether an expression is more than a literal. Columns and names are not: nothing in a CALL could give them a value.
fn is_computed(expr: &Expr) -> bool {
    match expr {
        Expr::Subquery(_) | Expr::Function(_) | Expr::Cast { .. } | Expr::BinaryOp { .. } => true,
        Expr::Nested(inner) => is_computed(inner),
        _ => false,
    }
}

async fn computed(runner: &Runner<'_>, kind: Kind, expr: &Expr) -> Result<Option<Value>> {
    let data_type = match kind {
        Kind::Long | Kind::Longs => DataType::Int64,
        Kind::Bool => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Millisecond, None),
        Kind::Text => DataType::Utf8,
        Kind::Map | Kind::Texts => return Err(bad_argument(format!("{expr} is not {}", kind.article()))),
    };
    Ok(match runner.scalar(expr, data_type).await? {
        Some(ScalarValue::Int64(Some(number))) => Some(Value::Long(number)),
        Some(ScalarValue::Boolean(Some(flag))) => Some(Value::Bool(flag)),
        Some(ScalarValue::TimestampMillisecond(Some(time), _)) => Some(Value::Time(time)),
        Some(ScalarValue::Utf8(Some(text))) => Some(Value::Text(text)),
        _ => None,
    })
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    }
}

fn long(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Value(value) => match &value.value {
            SqlValue::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => long(expr).map(|number| -number),
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } | Expr::Nested(expr) => long(expr),
        _ => None,
    }
}

/// Keys and values in turn; numbers and booleans count as their text.
fn map(items: &[Expr]) -> std::result::Result<BTreeMap<String, String>, String> {
    let scalar = |expr: &Expr| {
        let found = match expr {
            Expr::Value(value) => match &value.value {
                SqlValue::Number(digits, _) => Some(digits.clone()),
                SqlValue::Boolean(flag) => Some(flag.to_string()),
                _ => text(expr),
            },
            other => long(other).map(|number| number.to_string()),
        };
        found.ok_or_else(|| format!("a map with {expr}"))
    };
    if !items.len().is_multiple_of(2) {
        return Err("a map with a key that has no value".to_owned());
    }
    let mut map = BTreeMap::new();
    for pair in items.chunks(2) {
        let (key, value) = (scalar(&pair[0])?, scalar(&pair[1])?);
        if map.insert(key.clone(), value).is_some() {
            return Err(format!("a map with the key '{key}' twice"));
        }
    }
    Ok(map)
}
