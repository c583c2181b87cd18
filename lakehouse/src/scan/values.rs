//! Values of Iceberg metadata (bounds, partition values) as DataFusion scalars, and the range of source values
//! that a partition value stands for (Iceberg spec, "Partition Transforms").

use chrono::{Datelike, NaiveDate};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use iceberg::spec::{Datum, Literal, PrimitiveLiteral, PrimitiveType, Transform};

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const HOURS_PER_DAY: i64 = 24;

/// A literal as a scalar of the column's Arrow type; `None` if the two do not fit (no statistics then).
pub fn literal_to_scalar(value: &PrimitiveLiteral, to: &DataType) -> Option<ScalarValue> {
    use PrimitiveLiteral as L;
    Some(match (value, to) {
        (L::Boolean(v), DataType::Boolean) => ScalarValue::Boolean(Some(*v)),
        (L::Int(v), DataType::Int32) => ScalarValue::Int32(Some(*v)),
        (L::Int(v), DataType::Int64) => ScalarValue::Int64(Some(i64::from(*v))),
        (L::Long(v), DataType::Int64) => ScalarValue::Int64(Some(*v)),
        (L::Float(v), DataType::Float32) if !v.is_nan() => ScalarValue::Float32(Some(v.0)),
        (L::Float(v), DataType::Float64) if !v.is_nan() => ScalarValue::Float64(Some(f64::from(v.0))),
        (L::Double(v), DataType::Float64) if !v.is_nan() => ScalarValue::Float64(Some(v.0)),
        (L::Int(v), DataType::Date32) => ScalarValue::Date32(Some(*v)),
        (L::Long(v), DataType::Time64(TimeUnit::Microsecond)) => ScalarValue::Time64Microsecond(Some(*v)),
        (L::Long(v), DataType::Timestamp(TimeUnit::Microsecond, zone)) => ScalarValue::TimestampMicrosecond(Some(*v), zone.clone()),
        (L::Long(v), DataType::Timestamp(TimeUnit::Nanosecond, zone)) => ScalarValue::TimestampNanosecond(Some(*v), zone.clone()),
        (L::String(v), DataType::Utf8) => ScalarValue::Utf8(Some(v.clone())),
        (L::String(v), DataType::LargeUtf8) => ScalarValue::LargeUtf8(Some(v.clone())),
        (L::String(v), DataType::Utf8View) => ScalarValue::Utf8View(Some(v.clone())),
        (L::Binary(v), DataType::Binary) => ScalarValue::Binary(Some(v.clone())),
        (L::Binary(v), DataType::LargeBinary) => ScalarValue::LargeBinary(Some(v.clone())),
        (L::Binary(v), DataType::BinaryView) => ScalarValue::BinaryView(Some(v.clone())),
        (L::Binary(v), DataType::FixedSizeBinary(n)) => ScalarValue::FixedSizeBinary(*n, Some(v.clone())),
        (L::UInt128(v), DataType::FixedSizeBinary(16)) => ScalarValue::FixedSizeBinary(16, Some(v.to_be_bytes().to_vec())),
        (L::Int128(v), DataType::Decimal128(p, s)) => ScalarValue::Decimal128(Some(*v), *p, *s),
        _ => return None,
    })
}

/// A scalar as an Iceberg datum of the column's type, for applying a transform to a literal of a filter.
pub fn scalar_to_datum(value: &ScalarValue, to: &PrimitiveType) -> Option<Datum> {
    use ScalarValue as S;
    Some(match (value, to) {
        (S::Int32(Some(v)), PrimitiveType::Int) => Datum::int(*v),
        (S::Int64(Some(v)), PrimitiveType::Int) => Datum::int(i32::try_from(*v).ok()?),
        (S::Int32(Some(v)), PrimitiveType::Long) => Datum::long(i64::from(*v)),
        (S::Int64(Some(v)), PrimitiveType::Long) => Datum::long(*v),
        (S::Date32(Some(v)), PrimitiveType::Date) => Datum::date(*v),
        (S::TimestampMicrosecond(Some(v), _), PrimitiveType::Timestamp) => Datum::timestamp_micros(*v),
        (S::TimestampMicrosecond(Some(v), _), PrimitiveType::Timestamptz) => Datum::timestamptz_micros(*v),
        (S::Utf8(Some(v)) | S::LargeUtf8(Some(v)) | S::Utf8View(Some(v)), PrimitiveType::String) => Datum::string(v),
        (S::Binary(Some(v)) | S::LargeBinary(Some(v)) | S::BinaryView(Some(v)), PrimitiveType::Binary) => Datum::binary(v.iter().copied()),
        _ => return None,
    })
}

/// The smallest and largest source value that a transform maps to `value`; either may be unknown.
pub fn source_range(transform: &Transform, value: &Literal, source: &DataType) -> (Option<ScalarValue>, Option<ScalarValue>) {
    let Some(value) = value.as_primitive_literal() else {
        return (None, None);
    };
    match transform {
        Transform::Identity => (literal_to_scalar(&value, source), literal_to_scalar(&value, source)),
        Transform::Truncate(width) => truncate_range(&value, *width, source),
        Transform::Year | Transform::Month | Transform::Day | Transform::Hour => {
            let PrimitiveLiteral::Int(ordinal) = value else {
                return (None, None);
            };
            let ordinal = i64::from(ordinal);
            // Old writers truncated times before 1970 towards zero instead of down: their rows lie one unit lower.
            let first = if ordinal <= 0 { ordinal - 1 } else { ordinal };
            let min = period_start(transform, first).and_then(|s| time_scalar(s, source, 0));
            let max = period_start(transform, ordinal + 1).and_then(|s| time_scalar(s, source, 1));
            (min, max)
        }
        _ => (None, None),
    }
}

fn truncate_range(value: &PrimitiveLiteral, width: u32, source: &DataType) -> (Option<ScalarValue>, Option<ScalarValue>) {
    let min = literal_to_scalar(value, source);
    let last = match value {
        PrimitiveLiteral::Int(v) => i32::try_from(width).ok().and_then(|w| v.checked_add(w - 1)).map(PrimitiveLiteral::Int),
        PrimitiveLiteral::Long(v) => v.checked_add(i64::from(width) - 1).map(PrimitiveLiteral::Long),
        PrimitiveLiteral::Int128(v) => v.checked_add(i128::from(width) - 1).map(PrimitiveLiteral::Int128),
        _ => None,
    };
    (min, last.and_then(|v| literal_to_scalar(&v, source)))
}

/// Hours since 1970 at which a period starts.
fn period_start(transform: &Transform, ordinal: i64) -> Option<i64> {
    let days = match transform {
        Transform::Hour => return Some(ordinal),
        Transform::Day => ordinal,
        Transform::Month => days_of(1970 + ordinal.div_euclid(12), ordinal.rem_euclid(12) + 1)?,
        Transform::Year => days_of(1970 + ordinal, 1)?,
        _ => return None,
    };
    days.checked_mul(HOURS_PER_DAY)
}

fn days_of(year: i64, month: i64) -> Option<i64> {
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, 1)?;
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    Some(i64::from(date.num_days_from_ce() - epoch.num_days_from_ce()))
}

/// The instant `hours` after 1970, less `minus` of the type's unit, as a scalar of the source type.
fn time_scalar(hours: i64, source: &DataType, minus: i64) -> Option<ScalarValue> {
    match source {
        DataType::Date32 => {
            let days = hours.div_euclid(HOURS_PER_DAY) - minus;
            Some(ScalarValue::Date32(Some(i32::try_from(days).ok()?)))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = hours.checked_mul(MICROS_PER_HOUR)?.checked_sub(minus)?;
            Some(ScalarValue::TimestampMicrosecond(Some(micros), zone.clone()))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let nanos = hours.checked_mul(MICROS_PER_HOUR * 1000)?.checked_sub(minus)?;
            Some(ScalarValue::TimestampNanosecond(Some(nanos), zone.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_day_covers_its_microseconds() {
        let source = DataType::Timestamp(TimeUnit::Microsecond, None);
        let (min, max) = source_range(&Transform::Day, &Literal::int(1), &source);
        assert_eq!(min, Some(ScalarValue::TimestampMicrosecond(Some(86_400_000_000), None)));
        assert_eq!(max, Some(ScalarValue::TimestampMicrosecond(Some(2 * 86_400_000_000 - 1), None)));
        let (min, _) = source_range(&Transform::Month, &Literal::int(13), &DataType::Date32);
        assert_eq!(min, Some(ScalarValue::Date32(Some(396))), "1971-02-01");
    }
}
