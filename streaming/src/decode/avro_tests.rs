#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use arrow_avro::schema::{FingerprintStrategy, SCHEMA_METADATA_KEY};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;

use super::*;
use crate::registry::RegistryOptions;
use crate::topics::{FieldKind, FieldSpec};

const EVENT: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"id","type":"string"},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"value","type":"double"}]}"#;
/// A later version: a field more, another order, the value a long.
const EVENT_2: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"value","type":"long"},
    {"name":"extra","type":"string"},
    {"name":"id","type":"string"},
    {"name":"at","type":"string"}]}"#;

fn schema() -> RecordSchema {
    RecordSchema::new(vec![
        FieldSpec::required("id", FieldKind::Id),
        FieldSpec::optional("value", FieldKind::Double),
        FieldSpec::required("at", FieldKind::Timestamp),
        FieldSpec::optional("missing", FieldKind::Long),
    ])
}

fn encode(id: u32, avro: &str, batch: &RecordBatch) -> Vec<u8> {
    let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_owned(), avro.to_owned())]);
    let arrow = Schema::new_with_metadata(batch.schema().fields().clone(), metadata);
    let batch = batch.clone().with_schema(Arc::new(arrow.clone())).unwrap();
    let mut writer = WriterBuilder::new(arrow).with_fingerprint_strategy(FingerprintStrategy::Id(id)).build::<_, AvroSoeFormat>(Vec::new()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner()
}

fn event(id: &str, at_ms: i64, value: f64) -> Vec<u8> {
    let at = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into()));
    let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("at", at.clone(), false), Field::new("value", DataType::Float64, false)];
    let times = arrow::compute::cast(&Int64Array::from(vec![at_ms]), &at).unwrap();
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![id])), times, Arc::new(Float64Array::from(vec![value]))];
    encode(1, EVENT, &RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap())
}

fn event_2(id: &str, at: &str, value: i64) -> Vec<u8> {
    let fields = vec![
        Field::new("value", DataType::Int64, false),
        Field::new("extra", DataType::Utf8, false),
        Field::new("id", DataType::Utf8, false),
        Field::new("at", DataType::Utf8, false),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![value])),
        Arc::new(StringArray::from(vec!["x"])),
        Arc::new(StringArray::from(vec![id])),
        Arc::new(StringArray::from(vec![at])),
    ];
    encode(2, EVENT_2, &RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap())
}

/// A registry that knows both versions and, as 3, a JSON Schema, as 4 something else, as 5 a schema without the event's time, as 6 a JSON
/// Schema that has the value as text.
async fn decoder() -> AvroDecoder {
    decoder_that(false).await
}

async fn decoder_that(evolve: bool) -> AvroDecoder {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 8192];
            let len = socket.read(&mut buffer).await.unwrap();
            let request = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let (status, body) = if request.starts_with("GET /schemas/ids/1 ") {
                (200, serde_json::json!({"schema": EVENT}))
            } else if request.starts_with("GET /schemas/ids/2 ") {
                (200, serde_json::json!({"schema": EVENT_2, "schemaType": "AVRO"}))
            } else if request.starts_with("GET /schemas/ids/3 ") {
                let schema = r#"{"type":"object","properties":{"id":{"type":"string"},"at":{"type":"string"}}}"#;
                (200, serde_json::json!({"schema": schema, "schemaType": "JSON"}))
            } else if request.starts_with("GET /schemas/ids/4 ") {
                (200, serde_json::json!({"schema": "message M {}", "schemaType": "PROTOBUF"}))
            } else if request.starts_with("GET /schemas/ids/6 ") {
                let schema = r#"{"type":"object","required":["id","at"],"properties":{"id":{"type":"string"},"at":{"type":"string"},"value":{"type":"string"}}}"#;
                (200, serde_json::json!({"schema": schema, "schemaType": "JSON"}))
            } else if request.starts_with("GET /schemas/ids/5 ") {
                let schema = r#"{"type":"record","name":"E","fields":[{"name":"id","type":"string"}]}"#;
                (200, serde_json::json!({"schema": schema}))
            } else {
                (404, serde_json::json!({"error_code": 40403, "message": "Schema not found"}))
            };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    AvroDecoder::new(&schema(), Arc::new(SchemaRegistry::new(RegistryOptions::new(url)).unwrap()), evolve)
}

fn chunk(values: &[Vec<u8>]) -> RecordChunk {
    let mut chunk = RecordChunk::default();
    for (offset, value) in values.iter().enumerate() {
        chunk.push(offset as i64, 0, None, Some(value));
    }
    chunk
}

#[tokio::test]
async fn versions_of_a_schema_meet_in_the_declared_columns() {
    let values = vec![event("a", 1000, 1.5), event_2("b", "1970-01-01T00:00:02Z", 7), event("c", 3000, 2.5)];
    let decoded = decoder().await.decode(&chunk(&values)).await.unwrap();
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    assert_eq!(decoded.columns[0].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(decoded.columns[1].as_primitive::<arrow::datatypes::Float64Type>().values(), &[1.5, 7.0, 2.5]);
    let at = decoded.columns[2].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(at.values(), &[1_000_000, 2_000_000, 3_000_000]);
    assert_eq!(decoded.columns[3].as_primitive::<Int64Type>().null_count(), 3);
}

#[tokio::test]
async fn bad_records_are_told_apart_and_lose_no_neighbour() {
    let good = event("a", 1000, 1.5);
    let mut long = good.clone();
    long.push(0);
    let mut not_text = good.clone();
    not_text[6] = 0xff;
    let values = vec![
        good.clone(),
        good[..good.len() - 3].to_vec(),
        good.clone(),
        long,
        not_text,
        b"{\"id\":1}".to_vec(),
        [&[0, 0, 0, 0, 9][..], &good[5..]].concat(),
        [&[0, 0, 0, 0, 4][..], &good[5..]].concat(),
        event_2("b", "yesterday", 7),
        good[..5].to_vec(),
        good.clone(),
        Vec::new(),
        [&good[..], &good[..]].concat(),
        [&[0, 0, 0, 0, 3][..], &good[5..]].concat(),
        [&[0, 0, 0, 0, 5][..], &good[5..]].concat(),
    ];
    let decoded = decoder().await.decode(&chunk(&values)).await.unwrap();
    assert_eq!(decoded.accepted, Some(vec![0, 2, 10]));
    assert_eq!(decoded.columns[0].len(), 3);
    let codes: Vec<_> = decoded.rejected.iter().map(|reject| (reject.row, reject.code)).collect();
    use RejectCode::{BadTimestamp, IncompatibleSchema, Malformed, UnknownSchema};
    assert_eq!(
        codes,
        [
            (1, Malformed),
            (3, Malformed),
            (4, Malformed),
            (5, Malformed),
            (6, UnknownSchema),
            (7, IncompatibleSchema),
            (8, BadTimestamp),
            (9, Malformed),
            (11, Malformed),
            (12, Malformed),
            (13, Malformed),
            (14, IncompatibleSchema),
        ]
    );
    assert_eq!(decoded.rejected.iter().find(|reject| reject.row == 6).unwrap().schema_id, Some(9));
}

#[tokio::test]
async fn json_with_a_registered_schema_goes_beside_avro() {
    let json = |body: &str| [&[0, 0, 0, 0, 3][..], body.as_bytes()].concat();
    let values =
        vec![event("a", 1000, 1.5), json(r#"{"id":"b","at":"1970-01-01T00:00:02Z","value":7}"#), json(r#"{"id":"c"}"#), event("d", 3000, 2.5)];
    let decoded = decoder().await.decode(&chunk(&values)).await.unwrap();
    assert_eq!(decoded.accepted, Some(vec![0, 1, 3]));
    assert_eq!(decoded.columns[0].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b", "d"]);
    assert_eq!(decoded.rejected[0].code, RejectCode::MissingField);
    assert_eq!(decoded.rejected[0].schema_id, Some(3));
}

#[tokio::test]
async fn json_that_its_schema_spoils_is_told_from_json_that_is_bad() {
    let json = |body: &str| [&[0, 0, 0, 0, 6][..], body.as_bytes()].concat();
    let values = vec![
        json(r#"{"id":"a","at":"1970-01-01T00:00:02Z","value":"much"}"#),
        json(r#"{"id":"b","at":"1970-01-01T00:00:02Z"}"#),
        json(r#"{"id":"c","at":"1970-01-01T00:00:02Z","missing":"no number"}"#),
    ];
    let decoded = decoder().await.decode(&chunk(&values)).await.unwrap();
    assert_eq!(decoded.accepted, Some(vec![1]));
    let codes: Vec<_> = decoded.rejected.iter().map(|reject| (reject.row, reject.code)).collect();
    assert_eq!(codes, [(0, RejectCode::IncompatibleSchema), (2, RejectCode::TypeMismatch)]);
    assert!(decoded.rejected[0].error.contains("schema 6") && decoded.rejected[0].error.contains("'value'"), "{}", decoded.rejected[0].error);
}

#[tokio::test]
async fn a_schema_with_new_fields_is_told_before_its_records_are_cut() {
    let values = vec![event("a", 1000, 1.5), event_2("b", "1970-01-01T00:00:02Z", 7)];
    let mut decoder = decoder_that(true).await;
    let decoded = decoder.decode(&chunk(&values)).await.unwrap();
    assert_eq!(decoded.newer_schema, Some(2));
    assert!(decoded.columns.is_empty());
    // The decoder can go on with what it knows.
    let decoded = decoder.decode(&chunk(&values[..1])).await.unwrap();
    assert_eq!((decoded.newer_schema, decoded.columns[0].len()), (None, 1));
}

/// Records per second on one core.
#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn avro_speed() {
    let mut decoder = decoder().await;
    let value = event("3f1c2b9a-7a51-4c3e-9a44-0d7a2b1c9e55", 1_767_270_896_789, 129.95);
    let mut records = RecordChunk::default();
    while !records.is_full() {
        records.push(records.len() as i64, 0, None, Some(&value));
    }
    let started = std::time::Instant::now();
    let mut rows = 0;
    for _ in 0..200 {
        rows += decoder.decode(&records).await.unwrap().columns[0].len();
    }
    println!("{} bytes each: {:.0} records/s", value.len(), rows as f64 / started.elapsed().as_secs_f64());
}
