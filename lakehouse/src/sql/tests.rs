//! The whole path on a SQLite catalog in a temporary folder, run in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, col, lit};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use tempfile::TempDir;

use super::*;
use crate::catalog::{CatalogOptions, TableCommit};
use crate::dml::{WriteMode, write_dataframe};
use crate::exec::LocalExecutor;
use crate::scan::{IcebergTableProvider, SnapshotSelector};
use crate::store::StoreRegistry;

struct Fixture {
    _dir: TempDir,
    lakehouse: Lakehouse,
    executor: LocalExecutor,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let options = CatalogOptions {
            name: "chain".to_string(),
            uri: format!("sqlite:///{path}/catalog.db"),
            busy_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            connections_max: 4,
            warehouse: format!("{path}/warehouse"),
        };
        let lakehouse = Lakehouse::open_with(options, "demo".to_string(), StoreRegistry::local()).await.unwrap();
        let config = SessionConfig::new().with_target_partitions(3);
        let executor = LocalExecutor::open(&lakehouse, "chain", config).unwrap();
        Self { _dir: dir, lakehouse, executor }
    }

    async fn run(&self, sql: &str) -> Result<StatementResult> {
        execute(self.executor.ctx(), &self.lakehouse, &self.executor, sql, WriteOptions::default()).await
    }

    async fn ok(&self, sql: &str) -> StatementResult {
        self.run(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    async fn fail(&self, sql: &str) -> Error {
        match self.run(sql).await {
            Err(error) => error,
            Ok(StatementResult::Rows(rows)) => Error::from_datafusion(rows.try_collect::<Vec<_>>().await.expect_err(sql)),
            Ok(other) => panic!("{sql}: {other:?}"),
        }
    }

    async fn batches(&self, sql: &str) -> Vec<RecordBatch> {
        let StatementResult::Rows(rows) = self.ok(sql).await else { panic!("{sql} gave no rows") };
        rows.try_collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Values of a query, cells joined by `|`, rows by a space.
    async fn values(&self, sql: &str) -> String {
        let text = pretty_format_batches(&self.batches(sql).await).unwrap().to_string();
        let rows: Vec<String> = text
            .lines()
            .skip(3)
            .filter(|l| l.starts_with('|'))
            .map(|l| l.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|"))
            .collect();
        rows.join(" ")
    }

    async fn affected(&self, sql: &str) -> (u64, i64) {
        match self.ok(sql).await {
            StatementResult::Affected { rows, snapshot_id } => (rows, snapshot_id.unwrap_or_default()),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

const CREATE: &str = "CREATE TABLE events (Id BIGINT NOT NULL, kind STRING, ts TIMESTAMP, amount DECIMAL(10,2)) \
                      USING iceberg PARTITIONED BY (days(ts))";

#[tokio::test]
async fn insert_read_time_travel_and_metadata_tables() {
    let f = Fixture::new().await;
    f.ok(CREATE).await;
    f.ok("CREATE TABLE IF NOT EXISTS events (x INT)").await;
    assert_eq!(f.fail(CREATE).await.code(), ErrorCode::TableExists);
    assert_eq!(f.values("SELECT count(*) FROM events").await, "0");
    let (rows, first) = f.affected("INSERT INTO Events VALUES (1, 'a', '2024-01-01 10:00:00', 1.5), (2, 'b', '2024-01-02 10:00:00', 2)").await;
    assert_eq!(rows, 2);
    let (_, second) = f.affected("insert into events (ID, ts) values (3, timestamp '2024-01-03 00:00:00')").await;
    // Letter case of columns and tables does not matter, and is kept.
    assert_eq!(f.values("SELECT id, kind, amount FROM EVENTS ORDER BY iD").await, "1|a|1.50 2|b|2.00 3||");
    let schema = f.batches("SELECT * FROM events").await[0].schema();
    assert_eq!(schema.field(0).name(), "Id");

    for as_of in [format!("VERSION AS OF {first}"), format!("FOR VERSION AS OF {first}"), format!("FOR SYSTEM_VERSION AS OF {first} AS x")] {
        assert_eq!(f.values(&format!("SELECT count(*) FROM events {as_of}")).await, "2", "{as_of}");
    }
    assert_eq!(f.values(&format!("SELECT events.id FROM demo.events VERSION AS OF {second} WHERE id > 2")).await, "3");
    assert_eq!(f.values("SELECT count(*) FROM events FOR VERSION AS OF 'main'").await, "3");
    assert_eq!(f.values("SELECT count(*) FROM events TIMESTAMP AS OF now() + INTERVAL '1' HOUR").await, "3");
    assert_eq!(f.fail("SELECT * FROM events TIMESTAMP AS OF '2001-01-01'").await.code(), ErrorCode::SnapshotNotFound);
    assert_eq!(f.fail("SELECT * FROM events VERSION AS OF 7").await.code(), ErrorCode::SnapshotNotFound);

    assert_eq!(f.values("SELECT count(*) FROM events.snapshots").await, "2");
    assert_eq!(f.values("SELECT count(*) FROM demo.events.files").await, "3");
    assert_eq!(f.values("SELECT sum(record_count) FROM chain.demo.events.partitions").await, "3");
    assert_eq!(f.values("SELECT operation FROM \"events$snapshots\" LIMIT 1").await, "append");
    assert_eq!(f.values("SHOW TABLES").await, "demo|events|false");
    assert!(f.values("DESCRIBE events").await.contains("Part 0|days(ts)"));
}

#[tokio::test]
async fn filters_prune_files_by_partition_and_by_bounds() {
    let f = Fixture::new().await;
    f.ok("CREATE TABLE t (id BIGINT, ts TIMESTAMP, b BIGINT) PARTITIONED BY (days(ts), bucket(4, b))").await;
    f.ok("INSERT INTO t SELECT value, to_timestamp(1704067200 + value * 86400), 7 FROM generate_series(0, 9)").await;
    let files = async |filter: &str| {
        let sql = format!("SELECT id FROM t WHERE {filter}");
        let plan = plan_query(f.executor.ctx(), &f.lakehouse, &sql).await.unwrap();
        let plan = f.executor.ctx().state().create_physical_plan(&plan).await.unwrap();
        let text = displayable(plan.as_ref()).indent(false).to_string();
        assert!(plan.output_partitioning().partition_count() <= 3);
        text.matches(".parquet").count()
    };
    assert_eq!(files("ts >= '2024-01-05' AND ts < '2024-01-07'").await, 2);
    assert_eq!(files("ts = '2024-01-05 00:00:00'").await, 1);
    assert_eq!(files("id = 3").await, 1);
    assert_eq!(files("id > 100").await, 0);
    assert_eq!(files("b = 7").await, 10);
    assert_eq!(files("b = 8").await, 0);
    // Statistics answer the counts without a scan, and right.
    assert_eq!(f.values("SELECT count(*), min(id), max(id) FROM t").await, "10|0|9");
    assert_eq!(f.values("SELECT count(*) FROM t WHERE ts >= '2024-01-05'").await, "6");
    assert_eq!(f.values("SELECT count(*) FROM (SELECT * FROM t LIMIT 4)").await, "4");
}

#[tokio::test]
async fn overwrite_delete_and_update() {
    let f = Fixture::new().await;
    f.ok("CREATE TABLE t (id INT NOT NULL, day DATE, v DOUBLE) PARTITIONED BY (day)").await;
    f.ok("INSERT INTO t SELECT value, CAST(to_timestamp(1704067200 + value % 3 * 86400) AS DATE), value FROM generate_series(1, 9)").await;
    // Dynamic overwrite replaces the touched partition only.
    f.ok("INSERT OVERWRITE t VALUES (100, '2024-01-01', 1.0)").await;
    assert_eq!(f.values("SELECT count(*), sum(id) FROM t").await, "7|127");
    // A partition goes by its metadata alone, some rows of a file by rewriting it.
    assert_eq!(f.affected("DELETE FROM t WHERE day = '2024-01-01'").await.0, 1);
    assert_eq!(f.affected("DELETE FROM t AS x WHERE x.v > 5 AND x.id IN (SELECT id FROM t WHERE id < 8)").await.0, 1);
    assert_eq!(f.values("SELECT id FROM t ORDER BY id").await, "1 2 4 5 8");
    assert_eq!(f.affected("DELETE FROM t WHERE id = 77").await.0, 0);
    assert_eq!(f.affected("UPDATE t SET v = v * 10, day = NULL WHERE id >= 5").await.0, 2);
    assert_eq!(f.values("SELECT id, v, day IS NULL FROM t ORDER BY id").await, "1|1.0|false 2|2.0|false 4|4.0|false 5|50.0|true 8|80.0|true");
    assert_eq!(f.affected("UPDATE t SET v = 0 WHERE id = (SELECT max(id) FROM t)").await.0, 1);
    assert_eq!(f.values("SELECT v FROM t WHERE id = 8").await, "0.0");
    assert_eq!(f.affected("CREATE TABLE c AS SELECT id, v FROM t").await.0, 5);
    assert_eq!(f.affected("DELETE FROM c").await.0, 5);
    f.ok("DROP TABLE c; DROP TABLE IF EXISTS c").await;
    assert_eq!(f.fail("SELECT * FROM c").await.code(), ErrorCode::TableNotFound);
}

#[tokio::test]
async fn wrong_input_is_refused_with_its_name() {
    let f = Fixture::new().await;
    f.ok("CREATE TABLE orders (id INT NOT NULL, name STRING)").await;
    let error = f.fail("SELECT * FROM oders").await;
    assert_eq!(error.code(), ErrorCode::TableNotFound);
    assert!(error.to_string().contains("orders"), "{error}");
    assert_eq!(f.fail("INSERT INTO orders VALUES (1)").await.code(), ErrorCode::SchemaMismatch);
    assert_eq!(f.fail("INSERT INTO orders (name) VALUES ('x')").await.code(), ErrorCode::SchemaMismatch);
    assert_eq!(f.fail("INSERT INTO orders (id, nme) VALUES (1, 'x')").await.code(), ErrorCode::SchemaMismatch);
    assert_eq!(f.fail("SELEC 1").await.code(), ErrorCode::SqlSyntax);
    f.fail("INSERT INTO orders VALUES (NULL, 'x')").await;
    f.fail("INSERT INTO orders VALUES (3000000000, 'x')").await;
    assert_eq!(f.values("SELECT count(*) FROM orders").await, "0");
}

#[tokio::test]
async fn a_step_writes_once_and_filters_overwrite() {
    let f = Fixture::new().await;
    f.ok("CREATE TABLE t (id BIGINT, v STRING)").await;
    let ident = f.lakehouse.ident("t").unwrap();
    let options = WriteOptions::step("run-1", "load");
    let ctx = f.executor.ctx();
    let write = async |sql: &str, mode: WriteMode, options: &WriteOptions| {
        let df = ctx.sql(sql).await.unwrap();
        write_dataframe(&f.lakehouse, &f.executor, df, &ident, mode, options).await
    };
    let rows = "SELECT CAST(value AS INT) AS ID FROM generate_series(1, 10)";
    let first = write(rows, WriteMode::Append, &options).await.unwrap();
    assert_eq!((first.added_rows, first.already_committed), (10, false));
    let again = write(rows, WriteMode::Append, &options).await.unwrap();
    assert!(again.already_committed && again.snapshot_id == first.snapshot_id);
    let filter = WriteMode::OverwriteFilter(col("id").gt(lit(8_i64)));
    write("SELECT 99 AS id, 'new' AS v", filter, &WriteOptions::default()).await.unwrap();
    assert_eq!(f.values("SELECT count(*), max(id) FROM t").await, "9|99");
    let error = write("SELECT '1' AS id", WriteMode::Append, &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SchemaMismatch);
}

/// Gives the column `from` of a table another name, as a schema change by any engine would.
async fn rename_column(f: &Fixture, name: &str, from: &str, to: &str) {
    let table = f.lakehouse.catalog().load_table(&f.lakehouse.ident(name).unwrap()).await.unwrap();
    let fields = table.metadata().current_schema().as_struct().fields().iter().map(|field| {
        let mut field = field.as_ref().clone();
        if field.name == from {
            field.name = to.to_string();
        }
        Arc::new(field)
    });
    let schema = iceberg::spec::Schema::builder().with_fields(fields).build().unwrap();
    let old_location = table.metadata_location().to_string();
    let builder = table.metadata().as_ref().clone().into_builder(Some(old_location.clone()));
    let metadata = builder.add_current_schema(schema).unwrap().build().unwrap().metadata;
    let new_location = format!("{}/metadata/{}.metadata.json", table.location(), uuid::Uuid::new_v4());
    f.lakehouse.store().write(&new_location, serde_json::to_vec(&metadata).unwrap().into()).await.unwrap();
    let commit = TableCommit { ident: table.ident().clone(), old_location, new_location };
    f.lakehouse.catalog().commit(vec![commit]).await.unwrap();
}

#[tokio::test]
async fn renamed_columns_are_read_by_field_id() {
    let f = Fixture::new().await;
    f.ok("CREATE TABLE t (a BIGINT, b STRING)").await;
    f.ok("INSERT INTO t VALUES (1, 'one'), (2, 'two')").await;
    rename_column(&f, "t", "a", "tmp").await;
    rename_column(&f, "t", "b", "a").await; // another column under a name that the old file has too
    rename_column(&f, "t", "tmp", "n").await;
    f.ok("INSERT INTO t (n, a) VALUES (3, 'three')").await;
    assert_eq!(f.values("SELECT n, a FROM t ORDER BY n").await, "1|one 2|two 3|three");
    assert_eq!(f.values("SELECT a FROM t WHERE n = 2").await, "two");
    assert_eq!(f.values("SELECT count(*), max(n), min(a) FROM t").await, "3|3|one");
    assert_eq!(f.affected("DELETE FROM t WHERE a LIKE 'tw%'").await.0, 1);
    assert_eq!(f.values("SELECT n, a FROM t ORDER BY n").await, "1|one 3|three");
}

/// What the engine's codec does with nodes of this crate.
#[derive(Debug)]
struct WireCodec(Arc<StoreRegistry>);

impl PhysicalExtensionCodec for WireCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(crate::codec::try_decode_physical(buf, inputs, &self.0).expect("a node of ours").unwrap())
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> datafusion::common::Result<()> {
        buf.extend(crate::codec::try_encode_physical(&node).expect("a node of ours").unwrap());
        Ok(())
    }
}

#[tokio::test]
async fn a_scan_survives_the_wire() {
    let f = Fixture::new().await;
    f.ok("CREATE TABLE t (Id BIGINT, day DATE) PARTITIONED BY (day)").await;
    f.ok("INSERT INTO t SELECT value, CAST(to_timestamp(value % 3 * 86400) AS DATE) FROM generate_series(1, 9)").await;
    f.ok("CREATE TABLE r (a BIGINT)").await;
    f.ok("INSERT INTO r VALUES (5)").await;
    rename_column(&f, "r", "a", "b").await;
    f.ok("INSERT INTO r VALUES (6)").await;
    let ctx = f.executor.ctx();
    for (sql, rows) in [("SELECT id FROM t WHERE day > '1970-01-01' AND id < 8", 5), ("SELECT b FROM r WHERE b < 7", 2)] {
        let plan = plan_query(ctx, &f.lakehouse, sql).await.unwrap();
        let plan = ctx.state().create_physical_plan(&plan).await.unwrap();
        let codec = WireCodec(Arc::clone(f.lakehouse.store()));
        let bytes = datafusion_proto::bytes::physical_plan_to_bytes_with_extension_codec(plan, &codec).unwrap();
        let plan = datafusion_proto::bytes::physical_plan_from_bytes_with_extension_codec(&bytes, &ctx.task_ctx(), &codec).unwrap();
        let stream = f.executor.execute_physical(plan).await.unwrap();
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{sql}");
    }
    // A table in a logical plan: pinned, its metadata read only when it is planned.
    let table = f.lakehouse.catalog().load_table(&f.lakehouse.ident("t").unwrap()).await.unwrap();
    let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current).unwrap();
    f.ok("INSERT INTO t VALUES (10, '2024-01-01')").await;
    let store = Arc::clone(f.lakehouse.store());
    let decoded = IcebergTableProvider::from_bytes(&provider.to_bytes().unwrap(), store).unwrap();
    let df = ctx.read_table(Arc::new(decoded)).unwrap();
    assert_eq!(df.count().await.unwrap(), 9);
}

impl Fixture {
    /// What a writer of upserts (such as Flink's) commits: the rows of `deleted` go wherever their ids stand in older
    /// files, those of `added` come with the same snapshot.
    async fn upsert(&self, table: &str, deleted: &[i64], added: &[(i64, &str)]) {
        use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};

        use crate::commit::{CommitOptions, ConflictCheck, TableChange, Transaction};
        use crate::write::{DataFileWriter, FileContent, WriteSpec};

        let table = load_table(&self.lakehouse, &self.lakehouse.ident(table).unwrap()).await.unwrap();
        let written = async |columns: Vec<(&str, ArrayRef)>| {
            let mut writer = DataFileWriter::new(WriteSpec::from_table(&table).unwrap(), Arc::clone(table.store())).unwrap();
            writer.write(&RecordBatch::try_from_iter(columns).unwrap()).await.unwrap();
            writer.close().await.unwrap()
        };
        let mut files = written(vec![("id", Arc::new(Int64Array::from(deleted.to_vec())))]).await;
        for file in &mut files {
            file.content = FileContent::EqualityDeletes;
            file.equality_ids = Some(vec![1]);
        }
        if !added.is_empty() {
            let (ids, names): (Vec<i64>, Vec<&str>) = added.iter().copied().unzip();
            files.extend(written(vec![("id", Arc::new(Int64Array::from(ids))), ("name", Arc::new(StringArray::from(names)))]).await);
        }
        let change = TableChange::overwrite(table.ident().clone(), table.current_snapshot_id(), [], files, ConflictCheck::Snapshot);
        Transaction::new(&self.lakehouse).add(change).commit(CommitOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn equality_deletes_are_in_the_change_log() {
    let f = Fixture::new().await;
    for mode in ["merge-on-read", "copy-on-write"] {
        f.ok(&format!("CREATE OR REPLACE TABLE u (id BIGINT, name STRING) TBLPROPERTIES ('format-version' = '2', 'write.delete.mode' = '{mode}')")).await;
        f.ok("INSERT INTO u VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
        f.ok("INSERT INTO u VALUES (4, 'd'), (2, 'bb')").await;
        f.upsert("u", &[2], &[(2, "B")]).await;
        f.ok("DELETE FROM u WHERE id = 3").await;
        // Of these only 1 is left; and a key that never was.
        f.upsert("u", &[1, 3, 9], &[]).await;
        // The row that came with a delete of its own key, and rows of files that lost others before.
        f.upsert("u", &[2, 4], &[(4, "D")]).await;
        assert_eq!(f.values("SELECT id, name FROM u").await, "4|D", "{mode}");

        let log = "SELECT _change_ordinal, _change_type, id, name FROM u.changes WHERE _change_ordinal <> 3 ORDER BY 1, 2, 3, 4";
        let expected = "0|INSERT|1|a 0|INSERT|2|b 0|INSERT|3|c 1|INSERT|2|bb 1|INSERT|4|d 2|DELETE|2|b 2|DELETE|2|bb 2|INSERT|2|B \
                        4|DELETE|1|a 5|DELETE|2|B 5|DELETE|4|d 5|INSERT|4|D";
        assert_eq!(f.values(log).await, expected, "{mode}");
        // Copy-on-write writes the row that stays once more.
        let third = f.values("SELECT _change_type, id, name FROM u.changes WHERE _change_ordinal = 3 ORDER BY 1, 2").await;
        assert_eq!(third, if mode == "copy-on-write" { "DELETE|1|a DELETE|3|c INSERT|1|a" } else { "DELETE|3|c" });
        // The compared column need not be asked for.
        assert_eq!(f.values("SELECT name FROM u.changes WHERE _change_ordinal = 5 AND _change_type = 'DELETE' ORDER BY 1").await, "B d", "{mode}");

        f.ok("CALL system.create_changelog_view(table => 'u', changelog_view => 'net', net_changes => true)").await;
        assert_eq!(f.values("SELECT id, name, _change_type FROM net").await, "4|D|INSERT", "{mode}");
        // Seen as updates: 4 became D; two rows of one key went at once in snapshot 2, which is none.
        let fifth = f.values("SELECT snapshot_id FROM u.snapshots ORDER BY committed_at DESC LIMIT 1 OFFSET 1").await;
        f.ok(&format!(
            "CALL system.create_changelog_view(table => 'u', changelog_view => 'images', identifier_columns => array('id'), options => map('start-snapshot-id', '{fifth}'))"
        ))
        .await;
        assert_eq!(f.values("SELECT id, name, _change_type FROM images ORDER BY 1, 3 DESC").await, "2|B|DELETE 4|d|UPDATE_BEFORE 4|D|UPDATE_AFTER", "{mode}");
    }
}
