use std::fmt;

/// Why a record is no row. The text forms are stable: `error_code` of `bronze_dead_letters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectCode {
    /// The value is null.
    Tombstone,
    /// The value is no JSON object, no Avro record, or is cut short.
    Malformed,
    /// A required field is absent or null.
    MissingField,
    /// A field has another type than declared.
    TypeMismatch,
    /// A timestamp that cannot be read.
    BadTimestamp,
    /// A value outside the declared set.
    NotAllowed,
    /// The registry does not know the value's schema id.
    UnknownSchema,
    /// The value's writer schema cannot be read as the declared one.
    IncompatibleSchema,
}

impl RejectCode {
    /// Stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectCode::Tombstone => "tombstone",
            RejectCode::Malformed => "malformed",
            RejectCode::MissingField => "missing_field",
            RejectCode::TypeMismatch => "type_mismatch",
            RejectCode::BadTimestamp => "bad_timestamp",
            RejectCode::NotAllowed => "not_allowed",
            RejectCode::UnknownSchema => "unknown_schema",
            RejectCode::IncompatibleSchema => "incompatible_schema",
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Position in the chunk.
    pub row: u32,
    /// Why.
    pub code: RejectCode,
    /// For people: which field, which value.
    pub error: String,
    /// The registry's id, if the value carried one.
    pub schema_id: Option<i32>,
}

/// Values in messages are cut here: a dead letter keeps the whole record anyway.
const SHOWN_CHARS_MAX: usize = 60;

/// A value for a message.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARS_MAX) {
        None => value.to_owned(),
        Some((at, _)) => format!("{}...", &value[..at]),
    }
}
