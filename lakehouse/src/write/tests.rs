#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::data_file::from_hex;
use super::*;
use crate::catalog::CreateTable;
use crate::codec;
use crate::table::Table;
use crate::test_support::TestLakehouse;

const DAY_MICROS: i64 = 86_400_000_000;

async fn events(lake: &TestLakehouse) -> Table {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("kind", DataType::Utf8, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("score", DataType::Float64, true),
        Field::new("ts", utc, true),
    ]));
    let create = CreateTable::new(lake.ident("events").unwrap(), schema)
        .partitioned_by("ts", "day")
        .partitioned_by("kind", "identity")
        .with_property(COMPRESSION_CODEC, "snappy");
    lake.catalog().create_table(create, false).await.unwrap()
}

/// Rows as DataFusion makes them: views, a narrower integer, columns in another order.
fn rows(days: &[i64]) -> RecordBatch {
    let count = days.len();
    let kinds: Vec<Option<&str>> = (0..count).map(|i| [Some("a/../b"), Some("view"), None][i % 3]).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("kind", Arc::new(StringViewArray::from(kinds))),
        ("id", Arc::new((0..count as i32).collect::<Int32Array>())),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(days.iter().map(|day| day * DAY_MICROS + 1)))),
        ("score", Arc::new((0..count).map(|i| i as f64).collect::<Float64Array>())),
        (
            "price",
            Arc::new(Decimal128Array::from((0..count as i128).map(|i| i * 100 - 129).collect::<Vec<_>>()).with_precision_and_scale(10, 2).unwrap()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

#[tokio::test]
async fn files_are_what_their_reports_say() {
    let lake = TestLakehouse::open().await;
    let table = events(&lake).await;
    let mut spec = WriteSpec::from_table(&table).unwrap();
    spec.open_files_max = 2;
    let mut writer = DataFileWriter::new(spec, Arc::clone(lake.store())).unwrap();
    writer.write(&rows(&[0, 0, 0, 1, 1, 1])).await.unwrap();
    writer.write(&rows(&[0])).await.unwrap();
    let files = writer.close().await.unwrap();
    // Six partition values; the one that was closed to make room has two files.
    assert_eq!(files.len(), 7);
    assert_eq!(files.iter().map(|file| file.record_count).sum::<u64>(), 7);
    for file in &files {
        let path = file.path.strip_prefix("file://").unwrap();
        assert!(path.starts_with(lake.warehouse().strip_prefix("file://").unwrap()), "{path}");
        let opened = std::fs::File::open(path).unwrap();
        assert_eq!(opened.metadata().unwrap().len(), file.file_size_bytes);
        let reader = SerializedFileReader::new(opened).unwrap();
        let group = reader.metadata().row_group(0);
        let ids: Vec<i32> = group.columns().iter().map(|chunk| chunk.column_descr().self_type().get_basic_info().id()).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        assert_eq!(group.column(0).compression(), parquet::basic::Compression::SNAPPY);
        assert_eq!(DataFileInfo::from_json(&file.to_json().unwrap()).unwrap(), *file);
    }
    let first = files.iter().find(|file| file.partition[0] == "1970-01-02" && file.partition[1].is_null()).unwrap();
    assert_eq!(first.value_counts[&2], 1);
    assert_eq!(first.null_value_counts[&2], 1);
    assert!(!first.lower_bounds.contains_key(&2));
    assert_eq!(from_hex(&first.lower_bounds[&1]).unwrap(), 5_i64.to_le_bytes());
    // 5 * 100 - 129, unscaled, big endian, as short as it can be.
    assert_eq!(from_hex(&first.upper_bounds[&3]).unwrap(), 371_i16.to_be_bytes());
    assert_eq!(from_hex(&first.upper_bounds[&4]).unwrap(), 5_f64.to_le_bytes());
}

#[tokio::test]
async fn files_roll_at_their_target_size() {
    let lake = TestLakehouse::open().await;
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let create = CreateTable::new(lake.ident("t").unwrap(), Arc::clone(&schema));
    let table = lake.catalog().create_table(create, false).await.unwrap();
    let mut spec = WriteSpec::from_table(&table).unwrap();
    spec.target_file_size_bytes = 64 * 1024;
    let mut writer = DataFileWriter::new(spec, Arc::clone(lake.store())).unwrap();
    for part in 0..20_i64 {
        let ids: Int64Array = (0..8192).map(|i: i64| (i + part).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)).collect();
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids)]).unwrap()).await.unwrap();
    }
    let files = writer.close().await.unwrap();
    assert!(files.len() > 5, "{} files", files.len());
    assert_eq!(files.iter().map(|file| file.record_count).sum::<u64>(), 20 * 8192);
}

#[tokio::test]
async fn an_aborted_writer_leaves_no_file() {
    let lake = TestLakehouse::open().await;
    let table = events(&lake).await;
    let mut spec = WriteSpec::from_table(&table).unwrap();
    spec.open_files_max = 1;
    let mut writer = DataFileWriter::new(spec, Arc::clone(lake.store())).unwrap();
    writer.write(&rows(&[0, 1, 2, 3])).await.unwrap();
    writer.abort().await;
    assert_eq!(lake.store().list(&format!("{}/data", table.location())).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn each_input_partition_writes_its_own_rows_once() {
    let lake = TestLakehouse::open().await;
    let table = events(&lake).await;
    let batch = rows(&[0, 0, 0]);
    let context = SessionContext::new();
    let input = MemTable::try_new(batch.schema(), vec![vec![batch.clone()], vec![batch.clone(), batch.clone()], vec![]]);
    let input = context.read_table(Arc::new(input.unwrap())).unwrap().create_physical_plan().await.unwrap();
    let spec = WriteSpec::from_table(&table).unwrap();
    let plan: Arc<dyn ExecutionPlan> = Arc::new(IcebergWriteExec::new(input, spec, Arc::clone(lake.store())));
    // Through the wire and back.
    let bytes = codec::try_encode_physical(&plan).unwrap().unwrap();
    let inputs: Vec<_> = plan.children().into_iter().cloned().collect();
    let plan = codec::try_decode_physical(&bytes, &inputs, lake.store()).unwrap().unwrap();

    let out = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    let files: Vec<DataFileInfo> = out
        .iter()
        .flat_map(|batch| {
            let column = batch.column(0).as_any().downcast_ref::<arrow::array::StringArray>().unwrap().clone();
            column.iter().map(|row| DataFileInfo::from_json(row.unwrap()).unwrap()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(files.iter().map(|file| file.record_count).sum::<u64>(), 9);
    assert_eq!(plan.metrics().unwrap().sum_by_name("rows_written").unwrap().as_usize(), 9);
}
