//! TPC-H's 22 queries on a cluster of three executors over Iceberg tables: the answers are those of DataFusion in one process on the tables' plain
//! Parquet files, and DuckDB's where the tests' Python environment is there.
//!
//! `TEST_TPCH_SF` is the scale (default 1). Generated data is kept in the user's cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use chainalytics_benches::process::{Binary, Timed};
use chainalytics_benches::tpch::run::Side;
use chainalytics_benches::tpch::{self, FLOAT_COLUMNS, QUERIES};
use chainalytics_benches::{answers, peers};
use chainalytics_tests::{Place, binary};

#[test]
fn a_cluster_answers_as_one_process_does() {
    let scale: f64 = std::env::var("TEST_TPCH_SF").ok().map_or(1.0, |sf| sf.parse().unwrap());
    let source = tpch::source_dir(scale).unwrap();
    tpch::generate::generate(&source, scale).unwrap();
    let place = Place::new();
    let ours = Binary::new(Some(binary()), place.path()).unwrap();
    let one_process = ["--master".to_owned(), "local[2]".to_owned()];
    tpch::load(&ours, &source, &one_process).unwrap();
    let folders = tpch::data_folders(&ours).unwrap();
    let queries: Vec<String> = (1..=QUERIES).map(|n| tpch::query(n, scale).unwrap()).collect();

    // Plain Parquet tables, and the rule that is ours left out: nothing of the lakehouse takes part.
    let mut statements = tpch::plain_tables(&folders);
    let setup = statements.len();
    statements.extend(queries.iter().cloned());
    let stock: Vec<String> = one_process.iter().cloned().chain(["--conf".to_owned(), "query.push-down-semi-joins=false".to_owned()]).collect();
    let expected = ours.apart("plain").unwrap().script(&statements, &stock).unwrap().split_off(setup);
    assert!(expected.iter().all(|q| !q.rows.is_empty()), "a query without rows proves nothing");

    place.start_cluster(3, &["--no-broker"]);
    let found = ours.script(&queries, &[]).unwrap();
    let differences: Vec<String> = differing(&expected, &found, |a, b| answers::compare_exactly(a, b, &FLOAT_COLUMNS));
    assert!(differences.is_empty(), "cluster against one process:\n{}", differences.join("\n"));

    match peers::missing(Side::Duckdb) {
        Some(why) => println!("not compared with DuckDB: {why}"),
        None => {
            let theirs = peers::run(Side::Duckdb, &queries, &folders).unwrap();
            let differences = differing(&theirs, &found, answers::compare);
            assert!(differences.is_empty(), "cluster against DuckDB:\n{}", differences.join("\n"));
        }
    }
}

type Rows = [serde_json::Value];

fn differing(expected: &[Timed], found: &[Timed], compare: impl Fn(&Rows, &Rows) -> Result<(), String>) -> Vec<String> {
    assert_eq!(expected.len(), found.len());
    expected
        .iter()
        .zip(found)
        .enumerate()
        .filter_map(|(n, (e, f))| compare(&e.rows, &f.rows).err().map(|difference| format!("query {}: {difference}", n + 1)))
        .collect()
}
