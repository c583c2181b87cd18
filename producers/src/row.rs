//! One record's fields before they are encoded: values in the order of the topic's fields, no allocation per record.

/// Type of a field, common to JSON, Avro and the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Text.
    Text,
    /// 64-bit integer.
    Long,
    /// 32-bit integer.
    Int,
    /// Double.
    Double,
    /// Boolean.
    Boolean,
    /// UTC timestamp in microseconds; in JSON `2026-01-01T12:34:56.000789Z`.
    Timestamp,
}

/// A field of a topic. All fields are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name, as in data-model.md.
    pub name: &'static str,
    /// Type.
    pub kind: FieldType,
}

impl Field {
    pub(crate) const fn new(name: &'static str, kind: FieldType) -> Self {
        Self { name, kind }
    }
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A UUID, written with hyphens.
    Uuid(u128),
    /// 16 hexadecimal digits.
    Hex(u64),
    /// A word that needs no escaping.
    Word(&'static str),
    /// A part of [`Row::text`].
    Text {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// An integer.
    Long(i64),
    /// `scaled / 10^digits`, written with that many digits after the point.
    Decimal {
        /// The number times `10^digits`.
        scaled: i64,
        /// 1 or 2.
        digits: u8,
    },
    /// A truth value.
    Boolean(bool),
    /// Microseconds since the epoch.
    Time(i64),
}

/// Most fields of any topic.
const FIELDS_MAX: usize = 8;

/// The values of one record.
#[derive(Debug, Clone)]
pub struct Row {
    values: [Value; FIELDS_MAX],
    len: usize,
    /// Texts that [`Value::Text`] points into.
    pub text: String,
}

impl Default for Row {
    fn default() -> Self {
        Self { values: [Value::Long(0); FIELDS_MAX], len: 0, text: String::with_capacity(128) }
    }
}

impl Row {
    /// Replaces all values.
    pub fn set(&mut self, values: &[Value]) {
        self.len = values.len().min(FIELDS_MAX);
        for (slot, value) in self.values.iter_mut().zip(values) {
            *slot = *value;
        }
    }

    /// The values in the order of the topic's fields.
    pub fn values(&self) -> &[Value] {
        &self.values[..self.len]
    }
}
