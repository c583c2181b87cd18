//! A process that dies, or is answered with an error, at every operation between the first data file and the catalog's
//! answer. Afterwards a fresh process sees all or nothing; the step repeated gives exactly once; what was left behind is
//! found by orphan removal, and nothing else is.

use std::future::Future;
use std::pin::Pin;

use chainalytics_common::{ErrorCode, Result};
use datafusion::arrow::array::RecordBatch;

use super::faults::{Fault, Faults};
use super::is_long;
use super::place::{Place, Process};
use crate::commit::{CommitOptions, TableChange, Transaction};
use crate::write::{DataFileWriter, WriteSpec};

type Act = for<'a> fn(&'a Process, CommitOptions) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

enum Operation {
    Sql(&'static str),
    Act(Act),
}

pub struct Scenario {
    pub name: &'static str,
    /// Statements that lead to it.
    pub setup: &'static [&'static str],
    operation: Operation,
    /// What tells whether it happened.
    seen: &'static [&'static str],
    pub tables: &'static [&'static str],
}

impl Scenario {
    pub async fn run(&self, process: &Process) -> Result<()> {
        let options = CommitOptions::step("run-1", "step-1");
        match &self.operation {
            Operation::Sql(sql) => process.try_sql(sql, options).await.map(|_| ()),
            Operation::Act(act) => act(process, options).await,
        }
    }

    pub async fn seen(&self, process: &Process) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for query in self.seen {
            all.push(process.rows(query).await);
        }
        all
    }

    /// Runs the operation with each fault at each of its operations until one comes after its end; how often.
    async fn prove(&self, faults: &[Fault], stride: u64) -> u64 {
        let place = Place::new();
        let first = place.process(None).await;
        for sql in self.setup {
            first.sql(sql).await;
        }
        let before = self.seen(&first).await;
        place.keep();
        self.run(&first).await.unwrap();
        let after = self.seen(&first).await;
        assert_ne!(before, after, "{}: the operation cannot be seen", self.name);
        let mut tried = 0;
        for fault in faults {
            let mut at = 1;
            loop {
                place.restore();
                let struck = self.once(&place, *fault, at, &before, &after).await;
                if !struck {
                    break;
                }
                tried += 1;
                at += stride;
            }
            assert!(at > 1, "{}: {fault:?} struck nowhere", self.name);
        }
        tried
    }

    async fn once(&self, place: &Place, fault: Fault, at: u64, before: &[Vec<String>], after: &[Vec<String>]) -> bool {
        let what = format!("{}, {fault:?} at operation {at}", self.name);
        let faults = Faults::new(fault, at);
        let broken = place.process(Some(&faults)).await;
        let ended = tokio::select! {
            biased;
            () = faults.death() => None,
            ended = self.run(&broken) => Some(ended),
        };
        let struck = faults.struck();
        drop(broken);

        let fresh = place.process(None).await;
        let seen = self.seen(&fresh).await;
        assert!(seen == before || seen == after, "{what}: neither all nor nothing: {seen:?}, {before:?} before and {after:?} after");
        match &ended {
            Some(Ok(())) => assert!(seen == after, "{what}: acknowledged, but not there"),
            Some(Err(error)) if error.code() != ErrorCode::CommitUnknown && fault != Fault::AnswerLost => {
                assert!(seen == before || self.acts_after_commit(), "{what}: refused, but there: {error}");
            }
            _ => {}
        }
        fresh.check(self, &what).await;
        assert!(self.seen(&fresh).await == seen, "{what}: removal of orphans changed the table");

        let again = place.process(None).await;
        for _ in 0..2 {
            self.run(&again).await.unwrap_or_else(|error| panic!("{what}: repeated: {error}"));
            let seen = self.seen(&place.process(None).await).await;
            assert!(seen == after, "{what}: repeated: {seen:?} instead of {after:?}");
        }
        again.check(self, &what).await;
        struck
    }

    /// Whether it has more to do, and to fail at, once its commit stands.
    fn acts_after_commit(&self) -> bool {
        self.name.contains("expire")
    }
}

impl Process {
    async fn check(&self, scenario: &Scenario, _what: &str) {
        for table in scenario.tables {
            if self.lakehouse.catalog().table_exists(&self.lakehouse.ident(table).unwrap()).await.unwrap() {
                self.check_files(table).await;
            }
        }
    }
}

const BRANCHED: &[&str] = &[BASE[0], BASE[1], "ALTER TABLE t CREATE BRANCH audit"];
const ROWS: &str = "SELECT * FROM t";
const T: &[&str] = &["t"];

const BASE: &[&str] = &[
    "CREATE TABLE t (id BIGINT, part BIGINT, v STRING) PARTITIONED BY (part)",
    "INSERT INTO t VALUES (1, 0, 'a'), (2, 0, 'b'), (3, 1, 'c'), (4, 1, 'd')",
    "INSERT INTO t VALUES (5, 0, 'e'), (6, 1, 'f')",
];
const MERGE_ON_READ: &[&str] = &[
    "CREATE TABLE t (id BIGINT, part BIGINT, v STRING) PARTITIONED BY (part) TBLPROPERTIES \
     ('write.delete.mode' = 'merge-on-read', 'write.update.mode' = 'merge-on-read', 'write.merge.mode' = 'merge-on-read')",
    "INSERT INTO t VALUES (1, 0, 'a'), (2, 0, 'b'), (3, 1, 'c'), (4, 1, 'd')",
    "INSERT INTO t VALUES (5, 0, 'e'), (6, 1, 'f')",
];
const VECTORS: &[&str] = &[
    "CREATE TABLE t (id BIGINT, part BIGINT, v STRING) PARTITIONED BY (part) TBLPROPERTIES ('format-version' = '3', 'write.delete.mode' = 'merge-on-read')",
    "INSERT INTO t VALUES (1, 0, 'a'), (2, 0, 'b'), (3, 1, 'c'), (4, 1, 'd')",
    "DELETE FROM t WHERE id = 2",
];
const SMALL_FILES: &[&str] = &[
    "CREATE TABLE t (id BIGINT, part BIGINT, v STRING) PARTITIONED BY (part)",
    "INSERT INTO t VALUES (1, 0, 'a'), (2, 1, 'b')",
    "INSERT INTO t VALUES (3, 0, 'c'), (4, 1, 'd')",
    "INSERT INTO t VALUES (5, 0, 'e'), (6, 1, 'f')",
];
const HISTORY: &[&str] = &[
    "CREATE TABLE t (id BIGINT, part BIGINT, v STRING) PARTITIONED BY (part)",
    "INSERT INTO t VALUES (1, 0, 'a'), (2, 1, 'b')",
    "INSERT OVERWRITE t VALUES (3, 0, 'c'), (4, 1, 'd')",
    "UPDATE t SET v = 'x' WHERE id = 3",
];
const MERGE: &str = "MERGE INTO t USING (SELECT 2 AS id, 0 AS part, 'B' AS v UNION ALL SELECT 9, 1, 'new' UNION ALL SELECT 3, 1, 'gone') AS s \
                     ON t.id = s.id WHEN MATCHED AND s.v = 'gone' THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT *";

pub fn scenarios() -> Vec<Scenario> {
    let sql = |name, setup, sql, seen, tables| Scenario { name, setup, operation: Operation::Sql(sql), seen, tables };
    vec![
        sql("append", BASE, "INSERT INTO t VALUES (7, 0, 'g'), (8, 1, 'h')", &[ROWS], T),
        sql("overwrite", BASE, "INSERT OVERWRITE t VALUES (7, 0, 'g')", &[ROWS], T),
        sql("update, copy-on-write", BASE, "UPDATE t SET v = 'z' WHERE id IN (1, 4)", &[ROWS], T),
        sql("merge, copy-on-write", BASE, MERGE, &[ROWS], T),
        sql("merge, merge-on-read", MERGE_ON_READ, MERGE, &[ROWS], T),
        sql("delete, position deletes", MERGE_ON_READ, "DELETE FROM t WHERE id IN (1, 3)", &[ROWS], T),
        sql("delete, deletion vectors", VECTORS, "DELETE FROM t WHERE id IN (1, 3)", &[ROWS], T),
        sql(
            "compaction",
            SMALL_FILES,
            "CALL system.rewrite_data_files(table => 't', options => map('min-input-files', '2'))",
            &[ROWS, "SELECT count(*) FROM t.files"],
            T,
        ),
        sql("rewrite_manifests", SMALL_FILES, "CALL system.rewrite_manifests(table => 't')", &[ROWS, "SELECT count(*) FROM t.manifests"], T),
        sql(
            "expire_snapshots",
            HISTORY,
            "CALL system.expire_snapshots(table => 't', older_than => now(), retain_last => 1)",
            &[ROWS, "SELECT count(*) FROM t.snapshots"],
            T,
        ),
        sql(
            "branch",
            BRANCHED,
            "INSERT INTO t.branch_audit VALUES (7, 0, 'g')",
            &[ROWS, "SELECT * FROM t VERSION AS OF 'audit'"],
            T,
        ),
        Scenario {
            name: "several tables",
            setup: &["CREATE TABLE t (id BIGINT)", "CREATE TABLE u (id BIGINT)", "INSERT INTO u VALUES (1)"],
            operation: Operation::Act(|process, options| Box::pin(append_to_both(process, options))),
            seen: &["SELECT id FROM t", "SELECT id FROM u"],
            tables: &["t", "u"],
        },
        Scenario {
            name: "upload in parts",
            setup: &["CREATE TABLE t (id BIGINT, body STRING) TBLPROPERTIES ('write.parquet.compression-codec' = 'uncompressed')"],
            operation: Operation::Act(|process, options| Box::pin(append_much(process, options))),
            seen: &["SELECT id, length(body) FROM t"],
            tables: T,
        },
    ]
}

async fn append_rows(process: &Process, table: &str, rows: &str) -> Result<TableChange> {
    use datafusion::physical_plan::execute_stream;
    use futures::TryStreamExt;
    let table = process.lakehouse.catalog().load_table(&process.lakehouse.ident(table)?).await?;
    let ctx = process.executor.ctx();
    let plan = ctx.sql(rows).await.unwrap().create_physical_plan().await.unwrap();
    let batches: Vec<_> = execute_stream(plan, ctx.task_ctx()).unwrap().try_collect().await.unwrap();
    let mut writer = DataFileWriter::new(WriteSpec::from_table(&table)?, table.store().clone())?;
    for batch in &batches {
        let columns = batch.columns().iter().zip(table.schema().fields());
        let columns = columns.map(|(column, field)| datafusion::arrow::compute::cast(column, field.data_type()).unwrap()).collect();
        writer.write(&RecordBatch::try_new(table.schema().clone(), columns).unwrap()).await?;
    }
    Ok(TableChange::append(table.ident().clone(), writer.close().await?))
}

async fn append_to_both(process: &Process, options: CommitOptions) -> Result<()> {
    let t = append_rows(process, "t", "SELECT 7 AS id").await?;
    let u = append_rows(process, "u", "SELECT 8 AS id").await?;
    Transaction::new(&process.lakehouse).add(t).add(u).commit(options).await.map(|_| ())
}

/// More than a store takes in one request.
async fn append_much(process: &Process, options: CommitOptions) -> Result<()> {
    let change = append_rows(process, "t", "SELECT value AS id, repeat(CAST(value AS VARCHAR) || '-', 300000) AS body FROM range(100, 118)").await?;
    Transaction::new(&process.lakehouse).add(change).commit(options).await.map(|_| ())
}

const FAULTS: [Fault; 7] =
    [Fault::DiesBefore, Fault::DiesAfter, Fault::DiesTorn, Fault::DiesStaged, Fault::FailsOnce, Fault::AnswerLost, Fault::Broken];

/// Proves the scenarios of a name; the short form tries some of the operations.
async fn prove(names: &[&str]) {
    for scenario in scenarios().into_iter().filter(|scenario| names.contains(&scenario.name)) {
        let started = std::time::Instant::now();
        let mut tried = 0;
        for fault in FAULTS {
            let stride = match fault {
                _ if is_long() => 1,
                Fault::DiesBefore | Fault::DiesAfter => 4,
                _ => 11,
            };
            tried += scenario.prove(&[fault], stride).await;
        }
        println!("{}: {tried} faults survived in {:?}", scenario.name, started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_overwrites_survive() {
    prove(&["append", "overwrite", "branch"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_rows_survive() {
    prove(&["update, copy-on-write", "merge, copy-on-write", "merge, merge-on-read"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_survive() {
    prove(&["delete, position deletes", "delete, deletion vectors"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_survives() {
    prove(&["compaction", "rewrite_manifests", "expire_snapshots"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_and_large_files_survive() {
    prove(&["several tables", "upload in parts"]).await;
}
