//! JSON objects, one per record, without spaces; timestamps as `2026-01-01T12:34:56.000789Z`.

use super::{Fault, write_hex, write_uuid};
use crate::row::{FieldType, Row, Value};
use crate::time::civil;
use crate::topics::Topic;

#[derive(Debug, Clone)]
pub(crate) struct JsonEncoder {
    /// `{"first":` or `,"name":` per field.
    prefixes: Vec<Vec<u8>>,
    /// A number or truth value that isn't an id (ids may be text for a reader).
    typed_field: usize,
    time_field: usize,
}

impl JsonEncoder {
    pub fn new(topic: Topic) -> Self {
        let prefix = |(i, field): (usize, &crate::row::Field)| {
            let opening = if i == 0 { '{' } else { ',' };
            format!("{opening}\"{}\":", field.name).into_bytes()
        };
        Self {
            prefixes: topic.fields().iter().enumerate().map(prefix).collect(),
            typed_field: topic.first_of(|t| matches!(t, FieldType::Double | FieldType::Int | FieldType::Boolean)),
            time_field: topic.first_of(|t| t == FieldType::Timestamp),
        }
    }

    pub fn encode(&self, row: &Row, fault: Option<Fault>, out: &mut Vec<u8>) {
        let start = out.len();
        if fault == Some(Fault::Garbage) {
            out.extend_from_slice(b"<html>502 Bad Gateway</html>");
            return;
        }
        for (i, (prefix, value)) in self.prefixes.iter().zip(row.values()).enumerate() {
            match fault {
                Some(Fault::Missing) if i == 0 => {
                    out.extend_from_slice(b"{\"unexpected\":true");
                    continue;
                }
                _ => out.extend_from_slice(prefix),
            }
            match fault {
                Some(Fault::WrongType) if i == self.typed_field => out.extend_from_slice(b"[\"wrong\",\"type\"]"),
                Some(Fault::BadTimestamp) if i == self.time_field => out.extend_from_slice(b"\"not-a-time\""),
                _ => write_value(value, row, out),
            }
        }
        out.push(b'}');
        if fault == Some(Fault::Truncated) {
            // in the middle of the object, wherever that is
            let whole = out.len() - start;
            out.truncate(start + whole / 2);
        }
    }
}

fn write_value(value: &Value, row: &Row, out: &mut Vec<u8>) {
    match *value {
        Value::Uuid(id) => {
            out.push(b'"');
            write_uuid(id, out);
            out.push(b'"');
        }
        Value::Hex(number) => {
            out.push(b'"');
            write_hex(number, out);
            out.push(b'"');
        }
        Value::Word(word) => {
            out.push(b'"');
            out.extend_from_slice(word.as_bytes());
            out.push(b'"');
        }
        Value::Text { start, end } => write_text(row.text.get(start..end).unwrap_or_default(), out),
        Value::Long(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Value::Decimal { scaled, digits } => write_decimal(scaled, digits, out),
        Value::Boolean(truth) => out.extend_from_slice(if truth { b"true" } else { b"false" }),
        Value::Time(time_us) => {
            out.push(b'"');
            write_time(time_us, out);
            out.push(b'"');
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..=0x1f => {
                out.extend_from_slice(b"\\u00");
                out.push(b'0' + (byte >> 4));
                out.push(b"0123456789abcdef"[usize::from(byte & 0xf)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn write_decimal(scaled: i64, digits: u8, out: &mut Vec<u8>) {
    let unit = 10i64.pow(u32::from(digits));
    if scaled < 0 {
        out.push(b'-');
    }
    let magnitude = scaled.abs();
    out.extend_from_slice(itoa::Buffer::new().format(magnitude / unit).as_bytes());
    out.push(b'.');
    let mut fraction = magnitude % unit;
    let mut place = unit / 10;
    while place > 0 {
        out.push(b'0' + (fraction / place) as u8);
        fraction %= place;
        place /= 10;
    }
}

fn write_time(time_us: i64, out: &mut Vec<u8>) {
    let (year, month, day, hour, minute, second, micros) = civil(time_us);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    digits(&mut text[0..4], year as u32);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], hour);
    digits(&mut text[14..16], minute);
    digits(&mut text[17..19], second);
    digits(&mut text[20..26], micros);
    out.extend_from_slice(&text);
}

fn digits(out: &mut [u8], mut number: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn numbers_texts_and_times() {
        let mut out = Vec::new();
        for (scaled, n) in [(0, 2), (5, 2), (-1999, 2), (123_456, 2), (70, 1), (-5, 1)] {
            write_decimal(scaled, n, &mut out);
            out.push(b' ');
        }
        write_text("a \"b\" \\ \u{1}é", &mut out);
        out.push(b' ');
        write_time(1_767_225_600_000_789, &mut out);
        let expected = "0.00 0.05 -19.99 1234.56 7.0 -0.5 \"a \\\"b\\\" \\\\ \\u0001é\" 2026-01-01T00:00:00.000789Z";
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }
}
