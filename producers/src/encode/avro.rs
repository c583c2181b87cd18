//! Avro binary records. The schemas are flat records of required primitives, so encoding is a few varints and copies.

use super::{Fault, write_hex, write_uuid};
use crate::row::{FieldType, Row, Value};
use crate::topics::Topic;

/// Length of a UUID with hyphens.
const UUID_BYTES: i64 = 36;

pub(crate) fn encode(row: &Row, topic: Topic, fault: Option<Fault>, out: &mut Vec<u8>) {
    let start = out.len();
    match fault {
        Some(Fault::Garbage) => {
            // not even the wire format's first byte
            out.clear();
            out.extend_from_slice(b"<html>502 Bad Gateway</html>");
            return;
        }
        Some(Fault::Missing) => return,
        Some(Fault::WrongType) => {
            // topics that begin with a number have no text length there: ten bytes that all say "goes on" fail as both
            write_long(i64::MAX, out);
            return;
        }
        Some(Fault::BadTimestamp) => {
            out.extend_from_slice(&[0xff; 11]);
            return;
        }
        _ => {}
    }
    for (field, value) in topic.fields().iter().zip(row.values()) {
        write_value(field.kind, value, row, out);
    }
    if fault == Some(Fault::Truncated) {
        let whole = out.len() - start;
        out.truncate(start + whole / 2);
    }
}

fn write_value(kind: FieldType, value: &Value, row: &Row, out: &mut Vec<u8>) {
    match *value {
        Value::Uuid(id) => {
            write_long(UUID_BYTES, out);
            write_uuid(id, out);
        }
        Value::Hex(number) => {
            write_long(16, out);
            write_hex(number, out);
        }
        Value::Word(word) => write_text(word, out),
        Value::Text { start, end } => write_text(row.text.get(start..end).unwrap_or_default(), out),
        // int and long have the same encoding
        Value::Long(number) | Value::Time(number) => write_long(number, out),
        Value::Decimal { scaled, digits } => {
            debug_assert_eq!(kind, FieldType::Double);
            // the division rounds correctly, so this is the double that a JSON parser makes of the digits
            let number = scaled as f64 / 10f64.powi(i32::from(digits));
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Boolean(truth) => out.push(u8::from(truth)),
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_long(text.len() as i64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Zigzag, seven bits a byte, lowest first.
fn write_long(number: i64, out: &mut Vec<u8>) {
    let mut rest = (number << 1 ^ number >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
