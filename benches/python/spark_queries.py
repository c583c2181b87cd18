"""Runs queries over Parquet folders; one JSON object a query on stdout. Input on stdin: threads, tables, queries.

BENCH_SPARK_MASTER is the master (default local[threads]); BENCH_SPARK_CONF holds further settings, key=value separated by commas.
"""
import datetime, decimal, json, os, sys, time

# Before Spark looks for an address of the machine: nothing here leaves it.
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
from pyspark.sql import SparkSession


def plain(value):
    if isinstance(value, (decimal.Decimal, datetime.date)):
        return str(value)
    return value


asked = json.load(sys.stdin)
builder = SparkSession.builder.master(os.environ.get("BENCH_SPARK_MASTER", f"local[{asked['threads']}]"))
settings = {"spark.sql.shuffle.partitions": "12", "spark.driver.memory": "6g", "spark.ui.enabled": "false", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
settings.update(pair.split("=", 1) for pair in os.environ.get("BENCH_SPARK_CONF", "").split(",") if pair)
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
for table in asked["tables"]:
    spark.read.parquet(table["dir"]).createOrReplaceTempView(table["name"])
for query in asked["queries"]:
    try:
        start = time.perf_counter()
        rows = spark.sql(query).collect()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "rows": [[plain(v) for v in row] for row in rows]}), flush=True)
    except Exception as error:
        print(json.dumps({"error": f"{query[:60]}: {error}"[:500]}), flush=True)
        sys.exit(1)
spark.stop()
