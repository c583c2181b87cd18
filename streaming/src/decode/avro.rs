//! The registry's wire format (a zero byte, the schema's id, the body): Avro, decoded by arrow-avro, or JSON, as the schema
//! says.
//!
//! arrow-avro's decoder cannot take back a record that fails halfway. So a chunk is fed to it record by record; after a
//! failure the decoder is built anew, the good records of the current piece are replayed, and decoding goes on behind
//! the bad one: each record is decoded at most twice. The pieces then pass through the same columns, and so the same
//! rules, as JSON does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_avro::reader::{Decoder as ArrowDecoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use lru::LruCache;

use chainalytics_common::Result;

use super::avro_columns::FieldReaders;
use super::chunk::CHUNK_ROWS_MAX;
use super::columns::{Columns, Misfit};
use super::json::{PREFIX_LEN, decode_value, strip_prefix};
use super::reject::{Reject, RejectCode};
use super::{Decoded, RecordChunk};
use crate::err;
use crate::registry::{Lookup, SchemaRegistry, SchemaType};
use crate::topics::{RecordSchema, SchemaFit, avro_fields, fit, json_schema_fields};

/// Writer schemas whose decoders are kept.
const DECODERS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

/// Decodes records whose writer schemas a registry knows.
pub struct AvroDecoder {
    schema: RecordSchema,
    columns: Columns,
    registry: Arc<SchemaRegistry>,
    decoders: LruCache<i32, Writer>,
    /// Whether a writer's schema with new fields is to be told instead of decoded.
    evolve: bool,
}

/// How records of one writer's schema are decoded.
enum Writer {
    Avro(Box<WriterDecoder>),
    /// With the fields that the schema has as no column takes them. Each record is judged by itself, and may do without them.
    Json(Vec<String>),
}

/// What a writer's schema is to this decoder.
enum Prepared {
    Ready,
    /// It has fields that the table has no columns for, or values that its columns do not take.
    Newer,
    /// Its records must be rejected.
    Refused(RejectCode, String),
}

impl std::fmt::Debug for AvroDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AvroDecoder").field("writer_schemas", &self.decoders.len()).finish_non_exhaustive()
    }
}

impl AvroDecoder {
    /// Decoder into `schema`. Writer schemas are matched by field name.
    pub fn new(schema: &RecordSchema, registry: Arc<SchemaRegistry>, evolve: bool) -> Self {
        Self { schema: schema.clone(), columns: Columns::new(schema), registry, decoders: LruCache::new(DECODERS_MAX), evolve }
    }

    /// Decodes a chunk.
    ///
    /// # Errors
    /// The registry cannot be reached (retryable). A schema that it does not know, or that is no Avro, rejects its
    /// records.
    pub async fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded> {
        let mut rejected: Vec<Reject> = Vec::new();
        let mut accepted: Vec<u32> = Vec::with_capacity(chunk.len());
        let mut refused: HashMap<i32, (RejectCode, String)> = HashMap::new();
        let mut run: Vec<u32> = Vec::with_capacity(chunk.len());
        let mut run_id = None;

        for row in 0..chunk.len() as u32 {
            let id = match wire_id(chunk.value(row as usize)) {
                Ok(id) => id,
                Err(misfit) => {
                    rejected.push(reject(row, misfit, None));
                    continue;
                }
            };
            if run_id != Some(id) {
                self.finish_run(chunk, run_id, &mut run, &mut accepted, &mut rejected)?;
                run_id = None;
                if let Entry::Vacant(free) = refused.entry(id) {
                    match self.prepare(id).await? {
                        Prepared::Ready => {}
                        Prepared::Newer => {
                            self.columns = Columns::new(&self.schema);
                            return Ok(Decoded { columns: Vec::new(), accepted: Some(Vec::new()), rejected: Vec::new(), newer_schema: Some(id) });
                        }
                        Prepared::Refused(code, error) => {
                            free.insert((code, error));
                        }
                    }
                }
            }
            match refused.get(&id) {
                Some((code, error)) => {
                    rejected.push(Reject { row, code: *code, error: error.clone(), schema_id: Some(id) });
                }
                None => {
                    run_id = Some(id);
                    run.push(row);
                }
            }
        }
        self.finish_run(chunk, run_id, &mut run, &mut accepted, &mut rejected)?;

        rejected.sort_by_key(|reject| reject.row);
        let accepted = (accepted.len() < chunk.len()).then_some(accepted);
        Ok(Decoded { columns: self.columns.finish()?, accepted, rejected, newer_schema: None })
    }

    /// Makes the decoder of a writer schema ready, or says why not.
    async fn prepare(&mut self, id: i32) -> Result<Prepared> {
        if self.decoders.contains(&id) {
            return Ok(Prepared::Ready);
        }
        let schema = match self.registry.schema_by_id(id).await? {
            Lookup::Found(schema) => schema,
            Lookup::NotFound => {
                let error = format!("the schema registry has no schema with id {id}");
                return Ok(Prepared::Refused(RejectCode::UnknownSchema, error));
            }
        };
        let refused = |reason: String| Ok(Prepared::Refused(RejectCode::IncompatibleSchema, format!("schema {id}: {reason}")));
        let fields = match schema.schema_type {
            SchemaType::Avro => avro_fields(&schema.text),
            SchemaType::Json => json_schema_fields(&schema.text),
            SchemaType::Protobuf => Err("Protocol Buffers are not read here".to_owned()),
        };
        let found = match fields {
            Ok(fields) => fit(&self.schema, &fields),
            // Records of a JSON Schema that says little are judged one by one.
            Err(_) if schema.schema_type == SchemaType::Json => SchemaFit::default(),
            Err(reason) => return refused(reason),
        };
        if let Some(reason) = found.incompatible.clone().filter(|_| schema.schema_type == SchemaType::Avro) {
            return refused(reason);
        }
        if self.evolve && found.changes_table() {
            return Ok(Prepared::Newer);
        }
        let ignored: Vec<&str> = found.new.iter().map(|field| field.name.as_str()).chain(found.untakeable.iter().map(String::as_str)).collect();
        if !ignored.is_empty() {
            tracing::warn!(schema = id, fields = ignored.join(", "), "fields of a writer's schema that the table has no columns for are ignored");
        }
        let writer = match schema.schema_type {
            SchemaType::Avro => match WriterDecoder::new(id, &schema.text) {
                Ok(decoder) => Writer::Avro(Box::new(decoder)),
                Err(error) => return refused(error.to_string()),
            },
            _ => Writer::Json(found.incompatible_fields),
        };
        self.decoders.put(id, writer);
        Ok(Prepared::Ready)
    }

    /// Decodes the rows of `run`, all written with schema `id`, into the columns.
    fn finish_run(
        &mut self,
        chunk: &RecordChunk,
        id: Option<i32>,
        run: &mut Vec<u32>,
        accepted: &mut Vec<u32>,
        rejected: &mut Vec<Reject>,
    ) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        let decoder = match self.decoders.get_mut(&id) {
            Some(Writer::Avro(decoder)) => decoder,
            Some(Writer::Json(alien)) => {
                for row in run.drain(..) {
                    let body = chunk.value(row as usize).map_or(&[][..], |value| strip_prefix(value).1);
                    match decode_value(&mut self.columns, body) {
                        Ok(()) => accepted.push(row),
                        Err(misfit) => {
                            self.columns.rollback();
                            rejected.push(reject(row, blame_schema(misfit, id, alien), Some(id)));
                        }
                    }
                }
                return Ok(());
            }
            None => return Err(err::internal(format!("no decoder for schema {id}"))),
        };
        let (pieces, failures) = decoder.decode(chunk, run)?;
        rejected.extend(failures.into_iter().map(|(row, misfit)| reject(row, misfit, Some(id))));
        for (rows, batch) in pieces {
            let readers = FieldReaders::new(&self.schema, &batch);
            for (at, row) in rows.into_iter().enumerate() {
                match readers.push_row(&mut self.columns, at).and_then(|()| self.columns.commit_row()) {
                    Ok(()) => accepted.push(row),
                    Err(misfit) => {
                        self.columns.rollback();
                        rejected.push(reject(row, misfit, Some(id)));
                    }
                }
            }
        }
        run.clear();
        Ok(())
    }
}

fn reject(row: u32, misfit: Misfit, schema_id: Option<i32>) -> Reject {
    Reject { row, code: misfit.code, error: misfit.error, schema_id }
}

/// A misfit of a field that the writer's schema has in a way that the column does not take is the schema's fault, not the record's.
fn blame_schema(misfit: Misfit, id: i32, alien: &[String]) -> Misfit {
    match &misfit.field {
        Some(field) if alien.contains(field) => {
            Misfit { code: RejectCode::IncompatibleSchema, error: format!("schema {id}: {}", misfit.error), field: misfit.field }
        }
        _ => misfit,
    }
}

fn wire_id(value: Option<&[u8]>) -> Result<i32, Misfit> {
    let Some(value) = value else {
        return Err(Misfit::of_record(RejectCode::Tombstone, "the value is null".to_owned()));
    };
    strip_prefix(value).0.ok_or_else(|| {
        let error = format!("not in the registry's wire format: a zero byte and a schema id ({PREFIX_LEN} bytes) must lead");
        Misfit::of_record(RejectCode::Malformed, error)
    })
}

/// Rows of a chunk and their values, decoded.
type Piece = (Vec<u32>, RecordBatch);
/// A row of a chunk and why it is none.
type Failure = (u32, Misfit);

/// arrow-avro's decoder of one writer schema.
struct WriterDecoder {
    id: i32,
    schema: AvroSchema,
    decoder: ArrowDecoder,
}

impl WriterDecoder {
    fn new(id: i32, schema_json: &str) -> Result<Self, arrow::error::ArrowError> {
        let schema = AvroSchema::new(schema_json.to_owned());
        let decoder = build(id, &schema)?;
        Ok(Self { id, schema, decoder })
    }

    /// The rows decoded, in pieces, and those that cannot be.
    fn decode(&mut self, chunk: &RecordChunk, rows: &[u32]) -> Result<(Vec<Piece>, Vec<Failure>)> {
        let mut pieces = Vec::new();
        let mut failures = Vec::new();
        let mut good = Vec::with_capacity(rows.len());
        for &row in rows {
            match self.feed(chunk, row) {
                Ok(()) => {
                    good.push(row);
                    if self.decoder.batch_is_full() {
                        self.flush(chunk, std::mem::take(&mut good), &mut pieces, &mut failures)?;
                    }
                }
                Err(misfit) => {
                    failures.push((row, misfit));
                    self.renew()?;
                    let replay = std::mem::take(&mut good);
                    for &row in &replay {
                        self.feed(chunk, row).map_err(|misfit| err::internal(misfit.error))?;
                    }
                    self.flush(chunk, replay, &mut pieces, &mut failures)?;
                }
            }
        }
        self.flush(chunk, good, &mut pieces, &mut failures)?;
        Ok((pieces, failures))
    }

    /// Decodes one record. After an error the decoder is in an unknown state.
    fn feed(&mut self, chunk: &RecordChunk, row: u32) -> Result<(), Misfit> {
        let value = chunk.value(row as usize).unwrap_or_default();
        let room = self.decoder.capacity();
        let malformed = |error: String| Misfit::of_record(RejectCode::Malformed, error);
        match self.decoder.decode(value) {
            Ok(len) if len == value.len() && self.decoder.capacity() + 1 == room => Ok(()),
            Ok(_) => Err(malformed(format!("the Avro body does not match schema {}: wrong length", self.id))),
            Err(error) => Err(malformed(format!("the Avro body does not match schema {}: {error}", self.id))),
        }
    }

    /// Takes the decoded rows out. Some faults (text that is not UTF-8) show only now; then each row goes alone.
    fn flush(&mut self, chunk: &RecordChunk, rows: Vec<u32>, pieces: &mut Vec<Piece>, failures: &mut Vec<Failure>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if let Ok(Some(batch)) = self.decoder.flush()
            && batch.num_rows() == rows.len()
        {
            pieces.push((rows, batch));
            return Ok(());
        }
        self.renew()?;
        for row in rows {
            let outcome = self.feed(chunk, row).and_then(|()| match self.decoder.flush() {
                Ok(Some(batch)) if batch.num_rows() == 1 => Ok(batch),
                Ok(_) => Err(Misfit::of_record(RejectCode::Malformed, "no record in the Avro body".to_owned())),
                Err(error) => Err(Misfit::of_record(RejectCode::Malformed, format!("the Avro body: {error}"))),
            });
            match outcome {
                Ok(batch) => pieces.push((vec![row], batch)),
                Err(misfit) => {
                    failures.push((row, misfit));
                    self.renew()?;
                }
            }
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<()> {
        self.decoder = build(self.id, &self.schema).map_err(|e| err::internal(format!("schema {}: {e}", self.id)))?;
        Ok(())
    }
}

fn build(id: i32, schema: &AvroSchema) -> Result<ArrowDecoder, arrow::error::ArrowError> {
    // The wire's four bytes are an unsigned number to arrow-avro and a signed one to the registry's Java.
    let fingerprint = Fingerprint::Id(id.cast_unsigned());
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(fingerprint, schema.clone())?;
    ReaderBuilder::new().with_batch_size(CHUNK_ROWS_MAX).with_writer_schema_store(store).with_active_fingerprint(fingerprint).build_decoder()
}
