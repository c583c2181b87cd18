#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chainalytics_common::ErrorCode;

use super::*;
use crate::catalog::{CreateTable, TableCommit};
use crate::table::Table;
use crate::test_support::{TestLakehouse, live_files};
use crate::write::{DataFileInfo, DataFileWriter, WriteSpec};

const DAY_MICROS: i64 = 86_400_000_000;

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

fn batch(ids: &[i64]) -> RecordBatch {
    let names: Vec<String> = ids.iter().map(|id| format!("name {id}")).collect();
    // Row `id` falls on day `id`.
    let times: Vec<i64> = ids.iter().map(|id| id * DAY_MICROS).collect();
    RecordBatch::try_new(
        schema(),
        vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(StringArray::from(names)), Arc::new(TimestampMicrosecondArray::from(times))],
    )
    .unwrap()
}

async fn create(lake: &TestLakehouse, name: &str, by_day: bool) -> Table {
    let ident = lake.ident(name).unwrap();
    let create = CreateTable::new(ident, schema());
    let create = if by_day { create.partitioned_by("ts", "days") } else { create };
    lake.catalog().create_table(create, false).await.unwrap()
}

async fn write(table: &Table, ids: &[i64]) -> Vec<DataFileInfo> {
    let spec = WriteSpec::from_table(table).unwrap();
    let mut writer = DataFileWriter::new(spec, Arc::clone(table.store())).unwrap();
    writer.write(&batch(ids)).await.unwrap();
    writer.close().await.unwrap()
}

async fn append(lake: &TestLakehouse, table: &Table, ids: &[i64], step: &str) -> CommitOutcome {
    let files = write(table, ids).await;
    let change = TableChange::append(table.ident().clone(), files);
    Transaction::new(lake).add(change).commit(CommitOptions::step("run", step)).await.unwrap()
}

#[tokio::test]
async fn an_append_adds_up() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    append(&lake, &table, &[1, 2, 3], "a").await;
    let outcome = append(&lake, &table, &[4], "b").await;
    assert_eq!((outcome.tables[0].added_rows, outcome.tables[0].added_files, outcome.attempts), (1, 1, 1));

    let table = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!(table.row_count(), Some(4));
    assert_eq!(live_files(&table).await.len(), 2);
    let steps: Vec<_> = table.ancestry().map(|snapshot| snapshot.summary[STEP_KEY].clone()).collect();
    assert_eq!(steps, ["b", "a"]);
    let newest = table.current_snapshot().unwrap();
    assert_eq!((newest.count("total-data-files"), newest.count("added-records")), (2, 1));
    assert_eq!(newest.operation, "append");
}

#[tokio::test]
async fn a_repeated_step_finds_itself_done() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    let first = append(&lake, &table, &[1, 2], "only").await;
    let again = append(&lake, &table, &[1, 2], "only").await;
    assert!(again.already_committed());
    assert_eq!(again.tables[0].snapshot_id, first.tables[0].snapshot_id);
    assert_eq!(again.tables[0].added_rows, 2);
    let table = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!(table.snapshots().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_appends_lose_nothing() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    let commits = (0..8_i64).map(|id| {
        let (lakehouse, table) = (lake.lakehouse.clone(), table.clone());
        tokio::spawn(async move {
            let files = write(&table, &[id]).await;
            let change = TableChange::append(table.ident().clone(), files);
            let options = CommitOptions::step("run", id.to_string());
            Transaction::new(&lakehouse).add(change).commit(options).await.unwrap().attempts
        })
    });
    let attempts = futures::future::join_all(commits).await;
    assert!(attempts.into_iter().all(|attempts| attempts.unwrap() >= 1));
    let table = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!((table.row_count(), table.ancestry().count()), (Some(8), 8));
    assert_eq!(live_files(&table).await.len(), 8);
}

#[tokio::test]
async fn several_tables_move_together_or_not_at_all() {
    let lake = TestLakehouse::open().await;
    let (a, b) = (create(&lake, "a", false).await, create(&lake, "b", false).await);
    append(&lake, &b, &[1], "before").await;
    // `b` has moved on, so that the swap of both must leave `a` alone.
    let swap = |table: &Table| TableCommit {
        ident: table.ident().clone(),
        old_location: table.metadata_location().to_owned(),
        new_location: "file:///nowhere".to_owned(),
    };
    let error = lake.catalog().commit(vec![swap(&a), swap(&b)]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
    assert_eq!(lake.catalog().load_table(a.ident()).await.unwrap().metadata_location(), a.metadata_location());

    let (files_a, files_b) = (write(&a, &[1]).await, write(&b, &[2, 3]).await);
    let outcome = Transaction::new(&lake)
        .add(TableChange::append(a.ident().clone(), files_a))
        .add(TableChange::append(b.ident().clone(), files_b).set_property("offsets", "7"))
        .commit(CommitOptions::step("run", "both"))
        .await
        .unwrap();
    assert_eq!(outcome.table(b.ident()).unwrap().added_rows, 2);
    let b = lake.catalog().load_table(b.ident()).await.unwrap();
    assert_eq!((b.row_count(), b.property("offsets")), (Some(3), Some("7")));
}

#[tokio::test]
async fn an_overwrite_fails_when_it_has_missed_something() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    append(&lake, &table, &[1, 2], "a").await;
    let planned_on = lake.catalog().load_table(table.ident()).await.unwrap();
    let base = planned_on.current_snapshot_id();
    let old: Vec<String> = live_files(&planned_on).await.into_iter().map(|file| file.path).collect();
    append(&lake, &table, &[9], "meanwhile").await;

    let replacement = write(&table, &[1]).await;
    let overwrite = |check| TableChange::overwrite(table.ident().clone(), base, old.clone(), replacement.clone(), check);
    let strict = overwrite(ConflictCheck::Serializable(None));
    let error = Transaction::new(&lake).add(strict).commit(CommitOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
    // A filter that the new file cannot match lets it pass, and the file survives.
    let filtered = overwrite(ConflictCheck::Serializable(Some(Arc::new(|file: &DataFileInfo| file.record_count > 1))));
    let done = Transaction::new(&lake).add(filtered).commit(CommitOptions::default()).await.unwrap();
    assert_eq!((done.tables[0].removed_rows, done.tables[0].added_rows), (2, 1));
    let now = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!((now.row_count(), live_files(&now).await.len()), (Some(2), 2));
    assert_eq!(now.current_snapshot().unwrap().operation, "overwrite");
    // The same files cannot be removed twice.
    let again = overwrite(ConflictCheck::Snapshot);
    let error = Transaction::new(&lake).add(again).commit(CommitOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
}

#[tokio::test]
async fn partitions_and_whole_tables_are_replaced() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", true).await;
    append(&lake, &table, &[1, 2, 3], "a").await;
    let files = write(&table, &[2, 2]).await;
    let change = TableChange::replace_partitions(table.ident().clone(), files);
    let outcome = Transaction::new(&lake).add(change).commit(CommitOptions::default()).await.unwrap();
    assert_eq!((outcome.tables[0].removed_rows, outcome.tables[0].added_rows), (1, 2));
    let now = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!(now.row_count(), Some(4));
    assert_eq!(now.current_snapshot().unwrap().count("changed-partition-count"), 1);

    let files = write(&table, &[5]).await;
    let change = TableChange::replace_all(table.ident().clone(), files);
    Transaction::new(&lake).add(change).commit(CommitOptions::default()).await.unwrap();
    let now = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!((now.row_count(), live_files(&now).await.len()), (Some(1), 1));
}

#[tokio::test]
async fn small_manifests_are_merged_and_old_metadata_files_go() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    let change = TableChange::metadata(table.ident().clone())
        .set_property("commit.manifest.min-count-to-merge", "4")
        .set_property("write.metadata.previous-versions-max", "3");
    Transaction::new(&lake).add(change).commit(CommitOptions::default()).await.unwrap();
    for id in 0..12 {
        append(&lake, &table, &[id], &id.to_string()).await;
    }
    let now = lake.catalog().load_table(table.ident()).await.unwrap();
    let manifests = now.manifests(now.current_snapshot_id().unwrap()).await.unwrap();
    assert!(manifests.len() <= 4, "{} manifests", manifests.len());
    assert_eq!((live_files(&now).await.len(), now.row_count()), (12, Some(12)));
    let metadata_files = lake.store().list(&format!("{}/metadata", now.location())).await.unwrap();
    assert_eq!(metadata_files.iter().filter(|file| file.ends_with(".metadata.json")).count(), 4);
}

#[tokio::test]
async fn a_refused_commit_leaves_nothing_behind() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    append(&lake, &table, &[1], "a").await;
    let folder = format!("{}/metadata", table.location());
    let before: BTreeSet<String> = lake.store().list(&folder).await.unwrap().into_iter().collect();

    let missing = TableChange::overwrite(
        table.ident().clone(),
        None,
        ["file:///no/such/file.parquet".to_owned()],
        write(&table, &[2]).await,
        ConflictCheck::Snapshot,
    );
    let error = Transaction::new(&lake).add(missing).commit(CommitOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
    let refused =
        TableChange::append(table.ident().clone(), write(&table, &[2]).await).validate(|_| Ok(Decision::Conflict("offsets differ".to_owned())));
    let error = Transaction::new(&lake).add(refused).commit(CommitOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CommitConflict);
    let after: BTreeSet<String> = lake.store().list(&folder).await.unwrap().into_iter().collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn new_columns_are_null_in_old_rows() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", false).await;
    let column = Arc::new(Field::new("extra", DataType::Float64, true));
    let change = TableChange::metadata(table.ident().clone()).add_columns([column]);
    Transaction::new(&lake).add(change).commit(CommitOptions::default()).await.unwrap();
    let now = lake.catalog().load_table(table.ident()).await.unwrap();
    assert_eq!(now.schema().field(3).name(), "extra");
    assert_eq!(crate::table::arrow_schema::field_id(now.schema().field(3)), Some(4));
    // Batches of the old shape still fit.
    append(&lake, &now, &[1], "a").await;
    assert_eq!(lake.catalog().load_table(table.ident()).await.unwrap().row_count(), Some(1));
}

#[tokio::test]
async fn tables_are_created_once_and_dropped_with_their_files() {
    let lake = TestLakehouse::open().await;
    let table = create(&lake, "t", true).await;
    let again = CreateTable::new(table.ident().clone(), schema());
    let same = lake.catalog().create_table(again.clone(), true).await.unwrap();
    assert_eq!(same.uuid(), table.uuid());
    let error = lake.catalog().create_table(again, false).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TableExists);
    append(&lake, &table, &[1, 2], "a").await;
    assert_eq!(lake.catalog().list_tables("test").await.unwrap(), [table.ident().clone()]);
    assert!(lake.catalog().drop_table(table.ident(), true).await.unwrap());
    assert_eq!(lake.store().list(table.location()).await.unwrap(), Vec::<String>::new());
    let error = lake.catalog().load_table(table.ident()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TableNotFound);
}

#[tokio::test]
async fn refs_that_spark_wrote_into_format_v1_are_kept() {
    let lake = TestLakehouse::open().await;
    let create = CreateTable::new(lake.ident("t").unwrap(), schema()).with_property("format-version", "1");
    let table = lake.catalog().create_table(create, false).await.unwrap();
    let first = append(&lake, &table, &[1], "a").await.tables[0].snapshot_id.unwrap();
    append(&lake, &table, &[2], "b").await;
    let table = lake.catalog().load_table(table.ident()).await.unwrap();
    let now = table.current_snapshot_id().unwrap();
    let text = lake.store().read(table.metadata_location()).await.unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["format-version"], 1);
    json["refs"] = serde_json::json!({
        "main": {"snapshot-id": now, "type": "branch", "min-snapshots-to-keep": 1},
        "release": {"snapshot-id": first, "type": "tag", "max-ref-age-ms": 9_000_000_000_000_i64},
        "audit": {"snapshot-id": first, "type": "branch", "max-snapshot-age-ms": 5},
    });
    let theirs = format!("{}/metadata/00003-theirs.metadata.json", table.location());
    lake.store().write(&theirs, serde_json::to_vec(&json).unwrap().into()).await.unwrap();
    let swap = TableCommit { ident: table.ident().clone(), old_location: table.metadata_location().to_owned(), new_location: theirs };
    lake.catalog().commit(vec![swap]).await.unwrap();

    let expected = lake.catalog().load_table(table.ident()).await.unwrap().refs().unwrap();
    assert_eq!(expected.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["audit", "main", "release"]);
    let retained = (expected[1].min_snapshots_to_keep, expected[2].max_ref_age_ms, expected[0].max_snapshot_age_ms);
    assert_eq!(retained, (Some(1), Some(9_000_000_000_000), Some(5)));
    let third = append(&lake, &table, &[3], "c").await.tables[0].snapshot_id.unwrap();
    // By another process, and after an expiry.
    for step in 0..2 {
        if step == 1 {
            let options = crate::maintenance::ExpireOptions { older_than_ms: Some(i64::MAX), ..Default::default() };
            assert_eq!(crate::maintenance::expire_snapshots(&lake, table.ident(), &options).await.unwrap().snapshots, 1);
        }
        let location = lake.catalog().metadata_location(table.ident()).await.unwrap().unwrap();
        let fresh = Table::from_metadata_location(table.ident().clone(), &location, crate::store::StoreRegistry::local()).await.unwrap();
        let mut expected = expected.clone();
        expected[1].snapshot_id = third;
        assert_eq!(fresh.refs().unwrap(), expected, "step {step}");
        assert_eq!(fresh.snapshot_id_of_ref("release"), Some(first), "step {step}");
        assert_eq!(fresh.on_branch("audit").unwrap().current_snapshot_id(), Some(first));
    }
}
