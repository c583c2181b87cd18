//! JSON objects straight into columns.
//!
//! serde_json's parser drives the columns: it is strict about the grammar, borrows text from the input, and tells which
//! record is at fault. (arrow-json's tape decoder, by its source, accepts objects without commas, truncates 4.7 to 4 for
//! integer columns, takes "5" for 5, and one bad record fails its whole batch.) A double is parsed from its own
//! digits: serde_json's default conversion may be off by one unit in the last place.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use chainalytics_common::Result;

use super::columns::{Columns, Misfit, Scalar, mismatch_of};
use super::reject::{Reject, RejectCode, shown};
use super::{Decoded, RecordChunk};
use crate::topics::{FieldKind, RecordSchema};

/// Length of the schema registry's prefix: a zero byte and the schema's id.
pub(super) const PREFIX_LEN: usize = 5;

/// Decodes JSON objects. Fields that the schema does not name are ignored; a field that appears twice is an error.
#[derive(Debug)]
pub struct JsonDecoder {
    columns: Columns,
}

impl JsonDecoder {
    /// Decoder into `schema`.
    pub fn new(schema: &RecordSchema) -> Self {
        Self { columns: Columns::new(schema) }
    }

    /// Decodes a chunk.
    ///
    /// # Errors
    /// Internal ones only: records that cannot be decoded are in the result.
    pub fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded> {
        let mut rejected: Vec<Reject> = Vec::new();
        let mut accepted: Option<Vec<u32>> = None;
        for row in 0..chunk.len() {
            let (schema_id, value) = match chunk.value(row) {
                None => (None, None),
                Some(value) => {
                    let (schema_id, value) = strip_prefix(value);
                    (schema_id, Some(value))
                }
            };
            let outcome = match value {
                None => Err(Misfit::of_record(RejectCode::Tombstone, "the value is null".to_owned())),
                Some(value) => decode_value(&mut self.columns, value),
            };
            match outcome {
                Ok(()) => {
                    if let Some(accepted) = &mut accepted {
                        accepted.push(row as u32);
                    }
                }
                Err(misfit) => {
                    self.columns.rollback();
                    accepted.get_or_insert_with(|| (0..row as u32).collect());
                    rejected.push(Reject { row: row as u32, code: misfit.code, error: misfit.error, schema_id });
                }
            }
        }
        Ok(Decoded { columns: self.columns.finish()?, accepted, rejected, newer_schema: None })
    }
}

/// Reads one object into the columns. On a misfit the caller rolls back.
pub(super) fn decode_value(columns: &mut Columns, value: &[u8]) -> Result<(), Misfit> {
    // Checked once and as a whole, ignored fields included; the parser then borrows text without looking again.
    let text = std::str::from_utf8(value).map_err(|e| Misfit::of_record(RejectCode::Malformed, format!("not UTF-8: {e}")))?;
    let mut misfit = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let seed = RecordSeed { columns, misfit: &mut misfit };
    let parsed = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (misfit, parsed) {
        (Some(misfit), _) => Err(misfit),
        (None, Err(error)) => {
            let error = match error.classify() {
                Category::Eof => format!("the JSON is cut short: {error}"),
                _ => format!("not a JSON object: {error}"),
            };
            Err(Misfit::of_record(RejectCode::Malformed, error))
        }
        (None, Ok(())) => columns.commit_row(),
    }
}

/// The registry's id and the rest, where the value has the prefix. No JSON text begins with a zero byte.
pub(super) fn strip_prefix(value: &[u8]) -> (Option<i32>, &[u8]) {
    match value {
        [0, a, b, c, d, rest @ ..] => (Some(i32::from_be_bytes([*a, *b, *c, *d])), rest),
        _ => (None, value),
    }
}

/// Reads one object into the columns. What does not fit goes to `misfit`, as serde's errors are only text.
struct RecordSeed<'c> {
    columns: &'c mut Columns,
    misfit: &'c mut Option<Misfit>,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut hint = 0;
        while let Some(position) = map.next_key_seed(KeySeed { columns: self.columns, hint })? {
            let Some(index) = position else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            hint = index + 1;
            if self.columns.has_value(index) {
                let name = &self.columns.column(index).spec().name;
                *self.misfit = Some(Misfit::of_record(RejectCode::Malformed, format!("field '{name}' appears twice")));
                return Err(A::Error::custom("field twice"));
            }
            let pushed = if self.columns.column(index).spec().kind == FieldKind::Double {
                push_double(self.columns, index, map.next_value::<&RawValue>()?.get())
            } else {
                let mut pushed = Ok(());
                map.next_value_seed(ValueSeed { columns: self.columns, index, pushed: &mut pushed })?;
                pushed
            };
            if let Err(misfit) = pushed {
                *self.misfit = Some(misfit);
                return Err(A::Error::custom("value does not fit"));
            }
        }
        Ok(())
    }
}

/// Looks a key up without keeping its text.
struct KeySeed<'c> {
    columns: &'c Columns,
    hint: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.columns.position(name, self.hint))
    }
}

fn push_double(columns: &mut Columns, index: usize, raw: &str) -> Result<(), Misfit> {
    let column = columns.column(index);
    match raw.as_bytes().first() {
        Some(b'n') => column.push(Scalar::Null),
        Some(b'-' | b'0'..=b'9') => match raw.parse::<f64>() {
            Ok(value) if value.is_finite() => column.push(Scalar::Float(value)),
            _ => Err(mismatch_of(column.spec(), &shown(raw))),
        },
        _ => Err(mismatch_of(column.spec(), &shown(raw))),
    }
}

struct ValueSeed<'c> {
    columns: &'c mut Columns,
    index: usize,
    pushed: &'c mut Result<(), Misfit>,
}

impl ValueSeed<'_> {
    fn push<E>(self, scalar: Scalar<'_>) -> Result<(), E> {
        *self.pushed = self.columns.column(self.index).push(scalar);
        Ok(())
    }

    fn refuse<E>(self, what: &str) -> Result<(), E> {
        *self.pushed = Err(mismatch_of(self.columns.column(self.index).spec(), what));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.push(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.push(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.push(Scalar::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.push(Scalar::Unsigned(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.push(Scalar::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.push(Scalar::Text(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.refuse("an object")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.refuse("a list")
    }
}
