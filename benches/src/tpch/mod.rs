//! TPC-H: data by tpchgen, loaded into Iceberg tables, its 22 queries through a cluster and through others on the very same Parquet files.

pub mod generate;
mod report;
pub mod run;

use std::path::{Path, PathBuf};

use crate::Result;
use crate::process::Binary;

/// The eight tables, large ones first.
pub const TABLES: [&str; 8] = ["lineitem", "orders", "partsupp", "customer", "part", "supplier", "nation", "region"];

/// Columns of the queries' results that are floating point: averages, and quotients with a literal.
pub const FLOAT_COLUMNS: [&str; 5] = ["avg_qty", "avg_price", "avg_disc", "promo_revenue", "avg_yearly"];

/// Number of queries.
pub const QUERIES: usize = 22;

/// Source text; `{FRACTION}` in query 11 depends on the scale.
const TEXTS: [&str; QUERIES] = [
    include_str!("../../tpch/queries/q01.sql"),
    include_str!("../../tpch/queries/q02.sql"),
    include_str!("../../tpch/queries/q03.sql"),
    include_str!("../../tpch/queries/q04.sql"),
    include_str!("../../tpch/queries/q05.sql"),
    include_str!("../../tpch/queries/q06.sql"),
    include_str!("../../tpch/queries/q07.sql"),
    include_str!("../../tpch/queries/q08.sql"),
    include_str!("../../tpch/queries/q09.sql"),
    include_str!("../../tpch/queries/q10.sql"),
    include_str!("../../tpch/queries/q11.sql"),
    include_str!("../../tpch/queries/q12.sql"),
    include_str!("../../tpch/queries/q13.sql"),
    include_str!("../../tpch/queries/q14.sql"),
    include_str!("../../tpch/queries/q15.sql"),
    include_str!("../../tpch/queries/q16.sql"),
    include_str!("../../tpch/queries/q17.sql"),
    include_str!("../../tpch/queries/q18.sql"),
    include_str!("../../tpch/queries/q19.sql"),
    include_str!("../../tpch/queries/q20.sql"),
    include_str!("../../tpch/queries/q21.sql"),
    include_str!("../../tpch/queries/q22.sql"),
];

/// Query `number` (1 to 22) at a scale.
///
/// # Errors
/// If there is no such query.
pub fn query(number: usize, scale: f64) -> Result<String> {
    let text = number.checked_sub(1).and_then(|n| TEXTS.get(n)).ok_or_else(|| format!("TPC-H has queries 1 to {QUERIES}, not {number}"))?;
    Ok(text.trim().replace("{FRACTION}", &format!("{}", 0.0001 / scale)))
}

/// Where generated data is kept between runs: `chainalytics/tpch` in the user's cache.
///
/// # Errors
/// Without a home directory.
pub fn cache() -> Result<PathBuf> {
    let root = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => return Err("neither XDG_CACHE_HOME nor HOME is set".to_owned()),
    };
    Ok(root.join("chainalytics").join("tpch"))
}

/// The folder of one scale's generated Parquet, a folder for each table.
///
/// # Errors
/// As [`cache`].
pub fn source_dir(scale: f64) -> Result<PathBuf> {
    Ok(cache()?.join(format!("sf{scale}")))
}

/// Makes the lakehouse's tables from generated Parquet by CREATE TABLE AS; where `more` says. Takes the place of tables that were there.
///
/// # Errors
/// If a statement fails.
pub fn load(binary: &Binary, source: &Path, more: &[String]) -> Result<f64> {
    let mut statements = Vec::new();
    for table in TABLES {
        statements.push(format!("CREATE EXTERNAL TABLE source_{table} STORED AS PARQUET LOCATION '{}/'", source.join(table).display()));
        statements.push(format!("CREATE OR REPLACE TABLE {table} AS SELECT * FROM source_{table}"));
    }
    Ok(binary.script(&statements, more)?.iter().map(|t| t.seconds).sum())
}

/// Statements that declare plain Parquet tables over the lakehouse's data files, for a catalog that does not have these names yet.
#[must_use]
pub fn plain_tables(folders: &[(String, PathBuf)]) -> Vec<String> {
    folders.iter().map(|(table, dir)| format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", dir.display())).collect()
}

/// The folder of each table's data files, for tables that were just loaded: nothing else lies there.
///
/// # Errors
/// If the warehouse is not a local directory with these tables.
pub fn data_folders(binary: &Binary) -> Result<Vec<(String, PathBuf)>> {
    let shown = binary.run(&["config", "show", "--output", "json"])?;
    let config: serde_json::Value = serde_json::from_str(&shown).map_err(|e| format!("cannot read the configuration: {e}"))?;
    let text = |key: &str| config[key]["value"].as_str().unwrap_or_default().to_owned();
    let warehouse = text("catalog.warehouse");
    let root = PathBuf::from(warehouse.strip_prefix("file://").unwrap_or(&warehouse)).join(text("catalog.namespace"));
    TABLES
        .iter()
        .map(|table| {
            let dir = root.join(table).join("data");
            if dir.is_dir() { Ok(((*table).to_owned(), dir)) } else { Err(format!("{} is no folder", dir.display())) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn queries_know_their_scale() {
        assert!(query(11, 1.0).unwrap().contains("* 0.0001 "));
        assert!(query(11, 10.0).unwrap().contains("* 0.00001 "));
        assert!(query(0, 1.0).is_err() && query(23, 1.0).is_err());
        assert!((1..=QUERIES).all(|q| !query(q, 1.0).unwrap().contains('{')));
    }
}
