//! Answers that come from metadata alone are those that the rows give, and a limit opens no more files than it needs.

use super::place::{Place, Process};

const AGGREGATES: &[&str] = &["count(*)", "count({c})", "min({c})", "max({c})"];

impl Process {
    async fn all(&self, statements: &[&str]) {
        for sql in statements {
            self.sql(sql).await;
        }
    }

    /// The plan, in which a scan shows as an operator.
    async fn plan(&self, sql: &str) -> String {
        self.rows(&format!("EXPLAIN {sql}")).await.join("\n")
    }

    async fn reads(&self, sql: &str) -> bool {
        let plan = self.plan(sql).await;
        plan.contains("DataSourceExec") || plan.contains("IcebergReadExec")
    }

    /// Every aggregate of every column, as it is answered and as the rows give it.
    async fn compare(&self, what: &str, table: &str, columns: &[&str]) {
        for column in columns {
            for aggregate in AGGREGATES {
                let aggregate = aggregate.replace("{c}", column);
                let answer = self.rows(&format!("SELECT {aggregate} FROM {table}")).await;
                // No statistics decide this condition, and all rows meet it.
                let counted = format!("SELECT {aggregate} FROM {table} WHERE random() >= 0.0");
                assert!(self.reads(&counted).await || self.rows(&format!("SELECT * FROM {table}")).await.is_empty(), "{what}: {counted}");
                assert_eq!(answer, self.rows(&counted).await, "{what}: {aggregate} of {table}");
            }
        }
    }

    /// Whether answering reads files.
    async fn check_reads(&self, what: &str, table: &str, aggregates: &[(&str, bool)]) {
        for (aggregate, reads) in aggregates {
            let sql = format!("SELECT {aggregate} FROM {table}");
            assert_eq!(self.reads(&sql).await, *reads, "{what}: {sql}\n{}", self.plan(&sql).await);
        }
    }
}

/// Parquet files that a plan names.
fn files_in(plan: &str) -> usize {
    plan.matches(".parquet").count()
}

const TYPES: &[&str] = &["id", "small", "name", "day", "at", "price", "ratio", "yes"];

#[tokio::test]
async fn counts_and_extremes_come_from_metadata_where_it_knows_them() {
    let place = Place::new();
    let process = place.process(None).await;
    process
        .all(&[
            "CREATE TABLE t (id BIGINT NOT NULL, small INT, name STRING, day DATE, at TIMESTAMP, price DECIMAL(12, 2), ratio DOUBLE, yes BOOLEAN)",
            "INSERT INTO t VALUES \
             (7, 1, 'a rather long name that no bound holds whole', DATE '2026-01-01', TIMESTAMP '2026-01-01 00:00:01', 1.25, 0.5, true), \
             (-3, NULL, 'b', NULL, NULL, NULL, NULL, NULL)",
            "INSERT INTO t VALUES \
             (12, 40, 'zzzzzzzzzzzzzzzzzzzzzzzzzzzz', DATE '1969-12-31', TIMESTAMP '1969-12-31 23:59:59', -99999.99, 'NaN'::double, false), \
             (13, -1, 'a rather long name that no bound', DATE '2030-01-01', TIMESTAMP '2030-06-01 12:00:00', 5, -0.0, false)",
            "INSERT INTO t (id) VALUES (100)",
        ])
        .await;
    process.compare("as written", "t", TYPES).await;
    let exact: &[(&str, bool)] = &[
        ("count(*)", false),
        ("count(id), min(id), max(id)", false),
        ("count(small), min(small), max(small)", false),
        ("count(name), count(ratio), count(yes)", false),
        ("min(day), max(day), min(at), max(at), min(price), max(price)", false),
        // Bounds of texts may be cut, those of floating point numbers leave out NaN.
        ("min(name)", true),
        ("max(name)", true),
        ("min(ratio)", true),
        ("max(ratio)", true),
    ];
    process.check_reads("as written", "t", exact).await;
    assert_eq!(process.rows("SELECT count(*), count(small), min(id), max(price), max(name), max(ratio) FROM t").await.len(), 1);
    assert_eq!(process.rows("SELECT count(*), count(small), min(id), max(id), min(day) FROM t").await, ["5|3|-3|100|1969-12-31"]);

    // Whole files and rewritten ones: nothing is deleted from the files that are left.
    process.all(&["DELETE FROM t WHERE id = 100", "UPDATE t SET small = 41 WHERE id = 7", "DELETE FROM t WHERE id = 12"]).await;
    process.compare("copy-on-write", "t", TYPES).await;
    process.check_reads("copy-on-write", "t", exact).await;
    let first = process.table("t").await.ancestry().last().unwrap().snapshot_id;
    assert_eq!(process.rows(&format!("SELECT count(*), max(id) FROM t VERSION AS OF {first}")).await, ["2|7"]);

    // A wider type, a column of the same name that is another one, one that is renamed, one with a default.
    process.all(&["ALTER TABLE t ALTER COLUMN small TYPE BIGINT", "INSERT INTO t (id, small) VALUES (20, 5000000000), (21, -5000000000)"]).await;
    process.compare("widened", "t", TYPES).await;
    process.check_reads("widened", "t", &[("count(*)", false)]).await;
    assert_eq!(process.rows("SELECT min(small), max(small) FROM t").await, ["-5000000000|5000000000"]);
    process.all(&["ALTER TABLE t DROP COLUMN small", "ALTER TABLE t ADD COLUMN small BIGINT"]).await;
    process.compare("dropped and added again", "t", TYPES).await;
    assert_eq!(process.rows("SELECT count(small), min(small) FROM t").await, ["0|null"]);
    process.all(&["INSERT INTO t (id, small) VALUES (30, 6)", "ALTER TABLE t RENAME COLUMN id TO number"]).await;
    let renamed = &["number", "small", "name", "day", "at", "price", "ratio", "yes"];
    process.compare("renamed", "t", renamed).await;
    assert_eq!(process.rows("SELECT count(small), min(small), max(number) FROM t").await, ["1|6|30"]);

    // Without metrics only the number of rows is known.
    process
        .all(&["CREATE TABLE bare (id BIGINT) TBLPROPERTIES ('write.metadata.metrics.default' = 'none')", "INSERT INTO bare VALUES (1), (NULL)"])
        .await;
    process.compare("without metrics", "bare", &["id"]).await;
    process.check_reads("without metrics", "bare", &[("count(*)", false), ("count(id)", true), ("max(id)", true)]).await;

    process.sql("CREATE TABLE empty (id BIGINT)").await;
    process.compare("empty", "empty", &["id"]).await;
}

#[tokio::test]
async fn deleted_rows_are_in_no_answer() {
    let place = Place::new();
    let process = place.process(None).await;
    for version in [2, 3] {
        let table = format!("t{version}");
        process
            .all(&[
                &format!(
                    "CREATE TABLE {table} (id BIGINT, name STRING) TBLPROPERTIES ('format-version' = '{version}', 'write.delete.mode' = 'merge-on-read')"
                ),
                &format!("INSERT INTO {table} SELECT value, concat('n', value) FROM generate_series(1, 100)"),
                &format!("INSERT INTO {table} SELECT value, concat('n', value) FROM generate_series(201, 300)"),
                &format!("DELETE FROM {table} WHERE id = 300 OR id = 250"),
            ])
            .await;
        process.compare("merge-on-read", &table, &["id", "name"]).await;
        assert_eq!(process.rows(&format!("SELECT count(*), max(id), min(id) FROM {table}")).await, ["198|299|1"]);
        assert_eq!(process.rows(&format!("SELECT count(*) FROM (SELECT id FROM {table} LIMIT 150)")).await, ["150"]);
        process.sql(&format!("CALL system.rewrite_data_files(table => '{table}', options => map('rewrite-all', 'true'))")).await;
        process.compare("compacted", &table, &["id", "name"]).await;
        process.check_reads("compacted", &table, &[("count(*), min(id), max(id)", false)]).await;
    }
}

#[tokio::test]
async fn a_limit_opens_no_more_files_than_it_needs() {
    let place = Place::new();
    let process = place.process(None).await;
    process.sql("CREATE TABLE t (id BIGINT, name STRING)").await;
    for file in 0..4 {
        process.sql(&format!("INSERT INTO t SELECT value, concat('n', value) FROM generate_series({}, {})", file * 100 + 1, file * 100 + 100)).await;
    }
    for (limit, files) in [(1, 1), (100, 1), (101, 2), (1000, 4)] {
        let sql = format!("SELECT * FROM t LIMIT {limit}");
        assert_eq!(files_in(&process.plan(&sql).await), files, "{sql}");
        assert_eq!(process.rows(&sql).await.len(), limit.min(400), "{sql}");
    }
    // A condition above the limit's scan decides how many rows it takes.
    assert_eq!(process.rows("SELECT * FROM t WHERE id % 50 = 0 LIMIT 5").await.len(), 5);
}
