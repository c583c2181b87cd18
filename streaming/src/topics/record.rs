use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

/// Type of a record's field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Text.
    Text,
    /// Text that names something. Producers disagree whether such a name is text or an integer: an integer becomes its
    /// decimal text, which loses nothing.
    Id,
    /// 32-bit integer. A number with a fraction does not fit.
    Int,
    /// 64-bit integer. A number with a fraction does not fit.
    Long,
    /// 32-bit float. A number that it does not have exactly does not fit.
    Float,
    /// 64-bit float.
    Double,
    /// Exact decimal number. In JSON a number or its text. A number with more digits than it has does not fit.
    Decimal {
        /// Digits, at most 38.
        precision: u8,
        /// Of them behind the point.
        scale: u8,
    },
    /// `true` or `false`.
    Boolean,
    /// A moment, microseconds UTC. In JSON RFC 3339 text (`T` or a space between date and time, UTC where no offset is
    /// given, a bare date is its midnight) or an integer of milliseconds since the epoch.
    Timestamp,
}

impl FieldKind {
    /// Arrow type of the column.
    pub fn data_type(self) -> DataType {
        match self {
            FieldKind::Text | FieldKind::Id => DataType::Utf8,
            FieldKind::Int => DataType::Int32,
            FieldKind::Long => DataType::Int64,
            FieldKind::Float => DataType::Float32,
            FieldKind::Double => DataType::Float64,
            FieldKind::Decimal { precision, scale } => DataType::Decimal128(precision, scale.cast_signed()),
            FieldKind::Boolean => DataType::Boolean,
            FieldKind::Timestamp => timestamp_type(),
        }
    }

    /// Name for messages.
    pub fn name(self) -> &'static str {
        match self {
            FieldKind::Text => "text",
            FieldKind::Id => "text or integer",
            FieldKind::Int => "32-bit integer",
            FieldKind::Long => "64-bit integer",
            FieldKind::Float => "32-bit number",
            FieldKind::Double => "number",
            FieldKind::Decimal { .. } => "decimal of the column's digits",
            FieldKind::Boolean => "boolean",
            FieldKind::Timestamp => "timestamp (RFC 3339 text or epoch milliseconds)",
        }
    }
}

/// `timestamptz`: microseconds, UTC.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// One field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct FieldSpec {
    /// Name in the record and in the table.
    pub name: String,
    /// Type.
    pub kind: FieldKind,
    /// Whether a record without it (or with null) is invalid.
    #[serde(default)]
    pub required: bool,
    /// For text: the only values allowed; empty allows all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

impl FieldSpec {
    /// An optional field.
    pub fn optional(name: &str, kind: FieldKind) -> Self {
        Self { name: name.to_owned(), kind, required: false, allowed: Vec::new() }
    }

    /// A field that every record must have.
    pub fn required(name: &str, kind: FieldKind) -> Self {
        Self { name: name.to_owned(), kind, required: true, allowed: Vec::new() }
    }

    /// Restricts a text field to these values.
    #[must_use]
    pub fn one_of(mut self, values: &[&str]) -> Self {
        self.allowed = values.iter().map(|value| (*value).to_owned()).collect();
        self
    }

    /// Arrow form.
    pub fn to_arrow(&self) -> FieldRef {
        Arc::new(Field::new(&self.name, self.kind.data_type(), !self.required))
    }
}

/// Declared schema of a topic's records: what decoders produce. Serialises into physical plans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct RecordSchema {
    /// Fields in the table's order. What a record has beyond them is ignored.
    pub fields: Vec<FieldSpec>,
}

impl RecordSchema {
    /// Schema of these fields.
    pub fn new(fields: Vec<FieldSpec>) -> Self {
        Self { fields }
    }

    /// Arrow form.
    pub fn to_arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.iter().map(FieldSpec::to_arrow).collect::<Vec<_>>()))
    }

    /// Position of a field.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}
