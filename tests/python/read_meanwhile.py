"""Reads one table again and again with PyIceberg or Spark while others write it, as another engine's user would.

usage: read_meanwhile.py pyiceberg CATALOG_URI TABLE [KEY=VALUE...]
       read_meanwhile.py spark JARS_DIR JDBC_URI WAREHOUSE TABLE

The pairs are properties of the catalog. For each line on stdin it reads the table once, as it is then, and prints one JSON object: by partition of `part`
the rows, the distinct and the least, greatest and summed `seq`, the distinct positions in Kafka, and rows whose `text` is not their own. Ends with stdin.
Any error ends it at once.
"""

import glob
import json
import sys


def told(rows):
    keys = ("rows", "distinct", "least", "greatest", "sum", "positions", "strange")
    print(json.dumps({str(row[0]): dict(zip(keys, row[1:])) for row in rows}), flush=True)


def pyiceberg(uri, name, *pairs):
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("default", uri=uri, **dict(pair.split("=", 1) for pair in pairs))
    for _ in sys.stdin:
        rows = catalog.load_table(name).scan(selected_fields=("part", "seq", "text", "kafka_partition", "kafka_offset")).to_arrow()
        number, part, text = (pc.cast(rows[column], pa.string()) for column in ("seq", "part", "text"))
        starts = pc.binary_join_element_wise("event", number, "of", "partition", pc.binary_join_element_wise(part, ",", ""), " ")
        own = pc.equal(pc.binary_join_element_wise(starts, pc.utf8_slice_codeunits(text, -16), " "), text)
        seen = rows.append_column("strange", pc.cast(pc.invert(own), pa.int64())).group_by("part").aggregate([
            ("seq", "count"), ("seq", "count_distinct"), ("seq", "min"), ("seq", "max"), ("seq", "sum"), ("kafka_offset", "count_distinct"),
            ("strange", "sum"),
        ])
        order = ("part", "seq_count", "seq_count_distinct", "seq_min", "seq_max", "seq_sum", "kafka_offset_count_distinct", "strange_sum")
        told([[row[name] for name in order] for row in seen.to_pylist()])


def spark(jars, uri, warehouse, name):
    from pyspark.sql import SparkSession

    lake = "spark.sql.catalog.lake"
    session = (
        SparkSession.builder.master("local[2]").config("spark.jars", ",".join(glob.glob(f"{jars}/*.jar")))
        .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false").config("spark.sql.shuffle.partitions", "2").config("spark.driver.memory", "1g")
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
        .config(lake, "org.apache.iceberg.spark.SparkCatalog").config(f"{lake}.cache-enabled", "false")
        .config(f"{lake}.catalog-impl", "org.apache.iceberg.jdbc.JdbcCatalog").config(f"{lake}.uri", uri)
        .config(f"{lake}.jdbc.schema-version", "V1").config(f"{lake}.warehouse", warehouse).getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    query = (
        "SELECT part, count(*), count(DISTINCT seq), min(seq), max(seq), sum(seq), count(DISTINCT kafka_offset), "
        "count_if(NOT startswith(text, concat('event ', seq, ' of partition ', part, ', '))) "
        f"FROM lake.{name} GROUP BY part"
    )
    for _ in sys.stdin:
        told([list(row) for row in session.sql(query).collect()])


{"pyiceberg": pyiceberg, "spark": spark}[sys.argv[1]](*sys.argv[2:])
