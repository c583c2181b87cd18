//! Bytes to columns: a chunk of records in, the columns of those that are valid out, and a reason for each of the others.
//!
//! `json` and `avro` read the two formats, both into the same declared schema; `columns` takes values field by field
//! and can take back a record that turns out to be invalid halfway. Nothing is dropped: accepted and rejected records
//! always add up to the chunk.

mod avro;
mod avro_columns;
mod chunk;
mod columns;
mod json;
mod reject;
mod timestamp;

#[cfg(test)]
mod avro_tests;
#[cfg(test)]
mod json_tests;

use std::sync::Arc;

use arrow::array::ArrayRef;
use serde::{Deserialize, Serialize};

use chainalytics_common::Result;

use crate::registry::SchemaRegistry;
use crate::topics::RecordSchema;

pub use avro::AvroDecoder;
pub use chunk::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, RecordChunk};
pub use json::JsonDecoder;
pub use reject::{Reject, RejectCode};
pub use timestamp::parse_timestamp_us;

/// Format of a topic's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueFormat {
    /// One JSON object per record, bare or behind the registry's five-byte prefix (JSON Schema).
    Json,
    /// Behind the registry's five-byte prefix, Avro or JSON as the schema with that id says.
    Avro,
}

/// What became of a chunk.
#[derive(Debug)]
pub struct Decoded {
    /// One column per declared field, with a row per accepted record.
    pub columns: Vec<ArrayRef>,
    /// Positions in the chunk of the accepted records, ascending; `None` if all of them were accepted.
    pub accepted: Option<Vec<u32>>,
    /// The others, ascending.
    pub rejected: Vec<Reject>,
    /// Id of a writer's schema with fields that the table has no columns for; then nothing was decoded. Only where the
    /// decoder was told to look out for them.
    pub newer_schema: Option<i32>,
}

/// Decoder of one topic's values. Keeps its buffers between chunks.
#[derive(Debug)]
pub enum Decoder {
    /// See [`JsonDecoder`].
    Json(JsonDecoder),
    /// See [`AvroDecoder`].
    Avro(Box<AvroDecoder>),
}

impl Decoder {
    /// Decoder of `format` into `schema`. `evolve`: stop at writers' schemas with new fields instead of ignoring those.
    ///
    /// # Errors
    /// Avro without a registry: its writer schemas could not be looked up.
    pub fn new(format: ValueFormat, schema: &RecordSchema, registry: Option<Arc<SchemaRegistry>>, evolve: bool) -> Result<Self> {
        match format {
            ValueFormat::Json => Ok(Self::Json(JsonDecoder::new(schema))),
            ValueFormat::Avro => {
                let registry =
                    registry.ok_or_else(|| crate::err::config("topics with registered schemas need schema.registry.url to look up their schemas"))?;
                Ok(Self::Avro(Box::new(AvroDecoder::new(schema, registry, evolve))))
            }
        }
    }

    /// Decodes a chunk.
    ///
    /// # Errors
    /// Only what is not the records' fault: the schema registry cannot be reached.
    pub async fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded> {
        match self {
            Self::Json(decoder) => decoder.decode(chunk),
            Self::Avro(decoder) => decoder.decode(chunk).await,
        }
    }
}
