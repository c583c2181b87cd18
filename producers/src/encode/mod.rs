//! Values written as JSON or Avro, by hand into a reused buffer: this is the hot path.

pub(crate) mod avro;
pub(crate) mod json;
pub mod schema;

use crate::options::Format;
use crate::row::Row;
use crate::topics::Topic;

/// What is wrong with a malformed record. Each fails a structural check: no reader of the schema can take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Ends in the middle.
    Truncated,
    /// A list where a single value belongs. In Avro: a text length beyond the record.
    WrongType,
    /// The first field (the business key) is absent. In Avro: an empty record.
    Missing,
    /// The first timestamp is no timestamp. In Avro: a number that never ends.
    BadTimestamp,
    /// Bytes of something else.
    Garbage,
}

impl Fault {
    pub const ALL: [Self; 5] = [Self::Truncated, Self::WrongType, Self::Missing, Self::BadTimestamp, Self::Garbage];
}

/// How values are written, with everything known before the first record.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    topic: Topic,
    json: Option<json::JsonEncoder>,
    /// Schema id of the Confluent wire format.
    schema_id: Option<u32>,
}

/// First byte of the Confluent wire format.
const WIRE_MAGIC: u8 = 0;

impl Encoder {
    /// `schema_id` is for Avro and JSON Schema.
    pub fn new(topic: Topic, format: Format, schema_id: u32) -> Self {
        let avro = format == Format::Avro;
        let framed = avro || format == Format::JsonSchema;
        Self { topic, json: (!avro).then(|| json::JsonEncoder::new(topic)), schema_id: framed.then_some(schema_id) }
    }

    /// Replaces `out` with the encoded value.
    pub fn encode(&self, row: &Row, fault: Option<Fault>, out: &mut Vec<u8>) {
        out.clear();
        if let Some(id) = self.schema_id {
            out.push(WIRE_MAGIC);
            out.extend_from_slice(&id.to_be_bytes());
        }
        match &self.json {
            Some(json) => json.encode(row, fault, out),
            None => avro::encode(row, self.topic, fault, out),
        }
    }
}

/// Writes the hyphenated form of a UUID.
pub(crate) fn write_uuid(id: u128, out: &mut Vec<u8>) {
    let mut buffer = [0u8; uuid::fmt::Hyphenated::LENGTH];
    let text = uuid::Uuid::from_u128(id).as_hyphenated().encode_lower(&mut buffer);
    out.extend_from_slice(text.as_bytes());
}

/// Writes 16 hexadecimal digits.
pub(crate) fn write_hex(number: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut buffer = [0u8; 16];
    for (i, digit) in buffer.iter_mut().enumerate() {
        *digit = DIGITS[(number >> (60 - 4 * i) & 0xf) as usize];
    }
    out.extend_from_slice(&buffer);
}
