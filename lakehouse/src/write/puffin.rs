//! Puffin files, as far as deletion vectors need them. Source: Iceberg's Puffin spec.

use chainalytics_common::Result;
use serde_json::{Value, json};

use crate::err;

const MAGIC: &[u8; 4] = b"PFA1";

/// Field id of a row's position, of which a deletion vector is an index.
const ROW_POSITION_ID: i32 = i32::MAX - 2;

/// A Puffin file in memory.
#[derive(Default)]
pub(super) struct PuffinWriter {
    bytes: Vec<u8>,
    blobs: Vec<Value>,
}

impl PuffinWriter {
    /// Adds a deletion vector; returns offset and length of its blob.
    pub fn add_vector(&mut self, blob: &[u8], data_file: &str, rows: u64) -> (u64, u64) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(MAGIC);
        }
        let (offset, length) = (self.bytes.len() as u64, blob.len() as u64);
        self.bytes.extend_from_slice(blob);
        self.blobs.push(json!({
            "type": "deletion-vector-v1",
            "fields": [ROW_POSITION_ID],
            // Both are inherited by the commit and unknown here.
            "snapshot-id": -1,
            "sequence-number": -1,
            "offset": offset,
            "length": length,
            "properties": {"referenced-data-file": data_file, "cardinality": rows.to_string()},
        }));
        (offset, length)
    }

    /// The file: blobs, then the footer (magic, payload, its size, flags, magic).
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let created_by = concat!("chainalytics ", env!("CARGO_PKG_VERSION"));
        let payload = json!({"blobs": self.blobs, "properties": {"created-by": created_by}}).to_string();
        let size = i32::try_from(payload.len()).map_err(|_| err::unsupported("a Puffin footer of more than 2 GiB"))?;
        self.bytes.extend_from_slice(MAGIC);
        self.bytes.extend_from_slice(payload.as_bytes());
        self.bytes.extend_from_slice(&size.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(MAGIC);
        Ok(self.bytes)
    }
}
