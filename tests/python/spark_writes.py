"""Spark writes tables of every kind that readers must know, we read and change them, and Spark reads them again.

usage: spark_writes.py BINARY JARS_DIR DATA_DIR     (DATA_DIR is made)

Prints one JSON object; exits with 1 if any rows differ.
"""

import glob
import json
import os
import sqlite3
import subprocess
import sys

from pyspark.sql import SparkSession

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lineage_with_spark  # noqa: E402
from compare_rows import rows_of  # noqa: E402

# Name, columns to compare, statements.
TABLES = [
    ("v1", "id, s, d", [
        "CREATE TABLE {t} (id BIGINT, s STRING, d DATE) USING iceberg PARTITIONED BY (days(d)) TBLPROPERTIES ('format-version'='1')",
        "INSERT INTO {t} SELECT id, concat('s', id), date_add(DATE'2026-01-01', CAST(id % 3 AS INT)) FROM range(100)",
    ]),
    ("position_deletes", "id, s", [
        "CREATE TABLE {t} (id BIGINT, s STRING) USING iceberg TBLPROPERTIES ('format-version'='2', 'write.delete.mode'='merge-on-read', "
        "'write.update.mode'='merge-on-read', 'write.merge.mode'='merge-on-read')",
        "INSERT INTO {t} SELECT id, concat('s', id) FROM range(1000)",
        "DELETE FROM {t} WHERE id % 7 = 3",
        "UPDATE {t} SET s = 'changed' WHERE id % 10 = 0",
    ]),
    ("deletion_vectors", "id, s", [
        "CREATE TABLE {t} (id BIGINT, s STRING) USING iceberg PARTITIONED BY (bucket(4, id)) TBLPROPERTIES ('format-version'='3', "
        "'write.delete.mode'='merge-on-read', 'write.update.mode'='merge-on-read')",
        "INSERT INTO {t} SELECT id, concat('s', id) FROM range(1000)",
        "DELETE FROM {t} WHERE id % 7 = 3",
        "DELETE FROM {t} WHERE id % 11 = 5",
        "UPDATE {t} SET s = 'changed' WHERE id % 10 = 0",
    ]),
    ("evolved", "id, name, extra, n", [
        "CREATE TABLE {t} (id BIGINT, s STRING, n INT, gone STRING) USING iceberg PARTITIONED BY (truncate(10, id))",
        "INSERT INTO {t} SELECT id, concat('s', id), CAST(id AS INT), 'x' FROM range(50)",
        "ALTER TABLE {t} RENAME COLUMN s TO name",
        "ALTER TABLE {t} ALTER COLUMN n TYPE BIGINT",
        "ALTER TABLE {t} DROP COLUMN gone",
        "ALTER TABLE {t} ADD COLUMN extra STRING",
        "ALTER TABLE {t} REPLACE PARTITION FIELD truncate(10, id) WITH bucket(3, id)",
        "INSERT INTO {t} SELECT 100 + id, concat('n', id), 5000000000 + id, 'new' FROM range(50)",
    ]),
    ("types", "b, i, l, dbl, s, d, CAST(dec AS STRING) AS dec, CAST(ts AS STRING) AS ts_text, x[0] AS x0, st.a AS sta, m['k'] AS mk", [
        "CREATE TABLE {t} (b BOOLEAN, i INT, l BIGINT, dbl DOUBLE, s STRING, d DATE, dec DECIMAL(20,4), ts TIMESTAMP_NTZ, x ARRAY<INT>, "
        "st STRUCT<a: INT, b: STRING>, m MAP<STRING, INT>) USING iceberg",
        "INSERT INTO {t} VALUES (true, 1, 2, 1.5, 'text', DATE'2026-02-03', 12345.6789, TIMESTAMP_NTZ'2026-02-03 04:05:06.789', array(7, 8), "
        "named_struct('a', 9, 'b', 'z'), map('k', 10)), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    ]),
]
# What we then do to the tables that may be changed.
CHANGES = {
    "v1": "INSERT INTO v1 VALUES (1000, 'ours', DATE '2026-01-02')",
    "position_deletes": "DELETE FROM position_deletes WHERE id % 13 = 1",
    "deletion_vectors": "DELETE FROM deletion_vectors WHERE id % 13 = 1",
    "evolved": "UPDATE evolved SET name = 'ours' WHERE id < 5",
}
OURS = {
    # Texts of timestamps differ between the engines; arrays count from 1 here.
    "types": "b, i, l, dbl, s, d, CAST(dec AS STRING) AS dec, replace(CAST(ts AS STRING), 'T', ' ') AS ts_text, x[1] AS x0, st['a'] AS sta, m['k'] AS mk",
}


def main():
    binary, jars, data_dir = sys.argv[1:4]
    os.makedirs(data_dir, exist_ok=True)
    spark = (
        SparkSession.builder.master("local[2]").config("spark.jars", ",".join(glob.glob(f"{jars}/*.jar")))
        .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
        .config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog").config("spark.sql.catalog.lake.cache-enabled", "false")
        .config("spark.sql.catalog.lake.catalog-impl", "org.apache.iceberg.jdbc.JdbcCatalog")
        .config("spark.sql.catalog.lake.uri", f"jdbc:sqlite:{data_dir}/catalog.db").config("spark.sql.catalog.lake.warehouse", f"file:{data_dir}/warehouse")
        .config("spark.sql.catalog.lake.jdbc.schema-version", "V1").config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    spark.sql("CREATE NAMESPACE IF NOT EXISTS lake.chainalytics")
    report = {"read": [], "changed": [], "lineage": [], "different": []}

    def ours(sql):
        done = subprocess.run(
            [binary, "--data-dir", data_dir, "sql", "--master", "local[2]", "--output", "json", "--conf", "catalog.name=lake", "-e", sql],
            capture_output=True, text=True, timeout=120,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{sql}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]

    def compare(name, columns, what):
        theirs = [row.asDict() for row in spark.sql(f"SELECT {columns} FROM lake.chainalytics.{name}").collect()]
        names = list(theirs[0])
        try:
            mine = ours(f"SELECT {OURS.get(name, columns)} FROM {name}")
            same = rows_of(mine, names) == rows_of(theirs, names)
            report[what].append(f"{name}: {len(mine)} rows") if same else report["different"].append(
                f"{name} {what}: ours {len(mine)} {rows_of(mine, names)[:3]}, Spark {len(theirs)} {rows_of(theirs, names)[:3]}")
        except RuntimeError as error:
            report["different"].append(f"{name} {what}: {error}")

    for name, columns, statements in TABLES:
        for statement in statements:
            spark.sql(statement.format(t=f"lake.chainalytics.{name}"))
        compare(name, columns, "read")
        if name in CHANGES:
            try:
                ours(CHANGES[name])
                compare(name, columns, "changed")
            except RuntimeError as error:
                report["different"].append(f"{name}: {error}")
    lineage_with_spark.check(spark, ours, lambda mine, theirs, names: rows_of(mine, names) == rows_of(theirs, names), report)
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["different"] else 0)


if __name__ == "__main__":
    main()
