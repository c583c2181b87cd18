//! Column statistics of a data file, taken from its Parquet footer: no row is looked at.

use std::collections::BTreeMap;

use chainalytics_common::Result;
use iceberg::spec::{PrimitiveType, Schema, Type};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::schema::types::ColumnDescriptor;

use super::data_file::{DataFileInfo, to_hex};
use super::transform::{first_chars, minimal_be};

/// Characters (bytes for binary) that a bound keeps: Iceberg's default `truncate(16)`.
const BOUND_LENGTH: usize = 16;

/// A value that can be compared across row groups.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Value {
    Int(i128),
    Float(f64),
    Bytes(Vec<u8>),
}

/// Bounds of one column so far. `known` falls when a row group with values gives none.
struct Bounds {
    known: bool,
    range: Option<(Value, Value)>,
}

/// Fills the column maps, row count and split offsets of `file` from the footer of a file that we wrote.
pub(super) fn fill(file: &mut DataFileInfo, footer: &ParquetMetaData, schema: &Schema) -> Result<()> {
    let id_of = |column: &ColumnDescriptor| {
        let info = column.self_type().get_basic_info();
        info.has_id().then(|| info.id())
    };
    fill_bounded(file, footer, schema, &id_of, usize::MAX)
}

/// As [`fill`], for files whose columns `id_of` finds.
pub(crate) fn fill_from_footer(
    file: &mut DataFileInfo,
    footer: &ParquetMetaData,
    schema: &Schema,
    id_of: &dyn Fn(&ColumnDescriptor) -> Option<i32>,
) -> Result<()> {
    fill_bounded(file, footer, schema, id_of, BOUND_LENGTH)
}

/// Bounds keep `length` characters.
fn fill_bounded(
    file: &mut DataFileInfo,
    footer: &ParquetMetaData,
    schema: &Schema,
    id_of: &dyn Fn(&ColumnDescriptor) -> Option<i32>,
    length: usize,
) -> Result<()> {
    let mut bounds: BTreeMap<i32, Bounds> = BTreeMap::new();
    file.record_count = 0;
    for group in footer.row_groups() {
        file.record_count += u64::try_from(group.num_rows()).unwrap_or(0);
        let offset = group.columns().iter().map(|chunk| chunk.byte_range().0).min().unwrap_or(0);
        file.split_offsets.push(i64::try_from(offset).unwrap_or(i64::MAX));
        for chunk in group.columns() {
            let Some(id) = id_of(chunk.column_descr()) else { continue };
            *file.column_sizes.entry(id).or_default() += u64::try_from(chunk.compressed_size()).unwrap_or(0);
            // Values inside lists and maps have no row count of their own.
            if chunk.column_descr().max_rep_level() > 0 {
                continue;
            }
            let values = u64::try_from(chunk.num_values()).unwrap_or(0);
            *file.value_counts.entry(id).or_default() += values;
            let nulls = chunk.statistics().and_then(|stats| stats.null_count_opt());
            if let Some(nulls) = nulls {
                *file.null_value_counts.entry(id).or_default() += nulls;
            }
            let Some(Type::Primitive(primitive)) = schema.field_by_id(id).map(|field| field.field_type.as_ref()) else {
                continue;
            };
            let entry = bounds.entry(id).or_insert(Bounds { known: true, range: None });
            if nulls == Some(values) {
                continue;
            }
            match range_of(chunk, primitive) {
                Some(range) => entry.widen(range),
                None => entry.known = false,
            }
        }
    }
    for (id, bounds) in bounds {
        let (true, Some((low, high))) = (bounds.known, bounds.range) else { continue };
        let Some(Type::Primitive(primitive)) = schema.field_by_id(id).map(|field| field.field_type.as_ref()) else {
            continue;
        };
        if let Some(bytes) = lower(low, primitive, length) {
            file.lower_bounds.insert(id, to_hex(&bytes));
        }
        if let Some(bytes) = upper(high, primitive, length) {
            file.upper_bounds.insert(id, to_hex(&bytes));
        }
    }
    Ok(())
}

impl Bounds {
    fn widen(&mut self, (low, high): (Value, Value)) {
        self.range = Some(match self.range.take() {
            None => (low, high),
            Some((old_low, old_high)) => (if low < old_low { low } else { old_low }, if high > old_high { high } else { old_high }),
        });
    }
}

fn range_of(chunk: &ColumnChunkMetaData, primitive: &PrimitiveType) -> Option<(Value, Value)> {
    let stats = chunk.statistics()?;
    // A shortened bound of a fixed-length value would no longer have its type's length.
    let fixed = matches!(primitive, PrimitiveType::Fixed(_) | PrimitiveType::Uuid);
    if fixed && !(stats.min_is_exact() && stats.max_is_exact()) {
        return None;
    }
    let physical = chunk.column_type();
    let low = value(stats.min_bytes_opt()?, physical, primitive)?;
    let high = value(stats.max_bytes_opt()?, physical, primitive)?;
    Some((low, high))
}

fn value(bytes: &[u8], physical: PhysicalType, primitive: &PrimitiveType) -> Option<Value> {
    Some(match physical {
        PhysicalType::BOOLEAN => Value::Int(i128::from(*bytes.first()?)),
        PhysicalType::INT32 => Value::Int(i128::from(i32::from_le_bytes(bytes.try_into().ok()?))),
        PhysicalType::INT64 => Value::Int(i128::from(i64::from_le_bytes(bytes.try_into().ok()?))),
        PhysicalType::FLOAT => finite(f64::from(f32::from_le_bytes(bytes.try_into().ok()?)))?,
        PhysicalType::DOUBLE => finite(f64::from_le_bytes(bytes.try_into().ok()?))?,
        PhysicalType::INT96 => return None,
        PhysicalType::BYTE_ARRAY | PhysicalType::FIXED_LEN_BYTE_ARRAY => match primitive {
            PrimitiveType::Decimal { .. } => Value::Int(from_be(bytes)?),
            _ => Value::Bytes(bytes.to_vec()),
        },
    })
}

fn finite(value: f64) -> Option<Value> {
    (!value.is_nan()).then_some(Value::Float(value))
}

fn from_be(bytes: &[u8]) -> Option<i128> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let mut full = [if bytes[0] & 0x80 == 0 { 0 } else { 0xff }; 16];
    full[16 - bytes.len()..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(full))
}

/// Iceberg's binary single-value serialisation (spec, Appendix D).
fn serialize(value: &Value, primitive: &PrimitiveType) -> Option<Vec<u8>> {
    Some(match (value, primitive) {
        (Value::Int(v), PrimitiveType::Boolean) => vec![u8::from(*v != 0)],
        (Value::Int(v), PrimitiveType::Int | PrimitiveType::Date) => i32::try_from(*v).ok()?.to_le_bytes().to_vec(),
        (Value::Int(v), PrimitiveType::Decimal { .. }) => minimal_be(*v),
        (Value::Int(v), _) => i64::try_from(*v).ok()?.to_le_bytes().to_vec(),
        (Value::Float(v), PrimitiveType::Float) => (*v as f32).to_le_bytes().to_vec(),
        (Value::Float(v), _) => v.to_le_bytes().to_vec(),
        (Value::Bytes(bytes), _) => bytes.clone(),
    })
}

fn lower(value: Value, primitive: &PrimitiveType, length: usize) -> Option<Vec<u8>> {
    shorten_lower(serialize(&value, primitive)?, primitive, length)
}

fn upper(value: Value, primitive: &PrimitiveType, length: usize) -> Option<Vec<u8>> {
    shorten_upper(serialize(&value, primitive)?, primitive, length)
}

/// A lower bound of at most `length` characters (bytes for binary).
pub(super) fn shorten_lower(bytes: Vec<u8>, primitive: &PrimitiveType, length: usize) -> Option<Vec<u8>> {
    Some(match primitive {
        PrimitiveType::String => first_chars(std::str::from_utf8(&bytes).ok()?, length).as_bytes().to_vec(),
        PrimitiveType::Binary => bytes[..bytes.len().min(length)].to_vec(),
        _ => bytes,
    })
}

/// As [`shorten_lower`] for an upper bound; `None` if there is none so short.
pub(super) fn shorten_upper(bytes: Vec<u8>, primitive: &PrimitiveType, length: usize) -> Option<Vec<u8>> {
    match primitive {
        PrimitiveType::String => upper_text(std::str::from_utf8(&bytes).ok()?, length).map(String::into_bytes),
        PrimitiveType::Binary => upper_binary(bytes, length),
        _ => Some(bytes),
    }
}

/// The text itself if short, otherwise the least short text above it; `None` if there is none.
fn upper_text(text: &str, length: usize) -> Option<String> {
    let mut head = first_chars(text, length).to_owned();
    if head.len() == text.len() {
        return Some(head);
    }
    while let Some(last) = head.pop() {
        let next = match u32::from(last) + 1 {
            // Surrogates are no characters.
            0xd800 => 0xe000,
            next => next,
        };
        if let Some(next) = char::from_u32(next) {
            head.push(next);
            return Some(head);
        }
    }
    None
}

fn upper_binary(mut bytes: Vec<u8>, length: usize) -> Option<Vec<u8>> {
    if bytes.len() <= length {
        return Some(bytes);
    }
    bytes.truncate(length);
    while let Some(last) = bytes.pop() {
        if last < 0xff {
            bytes.push(last + 1);
            return Some(bytes);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_bounds_stay_above_what_they_shorten() {
        assert_eq!(upper_text("short", 16).as_deref(), Some("short"));
        assert_eq!(upper_text("abcdefghijklmnopq", 16).as_deref(), Some("abcdefghijklmnoq"));
        let edge = format!("a{}", "\u{10ffff}".repeat(20));
        assert_eq!(upper_text(&edge, 16).as_deref(), Some("b"));
        assert_eq!(upper_text(&"\u{10ffff}".repeat(20), 16), None);
        assert_eq!(upper_binary(vec![0xff; 17], 16), None);
        assert_eq!(upper_binary([vec![1], vec![0xff; 17]].concat(), 16), Some(vec![2]));
    }

    #[test]
    fn decimals_keep_their_sign() {
        assert_eq!(from_be(&[0xff, 0x7f]), Some(-129));
        assert_eq!(from_be(&[0x00, 0x80]), Some(128));
    }
}
