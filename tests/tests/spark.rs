//! Tables that Spark writes with Iceberg's own runtime (formats 1 to 3, position deletes, deletion vectors, evolved schemas and partitions, row lineage), read and
//! changed by us, and read again by Spark. Runs where `scripts/parts/spark.sh env` is in the environment (`make interop-spark`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::process::Command;

use chainalytics_tests::binary;

#[test]
fn what_spark_writes_is_read_and_changed() {
    let (Some(python), Some(jars)) = (std::env::var_os("TEST_SPARK_PYTHON"), std::env::var_os("TEST_SPARK_JARS")) else {
        println!("skipped: TEST_SPARK_PYTHON and TEST_SPARK_JARS are not set (make interop-spark sets them)");
        return;
    };
    let dir = tempfile::Builder::new().prefix("chainalytics-spark-").tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/spark_writes.py");
    let output = Command::new(python).arg(script).arg(binary()).arg(jars).arg(dir.path().join("lake")).output().unwrap();
    let (report, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{report}\n{errors}");
    println!("{report}");
}
