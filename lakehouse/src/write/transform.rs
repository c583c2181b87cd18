//! Partition transforms on Arrow arrays. Source: Iceberg spec, "Partition Transforms" and Appendix B (32-bit hash).

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, Int32Array, PrimitiveArray, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use chainalytics_common::Result;
use iceberg::spec::Transform;

use crate::err;

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;
const NANOS_PER_MICRO: i64 = 1_000;

/// Applies a transform to a column whose type is what `table::arrow_schema` makes of its Iceberg type, or the view of it.
pub(crate) fn apply(transform: Transform, column: &ArrayRef) -> Result<ArrayRef> {
    match transform {
        Transform::Identity => Ok(Arc::clone(column)),
        Transform::Void => Ok(new_null_array(column.data_type(), column.len())),
        Transform::Year => dates(transform, column, |days| civil(days).0 - 1970),
        Transform::Month => dates(transform, column, |days| {
            let (year, month) = civil(days);
            (year - 1970) * 12 + month - 1
        }),
        Transform::Day => days(transform, column),
        Transform::Hour => hours(column),
        Transform::Bucket(buckets) => bucket(&without_views(column)?, buckets),
        Transform::Truncate(width) => truncate(&without_views(column)?, width),
        Transform::Unknown => Err(err::unsupported("a partition transform that this version does not know")),
    }
}

/// Text and bytes in one buffer, as tables have them.
fn without_views(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Utf8View => cast(column, &DataType::Utf8).map_err(err::arrow),
        DataType::BinaryView => cast(column, &DataType::Binary).map_err(err::arrow),
        _ => Ok(Arc::clone(column)),
    }
}

fn no_such(transform: impl std::fmt::Display, column: &ArrayRef) -> chainalytics_common::Error {
    err::unsupported(format!("transform {transform} of a column of type {}", column.data_type()))
}

/// Days since the epoch of a date or timestamp column, as Date32.
fn days(transform: Transform, column: &ArrayRef) -> Result<ArrayRef> {
    let micros_to_days = |micros: i64| micros.div_euclid(MICROS_PER_DAY) as i32;
    Ok(match column.data_type() {
        DataType::Date32 => Arc::clone(column),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            Arc::new(values.unary::<_, Date32Type>(micros_to_days))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = column.as_primitive::<TimestampNanosecondType>();
            Arc::new(values.unary::<_, Date32Type>(|nanos| micros_to_days(nanos.div_euclid(NANOS_PER_MICRO))))
        }
        _ => return Err(no_such(transform, column)),
    })
}

fn dates(transform: Transform, column: &ArrayRef, of_day: impl Fn(i32) -> i32) -> Result<ArrayRef> {
    let days = days(transform, column)?;
    Ok(Arc::new(days.as_primitive::<Date32Type>().unary::<_, Int32Type>(of_day)))
}

fn hours(column: &ArrayRef) -> Result<ArrayRef> {
    let micros_to_hours = |micros: i64| micros.div_euclid(MICROS_PER_HOUR) as i32;
    Ok(match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().unary::<_, Int32Type>(micros_to_hours))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = column.as_primitive::<TimestampNanosecondType>();
            Arc::new(values.unary::<_, Int32Type>(|nanos| micros_to_hours(nanos.div_euclid(NANOS_PER_MICRO))))
        }
        _ => return Err(no_such("hour", column)),
    })
}

/// Year and month (1-12) of a day since the epoch, proleptic Gregorian.
fn civil(days: i32) -> (i32, i32) {
    let shifted = i64::from(days) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months counted from March, so that the leap day ends the year.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as i32, month as i32)
}

fn bucket(column: &ArrayRef, buckets: u32) -> Result<ArrayRef> {
    let buckets = i32::try_from(buckets).ok().filter(|n| *n > 0).ok_or_else(|| err::invalid("bucket count"))?;
    let of = |hash: u32| ((hash & 0x7fff_ffff) as i32) % buckets;
    Ok(match column.data_type() {
        DataType::Int32 => longs::<Int32Type>(column, |v| of(hash_long(i64::from(v)))),
        DataType::Date32 => longs::<Date32Type>(column, |v| of(hash_long(i64::from(v)))),
        DataType::Int64 => longs::<Int64Type>(column, |v| of(hash_long(v))),
        DataType::Time64(TimeUnit::Microsecond) => longs::<Time64MicrosecondType>(column, |v| of(hash_long(v))),
        DataType::Timestamp(TimeUnit::Microsecond, _) => longs::<TimestampMicrosecondType>(column, |v| of(hash_long(v))),
        // Nanoseconds hash as the microsecond they fall into, so that widening a column keeps its buckets.
        DataType::Timestamp(TimeUnit::Nanosecond, _) => longs::<TimestampNanosecondType>(column, |v| of(hash_long(v.div_euclid(NANOS_PER_MICRO)))),
        DataType::Decimal128(_, _) => longs::<Decimal128Type>(column, |v| of(murmur3(&minimal_be(v)))),
        DataType::Utf8 => each(column.as_string::<i32>().iter().map(|v| v.map(|v| of(murmur3(v.as_bytes()))))),
        DataType::Binary => each(column.as_binary::<i32>().iter().map(|v| v.map(|v| of(murmur3(v))))),
        DataType::FixedSizeBinary(_) => each(column.as_fixed_size_binary().iter().map(|v| v.map(|v| of(murmur3(v))))),
        _ => return Err(no_such(Transform::Bucket(buckets as u32), column)),
    })
}

fn longs<T: ArrowPrimitiveType>(column: &ArrayRef, of: impl Fn(T::Native) -> i32) -> ArrayRef {
    Arc::new(column.as_primitive::<T>().unary::<_, Int32Type>(of))
}

fn each(values: impl Iterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.collect::<Int32Array>())
}

fn truncate(column: &ArrayRef, width: u32) -> Result<ArrayRef> {
    if width == 0 {
        return Err(err::invalid("truncate to width 0"));
    }
    let chars = width as usize;
    Ok(match column.data_type() {
        DataType::Int32 => {
            let width = i32::try_from(width).map_err(|_| err::invalid("truncate width"))?;
            rounded::<Int32Type>(column, |v| v.wrapping_sub(v.rem_euclid(width)))
        }
        DataType::Int64 => rounded::<Int64Type>(column, |v| v.wrapping_sub(v.rem_euclid(i64::from(width)))),
        DataType::Decimal128(precision, scale) => {
            let values: PrimitiveArray<Decimal128Type> =
                column.as_primitive::<Decimal128Type>().unary(|v| v.wrapping_sub(v.rem_euclid(i128::from(width))));
            Arc::new(values.with_precision_and_scale(*precision, *scale).map_err(err::arrow)?)
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            Arc::new(values.iter().map(|v| v.map(|text| first_chars(text, chars))).collect::<StringArray>())
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            Arc::new(values.iter().map(|v| v.map(|bytes| &bytes[..bytes.len().min(chars)])).collect::<BinaryArray>())
        }
        _ => return Err(no_such(Transform::Truncate(width), column)),
    })
}

fn rounded<T: ArrowPrimitiveType>(column: &ArrayRef, of: impl Fn(T::Native) -> T::Native) -> ArrayRef {
    Arc::new(column.as_primitive::<T>().unary::<_, T>(of))
}

/// The first `count` characters of a text.
pub(crate) fn first_chars(text: &str, count: usize) -> &str {
    match text.char_indices().nth(count) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Two's complement, big endian, without superfluous leading bytes: how Iceberg serialises unscaled decimals.
pub(crate) fn minimal_be(value: i128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let filler = if value < 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < 15 && bytes[start] == filler && (bytes[start + 1] & 0x80) == (filler & 0x80) {
        start += 1;
    }
    bytes[start..].to_vec()
}

fn hash_long(value: i64) -> u32 {
    murmur3(&value.to_le_bytes())
}

/// Murmur3, x86 variant, 32 bits, seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let mix = |block: u32| block.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash = 0_u32;
    let (blocks, tail) = bytes.as_chunks::<4>();
    for block in blocks {
        hash = (hash ^ mix(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0_u32, |rest, byte| (rest << 8) | u32::from(*byte));
        hash ^= mix(rest);
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{Date32Array, Int64Array, TimestampMicrosecondArray};

    const DAY_2017_11_16: i32 = 17_486;

    #[test]
    fn hashes_are_those_of_the_spec() {
        let cases: [(u32, i32); 7] = [
            (hash_long(34), 2_017_239_379),
            (murmur3(b"iceberg"), 1_210_000_089),
            (hash_long(i64::from(DAY_2017_11_16)), -653_330_422),
            // time 22:31:08, timestamp 2017-11-16T22:31:08, decimal 14.20, binary 00 01 02 03
            (hash_long(81_068_000_000), -662_762_989),
            (hash_long(1_510_871_468_000_000), -2_047_944_441),
            (murmur3(&minimal_be(1420)), -500_754_589),
            (murmur3(&[0, 1, 2, 3]), -188_683_207),
        ];
        for (hash, expected) in cases {
            assert_eq!(hash as i32, expected);
        }
    }

    #[test]
    fn bucket_is_never_negative_and_keeps_nulls() {
        let column: ArrayRef = Arc::new(Date32Array::from(vec![Some(DAY_2017_11_16), None]));
        let buckets = apply(Transform::Bucket(16), &column).unwrap();
        let buckets = buckets.as_primitive::<Int32Type>();
        assert_eq!(buckets.value(0), (-653_330_422_i32 & i32::MAX) % 16);
        assert!(buckets.is_null(1));
    }

    #[test]
    fn time_transforms_floor_before_the_epoch_too() {
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_510_871_468_000_000, -1]));
        let value = |transform| {
            let out = apply(transform, &column).unwrap();
            match out.data_type() {
                DataType::Date32 => out.as_primitive::<Date32Type>().values().to_vec(),
                _ => out.as_primitive::<Int32Type>().values().to_vec(),
            }
        };
        assert_eq!(value(Transform::Year), [47, -1]);
        assert_eq!(value(Transform::Month), [574, -1]);
        assert_eq!(value(Transform::Day), [DAY_2017_11_16, -1]);
        assert_eq!(value(Transform::Hour), [419_686, -1]);
    }

    #[test]
    fn truncate_rounds_down_and_cuts_characters() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, -1, 10]));
        let out = apply(Transform::Truncate(10), &numbers).unwrap();
        assert_eq!(out.as_primitive::<Int64Type>().values(), &[0, -10, 10]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["iceberg", "été"]));
        let out = apply(Transform::Truncate(2), &texts).unwrap();
        assert_eq!(out.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["ic", "ét"]);
    }

    #[test]
    fn decimals_serialise_without_superfluous_bytes() {
        assert_eq!(minimal_be(0), [0]);
        assert_eq!(minimal_be(127), [0x7f]);
        assert_eq!(minimal_be(128), [0x00, 0x80]);
        assert_eq!(minimal_be(-128), [0x80]);
        assert_eq!(minimal_be(-129), [0xff, 0x7f]);
    }
}
