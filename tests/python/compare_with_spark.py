"""Reads every table of the catalogs in the data directories given with Spark and Iceberg's own runtime, and compares the rows with ours.

usage: compare_with_spark.py BINARY JARS_DIR DATA_DIR...

Prints one JSON object; exits with 1 if any rows differ.
"""

import glob
import json
import os
import sqlite3
import sys

from pyspark.sql import SparkSession

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare_rows import comparable, ours, rows_of  # noqa: E402

SPARK_TYPES = {"bigint": "long", "int": "int", "string": "string", "boolean": "boolean", "date": "date", "double": "double"}


def main():
    binary, jars, directories = sys.argv[1], sys.argv[2], sys.argv[3:]
    builder = (
        SparkSession.builder.master("local[2]").config("spark.jars", ",".join(glob.glob(f"{jars}/*.jar")))
        .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2")
    )
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    report = {"equal": 0, "different": [], "not_readable": {}}
    for data_dir in directories:
        with sqlite3.connect(f"{data_dir}/catalog.db") as catalog:
            tables = catalog.execute(
                "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE iceberg_type IS NULL OR iceberg_type = 'TABLE'"
            ).fetchall()
        for namespace, table, location in tables:
            where = f"{os.path.basename(data_dir)} {namespace}.{table}"
            try:
                # By its metadata: a Spark catalog would have to be made for each directory.
                frame = spark.read.format("iceberg").load(location.removeprefix("file://"))
                kinds = {f.name: f.dataType.simpleString() for f in frame.schema.fields}
                columns = [n for n, k in kinds.items() if comparable(SPARK_TYPES.get(k, k))]
                theirs = [row.asDict() for row in frame.collect()]
            except Exception as error:
                report["not_readable"][where] = str(error).splitlines()[0][:200]
                continue
            quoted = ".".join(f'"{part}"' for part in namespace.split(".") + [table])
            listed = ", ".join(f'CAST("{n}" AS STRING) AS "{n}"' if kinds[n].startswith("decimal") else f'"{n}"' for n in columns)
            mine = ours(binary, data_dir, f"SELECT {listed or '1 AS one'} FROM {quoted}")
            if len(mine) != len(theirs) or rows_of(mine, columns) != rows_of(theirs, columns):
                report["different"].append(f"{where}: ours {rows_of(mine, columns)[:4]} ({len(mine)}), Spark {rows_of(theirs, columns)[:4]} ({len(theirs)})")
            else:
                report["equal"] += 1
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["different"] else 0)


if __name__ == "__main__":
    main()
