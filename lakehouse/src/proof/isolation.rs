//! A statement whose table another statement changes between its reading and its commit: what
//! `write.<operation>.isolation-level` promises, and what holds on every level.

use std::sync::Arc;

use async_trait::async_trait;
use chainalytics_common::{ErrorCode, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;

use super::place::{Place, Process};
use crate::dml::WriteOptions;
use crate::exec::{LocalExecutor, QueryExecutor};
use crate::sql::execute;

/// Runs another process's statements once, when the first plan comes: the statement has chosen its snapshot by then.
struct Interleaved<'a> {
    own: &'a LocalExecutor,
    other: Mutex<Option<(Process, String)>>,
}

impl Interleaved<'_> {
    async fn interrupt(&self) {
        let other = self.other.lock().take();
        if let Some((process, sql)) = other {
            process.sql(&sql).await;
        }
    }
}

#[async_trait]
impl QueryExecutor for Interleaved<'_> {
    async fn execute_logical(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        Box::pin(self.interrupt()).await;
        self.own.execute_logical(plan).await
    }

    async fn execute_physical(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        Box::pin(self.interrupt()).await;
        self.own.execute_physical(plan).await
    }
}

#[derive(Debug, Clone, Copy)]
struct Table {
    mode: &'static str,
    level: &'static str,
}

const TABLES: [Table; 4] = [
    Table { mode: "copy-on-write", level: "serializable" },
    Table { mode: "copy-on-write", level: "snapshot" },
    Table { mode: "merge-on-read", level: "serializable" },
    Table { mode: "merge-on-read", level: "snapshot" },
];

impl Table {
    /// Two partitions, each with files of its own: `(1, 0, true)`, `(2, 1, true)`, `(3, 0, true)`.
    async fn create(self) -> Place {
        let place = Place::new();
        let process = place.process(None).await;
        let properties: Vec<String> = ["delete", "update", "merge"]
            .iter()
            .map(|operation| format!("'write.{operation}.mode' = '{}', 'write.{operation}.isolation-level' = '{}'", self.mode, self.level))
            .collect();
        process.sql(&format!("CREATE TABLE t (id BIGINT, part BIGINT, held BOOLEAN) PARTITIONED BY (part) TBLPROPERTIES ({})", properties.join(", "))).await;
        process.sql("INSERT INTO t VALUES (1, 0, true), (3, 0, true), (2, 1, true)").await;
        place
    }

    fn is_serializable(self) -> bool {
        self.level == "serializable"
    }
}

/// Runs `statement` with `other` in between; whether it was acknowledged, and the rows afterwards.
async fn race(place: &Place, statement: &str, other: &str) -> (bool, Vec<String>) {
    let process = place.process(None).await;
    let executor = Interleaved { own: &process.executor, other: Mutex::new(Some((place.process(None).await, other.to_owned()))) };
    let ended = execute(process.executor.ctx(), &process.lakehouse, &executor, statement, WriteOptions::default()).await;
    assert!(executor.other.lock().is_none(), "{statement}: the other never ran");
    if let Err(error) = &ended {
        assert_eq!(error.code(), ErrorCode::CommitConflict, "{statement}: {error}");
    }
    let fresh = place.process(None).await;
    fresh.check_files("t").await;
    (ended.is_ok(), fresh.rows("SELECT * FROM t").await)
}

#[tokio::test]
async fn no_update_is_lost() {
    for table in TABLES {
        let place = table.create().await;
        let update = "UPDATE t SET id = id + 10 WHERE part = 1";
        let (acknowledged, rows) = race(&place, update, update).await;
        assert!(!acknowledged, "{table:?}: {rows:?}");
        assert_eq!(rows, ["12|1|true", "1|0|true", "3|0|true"], "{table:?}");
        // What the other deleted does not come back.
        let (acknowledged, rows) = race(&place, "UPDATE t SET id = id + 10 WHERE part = 0", "DELETE FROM t WHERE id = 3").await;
        assert!(!acknowledged, "{table:?}: {rows:?}");
        assert_eq!(rows, ["12|1|true", "1|0|true"], "{table:?}");
        // Nor if a rewriting of delete files comes after it.
        let other = "INSERT INTO t VALUES (8, 0, true), (9, 0, true); DELETE FROM t WHERE id = 8; CALL system.rewrite_position_delete_files(table => 't', options => map('rewrite-all', 'true'))";
        place.process(None).await.sql(other).await;
        let other = "DELETE FROM t WHERE id = 9; CALL system.rewrite_position_delete_files(table => 't', options => map('rewrite-all', 'true'))";
        let (acknowledged, rows) = race(&place, "UPDATE t SET held = false WHERE part = 0 AND id > 1", other).await;
        assert!(!acknowledged, "{table:?}: {rows:?}");
        assert_eq!(rows, ["12|1|true", "1|0|true"], "{table:?}");
        let merge = "MERGE INTO t USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET held = false WHEN NOT MATCHED THEN INSERT (id, part) VALUES (s.id, 7)";
        let (acknowledged, rows) = race(&place, merge, "UPDATE t SET part = 5 WHERE id = 1").await;
        assert!(!acknowledged, "{table:?}: {rows:?}");
        assert_eq!(rows, ["12|1|true", "1|5|true"], "{table:?}");
    }
}

/// Two that delete different rows of one file: position deletes add up, a deletion vector takes the place of the other.
#[tokio::test]
async fn no_delete_is_lost() {
    for version in [2, 3] {
        for level in ["serializable", "snapshot"] {
            let place = Place::new();
            let process = place.process(None).await;
            let properties = format!(
                "'format-version' = '{version}', 'write.delete.mode' = 'merge-on-read', 'write.delete.isolation-level' = '{level}', \
                 'write.parquet.compression-codec' = 'snappy'"
            );
            process.sql(&format!("CREATE TABLE t (id BIGINT) TBLPROPERTIES ({properties})")).await;
            process.sql("INSERT INTO t SELECT value FROM generate_series(1, 4) AS g").await;
            let (acknowledged, rows) = race(&place, "DELETE FROM t WHERE id = 1", "DELETE FROM t WHERE id = 2").await;
            let expected: &[&str] = if acknowledged { &["3", "4"] } else { &["1", "3", "4"] };
            assert_eq!(rows, expected, "v{version}, {level}: acknowledged {acknowledged}");
            assert!(acknowledged || version == 3, "v{version}, {level}");
        }
    }
}

#[tokio::test]
async fn rows_that_come_meanwhile() {
    for table in TABLES {
        let statements = [
            ("DELETE FROM t WHERE part = 0 AND id < 3", ["2|1|true", "3|0|true"].as_slice()),
            ("UPDATE t SET held = false WHERE part = 0 AND id < 3", &["1|0|false", "2|1|true", "3|0|true"]),
            (
                "MERGE INTO t USING (SELECT 1 AS id, 0 AS part) AS s ON t.id = s.id AND t.part = 0 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, part) VALUES (s.id, s.part)",
                &["2|1|true", "3|0|true"],
            ),
        ];
        for (statement, done) in statements {
            let place = table.create().await;
            // Into the partition that it reads.
            let (acknowledged, rows) = race(&place, statement, "INSERT INTO t VALUES (1, 0, NULL)").await;
            assert_eq!(acknowledged, !table.is_serializable(), "{table:?}, {statement}: {rows:?}");
            let mut expected: Vec<&str> = if acknowledged { done.to_vec() } else { vec!["1|0|true", "2|1|true", "3|0|true"] };
            expected.push("1|0|null");
            expected.sort_unstable();
            assert_eq!(rows, expected, "{table:?}, {statement}");
            // A compaction that moves them does not hide them.
            let place = table.create().await;
            let other = "INSERT INTO t VALUES (7, 0, NULL), (1, 0, NULL); CALL system.rewrite_data_files(table => 't', options => map('rewrite-all', 'true'))";
            let (acknowledged, rows) = race(&place, statement, other).await;
            assert!(!acknowledged, "{table:?}, {statement}, compacted: {rows:?}");
            // Into another one.
            let place = table.create().await;
            let (acknowledged, rows) = race(&place, statement, "INSERT INTO t VALUES (1, 9, NULL)").await;
            assert!(acknowledged, "{table:?}, {statement}: {rows:?}");
        }
    }
}

/// Two that each leave the other's row alone, on the condition that enough are left.
#[tokio::test]
async fn write_skew_only_on_snapshot_isolation() {
    for table in TABLES {
        for (statement, other) in [
            ("UPDATE t SET held = false WHERE id = 1 AND (SELECT count(*) FROM t WHERE held) > 2", "UPDATE t SET held = false WHERE id = 2"),
            ("DELETE FROM t WHERE id = 1 AND (SELECT count(*) FROM t) > 2", "DELETE FROM t WHERE part = 1"),
            ("UPDATE t SET id = (SELECT max(id) + 1 FROM t) WHERE id = 1", "INSERT INTO t VALUES (50, 1, true)"),
            ("UPDATE t SET id = (SELECT max(id) + 1 FROM t) WHERE id = 1", "DELETE FROM t WHERE part = 1"),
            ("DELETE FROM t WHERE id = 1 AND EXISTS (SELECT 1 FROM t AS u WHERE u.part = 1)", "DELETE FROM t WHERE part = 1"),
            (
                "MERGE INTO t USING (SELECT 4 AS id, count(*) AS part FROM t) AS s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (id, part) VALUES (s.id, s.part)",
                "DELETE FROM t WHERE part = 1",
            ),
        ] {
            let place = table.create().await;
            let (acknowledged, rows) = race(&place, statement, other).await;
            assert_eq!(acknowledged, !table.is_serializable(), "{table:?}, {statement}: {rows:?}");
        }
    }
}

#[tokio::test]
async fn compaction_beside_changes() {
    for table in TABLES {
        let compaction = "CALL system.rewrite_data_files(table => 't', options => map('rewrite-all', 'true'))";
        for change in ["DELETE FROM t WHERE id = 1", "UPDATE t SET held = false WHERE id = 1"] {
            let place = table.create().await;
            let (acknowledged, rows) = race(&place, change, compaction).await;
            let changed = rows.iter().any(|row| row == "1|0|true");
            assert_eq!(changed, !acknowledged, "{table:?}, {change} over compaction: {rows:?}");
            let place = table.create().await;
            let (_, rows) = race(&place, compaction, change).await;
            assert!(!rows.iter().any(|row| row == "1|0|true"), "{table:?}, compaction over {change}: {rows:?}");
            assert_eq!(rows.len(), if change.starts_with("DELETE") { 2 } else { 3 }, "{table:?}, compaction over {change}: {rows:?}");
        }
        // A key that another inserted, and that was compacted since, is still seen.
        let place = table.create().await;
        let merge = "MERGE INTO t USING (SELECT 5 AS id) AS s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (id, part) VALUES (s.id, 0)";
        let other = format!("INSERT INTO t VALUES (5, 0, true); {compaction}");
        let (acknowledged, rows) = race(&place, merge, &other).await;
        assert_eq!(acknowledged, !table.is_serializable(), "{table:?}: {rows:?}");
        let place = table.create().await;
        let (acknowledged, rows) = race(&place, compaction, "INSERT INTO t VALUES (9, 0, true)").await;
        assert!(acknowledged && rows.len() == 4, "{table:?}: {rows:?}");
    }
}
