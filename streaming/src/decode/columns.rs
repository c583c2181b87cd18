//! Columns that grow field by field and can forget a record that turned out to be invalid.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use chainalytics_common::Result;

use super::reject::{RejectCode, shown};
use super::timestamp::{from_epoch_ms, in_range, parse_timestamp_us};
use crate::err;
use crate::topics::{FieldKind, FieldSpec, RecordSchema};

/// Largest integer up to which every integer is a double, 2^53.
const DOUBLE_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Why a value does not fit its column.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) code: RejectCode,
    pub(super) error: String,
    /// The field at fault, if it is one.
    pub(super) field: Option<String>,
}

impl Misfit {
    /// The record as a whole is at fault.
    pub(super) fn of_record(code: RejectCode, error: String) -> Self {
        Self { code, error, field: None }
    }

    fn of_field(code: RejectCode, spec: &FieldSpec, error: String) -> Self {
        Self { code, error, field: Some(spec.name.clone()) }
    }
}

/// One scalar as a format's parser hands it over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    /// A decimal number: its digits, and how many of them stand behind the point.
    Decimal(i128, u8),
    /// A moment, microseconds since the epoch.
    Micros(i64),
    Text(&'a str),
}

enum Values {
    Text { bytes: Vec<u8>, ends: Vec<i32> },
    Int(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    Boolean(Vec<bool>),
    Timestamp(Vec<i64>),
}

/// One field's values.
pub(super) struct Column {
    spec: FieldSpec,
    values: Values,
    /// Rows that hold null, ascending.
    nulls: Vec<u32>,
    rows: usize,
}

impl Column {
    fn new(spec: FieldSpec) -> Self {
        let values = match spec.kind {
            FieldKind::Text | FieldKind::Id => Values::Text { bytes: Vec::new(), ends: Vec::new() },
            FieldKind::Int => Values::Int(Vec::new()),
            FieldKind::Long => Values::Long(Vec::new()),
            FieldKind::Float => Values::Float(Vec::new()),
            FieldKind::Double => Values::Double(Vec::new()),
            FieldKind::Decimal { .. } => Values::Decimal(Vec::new()),
            FieldKind::Boolean => Values::Boolean(Vec::new()),
            FieldKind::Timestamp => Values::Timestamp(Vec::new()),
        };
        Self { spec, values, nulls: Vec::new(), rows: 0 }
    }

    pub(super) fn spec(&self) -> &FieldSpec {
        &self.spec
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Appends a value, or says why it does not fit; then nothing has changed.
    pub(super) fn push(&mut self, scalar: Scalar<'_>) -> Result<(), Misfit> {
        match (&mut self.values, scalar) {
            (_, Scalar::Null) => return self.push_null(),
            (Values::Text { bytes, ends }, Scalar::Text(text)) => {
                if !self.spec.allowed.is_empty() && !self.spec.allowed.iter().any(|allowed| allowed == text) {
                    return Err(not_allowed(&self.spec, text));
                }
                bytes.extend_from_slice(text.as_bytes());
                ends.push(bytes.len() as i32);
            }
            (Values::Text { bytes, ends }, Scalar::Int(_) | Scalar::Unsigned(_)) if self.spec.kind == FieldKind::Id => {
                use std::io::Write;
                // Writing into a Vec cannot fail.
                let _ = match scalar {
                    Scalar::Int(value) => write!(bytes, "{value}"),
                    Scalar::Unsigned(value) => write!(bytes, "{value}"),
                    _ => Ok(()),
                };
                ends.push(bytes.len() as i32);
            }
            (Values::Int(values), scalar) => match integer(scalar).and_then(|value| i32::try_from(value).ok()) {
                Some(value) => values.push(value),
                None => return Err(mismatch(&self.spec, scalar)),
            },
            (Values::Long(values), scalar) => match integer(scalar) {
                Some(value) => values.push(value),
                None => return Err(mismatch(&self.spec, scalar)),
            },
            (Values::Double(values), scalar) => match double(scalar) {
                Some(value) => values.push(value),
                None => return Err(mismatch(&self.spec, scalar)),
            },
            (Values::Float(values), scalar) => match double(scalar).and_then(single) {
                Some(value) => values.push(value),
                None => return Err(mismatch(&self.spec, scalar)),
            },
            (Values::Decimal(values), scalar) => match decimal(self.spec.kind, scalar) {
                Some(value) => values.push(value),
                None => return Err(mismatch(&self.spec, scalar)),
            },
            (Values::Boolean(values), Scalar::Bool(value)) => values.push(value),
            (Values::Timestamp(values), scalar) => {
                let us = match scalar {
                    Scalar::Text(text) => parse_timestamp_us(text),
                    Scalar::Micros(us) => in_range(us),
                    scalar => match integer(scalar) {
                        Some(milliseconds) => from_epoch_ms(milliseconds),
                        None => return Err(mismatch(&self.spec, scalar)),
                    },
                };
                match us {
                    Some(us) => values.push(us),
                    None => return Err(bad_timestamp(&self.spec, scalar)),
                }
            }
            (_, scalar) => return Err(mismatch(&self.spec, scalar)),
        }
        self.rows += 1;
        Ok(())
    }

    fn push_null(&mut self) -> Result<(), Misfit> {
        if self.spec.required {
            return Err(Misfit::of_field(RejectCode::MissingField, &self.spec, format!("required field '{}' is null", self.spec.name)));
        }
        match &mut self.values {
            Values::Text { bytes, ends } => ends.push(bytes.len() as i32),
            Values::Int(values) => values.push(0),
            Values::Long(values) | Values::Timestamp(values) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Boolean(values) => values.push(false),
        }
        self.nulls.push(self.rows as u32);
        self.rows += 1;
        Ok(())
    }

    fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Text { bytes, ends } => {
                ends.truncate(rows);
                bytes.truncate(ends.last().map_or(0, |end| *end as usize));
            }
            Values::Int(values) => values.truncate(rows),
            Values::Long(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
        }
        while self.nulls.last().is_some_and(|row| *row as usize >= rows) {
            self.nulls.pop();
        }
        self.rows = rows;
    }

    /// The column as an array; empty afterwards.
    fn finish(&mut self) -> Result<ArrayRef> {
        let rows = std::mem::take(&mut self.rows);
        let nulls = if self.nulls.is_empty() {
            None
        } else {
            let mut valid = vec![true; rows];
            for row in self.nulls.drain(..) {
                valid[row as usize] = false;
            }
            Some(NullBuffer::from(BooleanBuffer::from(valid)))
        };
        Ok(match &mut self.values {
            Values::Text { bytes, ends } => {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                offsets.append(ends);
                let bytes = take(bytes);
                let text = StringArray::try_new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(bytes), nulls)
                    .map_err(|e| err::internal(format!("column '{}': {e}", self.spec.name)))?;
                Arc::new(text)
            }
            Values::Int(values) => Arc::new(Int32Array::new(ScalarBuffer::from(take(values)), nulls)),
            Values::Long(values) => Arc::new(Int64Array::new(ScalarBuffer::from(take(values)), nulls)),
            Values::Float(values) => Arc::new(Float32Array::new(ScalarBuffer::from(take(values)), nulls)),
            Values::Double(values) => Arc::new(Float64Array::new(ScalarBuffer::from(take(values)), nulls)),
            Values::Decimal(values) => {
                let array = Decimal128Array::new(ScalarBuffer::from(take(values)), nulls).with_data_type(self.spec.kind.data_type());
                Arc::new(array)
            }
            Values::Boolean(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(take(values)), nulls)),
            Values::Timestamp(values) => Arc::new(TimestampMicrosecondArray::new(ScalarBuffer::from(take(values)), nulls).with_timezone("UTC")),
        })
    }
}

/// The vector's content, leaving one of the same size behind: the next chunk is about as large.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let capacity = values.len();
    std::mem::replace(values, Vec::with_capacity(capacity))
}

fn integer(scalar: Scalar<'_>) -> Option<i64> {
    match scalar {
        Scalar::Int(value) => Some(value),
        Scalar::Unsigned(value) => i64::try_from(value).ok(),
        // `5.0` and `1e3` are integers in JSON, which has one kind of number.
        Scalar::Float(value) if value.fract() == 0.0 && value.abs() <= DOUBLE_INTEGER_MAX => Some(value as i64),
        Scalar::Decimal(digits, scale) => i64::try_from(rescale(digits, scale, 0)?).ok(),
        _ => None,
    }
}

/// The same number with another count of digits behind the point; `None` if it has more than that, or is too large.
fn rescale(digits: i128, from: u8, to: u8) -> Option<i128> {
    let power = |n: u8| 10_i128.checked_pow(n.into());
    if to >= from {
        return digits.checked_mul(power(to - from)?);
    }
    let divisor = power(from - to)?;
    (digits % divisor == 0).then(|| digits / divisor)
}

/// A number as a 32-bit float, if it is one. Infinity and NaN are.
fn single(value: f64) -> Option<f32> {
    let single = value as f32;
    (f64::from(single) == value || value.is_nan()).then_some(single)
}

/// A number as the digits of a decimal column.
fn decimal(kind: FieldKind, scalar: Scalar<'_>) -> Option<i128> {
    let FieldKind::Decimal { precision, scale } = kind else { return None };
    let (digits, from) = match scalar {
        Scalar::Int(value) => (value.into(), 0),
        Scalar::Unsigned(value) => (value.into(), 0),
        Scalar::Decimal(digits, from) => (digits, from),
        // The shortest text that means this float; never with an exponent.
        Scalar::Float(value) if value.is_finite() => parse_decimal(&value.to_string())?,
        Scalar::Text(text) => parse_decimal(text)?,
        _ => return None,
    };
    let digits = rescale(digits, from, scale)?;
    (digits.unsigned_abs() < 10_u128.checked_pow(precision.into())?).then_some(digits)
}

/// `-12.340` as its digits and how many of them stand behind the point, zeros at the end left out.
fn parse_decimal(text: &str) -> Option<(i128, u8)> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((sign * digits, u8::try_from(fraction.len()).ok()?))
}

fn double(scalar: Scalar<'_>) -> Option<f64> {
    match scalar {
        Scalar::Float(value) => Some(value),
        Scalar::Int(value) => Some(value as f64),
        Scalar::Unsigned(value) => Some(value as f64),
        Scalar::Decimal(digits, scale) => Some(digits as f64 / 10_f64.powi(scale.into())),
        _ => None,
    }
}

pub(super) fn describe(scalar: Scalar<'_>) -> String {
    match scalar {
        Scalar::Null => "null".to_owned(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Unsigned(value) => value.to_string(),
        Scalar::Float(value) => value.to_string(),
        Scalar::Decimal(digits, scale) => format!("{digits}e-{scale}"),
        Scalar::Micros(value) => format!("timestamp {value} us"),
        Scalar::Text(text) => format!("\"{}\"", shown(text)),
    }
}

fn mismatch(spec: &FieldSpec, scalar: Scalar<'_>) -> Misfit {
    mismatch_of(spec, &describe(scalar))
}

pub(super) fn mismatch_of(spec: &FieldSpec, value: &str) -> Misfit {
    Misfit::of_field(RejectCode::TypeMismatch, spec, format!("field '{}': {value} is no {}", spec.name, spec.kind.name()))
}

fn bad_timestamp(spec: &FieldSpec, scalar: Scalar<'_>) -> Misfit {
    Misfit::of_field(RejectCode::BadTimestamp, spec, format!("field '{}': {} is no {}", spec.name, describe(scalar), spec.kind.name()))
}

fn not_allowed(spec: &FieldSpec, text: &str) -> Misfit {
    Misfit::of_field(RejectCode::NotAllowed, spec, format!("field '{}': \"{}\" is none of {}", spec.name, shown(text), spec.allowed.join(", ")))
}

/// The columns of a record schema.
pub(super) struct Columns {
    columns: Vec<Column>,
    rows: usize,
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Columns").field("columns", &self.columns.len()).field("rows", &self.rows).finish()
    }
}

impl Columns {
    pub(super) fn new(schema: &RecordSchema) -> Self {
        Self { columns: schema.fields.iter().cloned().map(Column::new).collect(), rows: 0 }
    }

    pub(super) fn column(&mut self, index: usize) -> &mut Column {
        &mut self.columns[index]
    }

    /// Column named `name`; `hint` is tried first, as records tend to have their fields in one order.
    pub(super) fn position(&self, name: &str, hint: usize) -> Option<usize> {
        if self.columns.get(hint).is_some_and(|column| column.spec.name == name) {
            return Some(hint);
        }
        self.columns.iter().position(|column| column.spec.name == name)
    }

    /// Whether the record in progress has a value for this field already.
    pub(super) fn has_value(&self, index: usize) -> bool {
        self.columns[index].rows() > self.rows
    }

    /// Completes the record in progress: absent optional fields become null. On a misfit call [`Self::rollback`].
    pub(super) fn commit_row(&mut self) -> Result<(), Misfit> {
        for column in &mut self.columns {
            if column.rows > self.rows {
                continue;
            }
            if column.spec.required {
                return Err(Misfit::of_field(RejectCode::MissingField, &column.spec, format!("required field '{}' is absent", column.spec.name)));
            }
            column.push_null()?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Forgets the record in progress.
    pub(super) fn rollback(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.rows);
        }
    }

    /// The columns as arrays; empty afterwards.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        self.rows = 0;
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Decimal128Type, Float32Type};

    use super::*;

    fn column(kind: FieldKind) -> Column {
        Column::new(FieldSpec::optional("n", kind))
    }

    #[test]
    fn decimals_keep_every_digit_or_refuse() {
        let mut decimals = column(FieldKind::Decimal { precision: 5, scale: 2 });
        for scalar in [Scalar::Int(7), Scalar::Float(0.1), Scalar::Text("-12.340"), Scalar::Decimal(99_999, 2), Scalar::Decimal(1_230, 3), Scalar::Null] {
            decimals.push(scalar).unwrap();
        }
        let refused =
            [Scalar::Int(1_000), Scalar::Float(0.001), Scalar::Text("1e2"), Scalar::Text("."), Scalar::Decimal(1, 3), Scalar::Float(f64::NAN), Scalar::Bool(true)];
        assert!(refused.into_iter().all(|scalar| decimals.push(scalar).is_err()));
        let array = decimals.finish().unwrap();
        assert_eq!(array.data_type(), &arrow::datatypes::DataType::Decimal128(5, 2));
        assert_eq!(array.as_primitive::<Decimal128Type>().values()[..5], [700, 10, -1_234, 99_999, 123]);
        assert!(array.is_null(5));
    }

    #[test]
    fn floats_take_what_they_have_exactly() {
        let mut floats = column(FieldKind::Float);
        for scalar in [Scalar::Float(0.5), Scalar::Int(3), Scalar::Float(f64::INFINITY), Scalar::Float(f64::from(0.1_f32))] {
            floats.push(scalar).unwrap();
        }
        assert!(floats.push(Scalar::Float(0.1)).is_err() && floats.push(Scalar::Int(16_777_217)).is_err());
        assert_eq!(floats.finish().unwrap().as_primitive::<Float32Type>().values()[..2], [0.5, 3.0]);
        assert_eq!(double(Scalar::Decimal(-1_234, 2)), Some(-12.34));
    }
}
