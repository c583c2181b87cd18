#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use chainalytics_common::ErrorCode;

use super::auto::{MAX_SNAPSHOTS, expiry};
use super::*;
use crate::catalog::CreateTable;
use crate::commit::carry::{END_OFFSETS_PROPERTY, OFFSETS_KEY};
use crate::commit::{CommitOptions, TableChange, Transaction};
use crate::table::Table;
use crate::test_support::{TestLakehouse, live_files};
use crate::write::{DataFileInfo, DataFileWriter, WriteSpec};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

async fn create(lake: &TestLakehouse) -> Table {
    let ident = lake.ident("t").unwrap();
    lake.catalog().create_table(CreateTable::new(ident, schema()), false).await.unwrap()
}

async fn write(table: &Table, id: i64) -> Vec<DataFileInfo> {
    let mut writer = DataFileWriter::new(WriteSpec::from_table(table).unwrap(), Arc::clone(table.store())).unwrap();
    writer.write(&RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![id]))]).unwrap()).await.unwrap();
    writer.close().await.unwrap()
}

/// Commits one row as a stream does, with the offsets `[start, end)` of topic `a`.
async fn append(lake: &TestLakehouse, table: &Table, start: i64, end: i64) -> i64 {
    let change = TableChange::append(table.ident().clone(), write(table, start).await)
        .with_summary(OFFSETS_KEY, format!(r#"{{"a":{{"0":[{start},{end}]}}}}"#))
        .set_property(END_OFFSETS_PROPERTY, format!(r#"{{"a":{{"0":{end}}}}}"#));
    let done = Transaction::new(lake).add(change).commit(CommitOptions::default()).await.unwrap();
    done.tables[0].snapshot_id.unwrap()
}

async fn load(lake: &TestLakehouse, table: &Table) -> Table {
    lake.catalog().load_table(table.ident()).await.unwrap()
}

fn everything_old() -> OrphanOptions {
    let tomorrow = chrono::Utc::now().timestamp_millis() + DAY_MS;
    OrphanOptions { older_than_ms: Some(tomorrow), force: true, ..OrphanOptions::default() }
}

#[tokio::test]
async fn what_a_crash_leaves_is_found_and_nothing_else() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake).await;
    append(&lake, &table, 0, 1).await;
    append(&lake, &table, 1, 2).await;
    let before = load(&lake, &table).await;
    let referenced: BTreeSet<String> = lake.store().list(before.location()).await.unwrap().into_iter().collect();
    // Died after the data file, after the manifest, after the list, and after the metadata file.
    let mut left: BTreeSet<String> = write(&table, 9).await.into_iter().map(|file| file.path).collect();
    for name in ["dead-m0.avro", "snap-1-1-dead.avro", "00009-dead.metadata.json"] {
        let uri = format!("{}/metadata/{name}", before.location());
        lake.store().write(&uri, Bytes::from_static(b"half")).await.unwrap();
        left.insert(uri);
    }
    let dry = OrphanOptions { dry_run: true, ..everything_old() };
    let found = remove_orphan_files(&lake, table.ident(), &dry).await.unwrap();
    assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), left);
    let removed = remove_orphan_files(&lake, table.ident(), &everything_old()).await.unwrap();
    assert_eq!(removed, found);
    let after: BTreeSet<String> = lake.store().list(before.location()).await.unwrap().into_iter().collect();
    assert_eq!(after, referenced);
    assert_eq!(live_files(&load(&lake, &table).await).await.len(), 2);
    // Young files are left alone unless someone insists.
    let careless = OrphanOptions { force: false, ..everything_old() };
    let error = remove_orphan_files(&lake, table.ident(), &careless).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn a_streams_progress_moves_with_the_main_branch() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake).await;
    let first = append(&lake, &table, 0, 5).await;
    append(&lake, &table, 5, 9).await;
    let moved = rollback_to_snapshot(&lake, table.ident(), first).await.unwrap();
    assert_eq!(moved.current_snapshot_id, first);
    let now = load(&lake, &table).await;
    assert_eq!(now.property(END_OFFSETS_PROPERTY), Some(r#"{"a":{"0":5}}"#));

    append(&lake, &table, 5, 7).await;
    rewrite_manifests(&lake, table.ident(), None).await.unwrap();
    let now = load(&lake, &table).await;
    assert_eq!(now.current_snapshot().unwrap().operation, "replace");
    assert_eq!(now.latest_summary_value(OFFSETS_KEY).as_deref(), Some(r#"{"a":{"0":[5,7]}}"#));
    let options =
        ExpireOptions { older_than_ms: Some(chrono::Utc::now().timestamp_millis() + DAY_MS), retain_last: Some(1), ..ExpireOptions::default() };
    let expired = expire_snapshots(&lake, table.ident(), &options).await.unwrap();
    assert_eq!((expired.snapshots, expired.data_files), (3, 1));
    let now = load(&lake, &table).await;
    assert_eq!(now.snapshots().len(), 1);
    assert_eq!(now.property(END_OFFSETS_PROPERTY), Some(r#"{"a":{"0":7}}"#));
    assert_eq!(live_files(&now).await.len(), 2);
    let leftover = remove_orphan_files(&lake, table.ident(), &everything_old()).await.unwrap();
    assert_eq!(leftover, Vec::<String>::new());
}

#[tokio::test]
async fn the_number_of_snapshots_is_bounded() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake).await;
    let change = TableChange::metadata(table.ident().clone()).set_property(MAX_SNAPSHOTS, "3");
    Transaction::new(&lake).add(change).commit(CommitOptions::default()).await.unwrap();
    for n in 0..5 {
        append(&lake, &table, n, n + 1).await;
    }
    let now_ms = chrono::Utc::now().timestamp_millis();
    let options = expiry(&load(&lake, &table).await, now_ms).unwrap();
    assert!(options.older_than_ms.is_some(), "young snapshots beyond the number expire");
    let expired = expire_snapshots(&lake, table.ident(), &options).await.unwrap();
    // Those made in the same millisecond as the oldest that is kept stay with it.
    let left = load(&lake, &table).await.snapshots().len();
    assert_eq!(expired.snapshots as usize + left, 5);
    assert!((3..5).contains(&left), "{left}");
    let options = expiry(&load(&lake, &table).await, now_ms + 100 * DAY_MS).unwrap();
    assert_eq!(options.older_than_ms, None, "age alone decides where it asks for more");
}
