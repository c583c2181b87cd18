"""Runs statements on the Iceberg tables of a data directory, one after the other; one JSON object on stdout with the seconds of each and the rows of the
last. Input on stdin: data_dir, threads, class_path, statements."""
import datetime, decimal, json, os, sys, time

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
from pyspark.sql import SparkSession

asked = json.load(sys.stdin)
lake = "spark.sql.catalog.lake"
settings = {
    "spark.driver.extraClassPath": asked["class_path"], "spark.driver.memory": "6g", "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.sql.session.timeZone": "UTC", "spark.sql.shuffle.partitions": "12",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions", lake: "org.apache.iceberg.spark.SparkCatalog",
    f"{lake}.type": "jdbc", f"{lake}.uri": f"jdbc:sqlite:{asked['data_dir']}/catalog.db", f"{lake}.jdbc.schema-version": "V1",
    f"{lake}.warehouse": f"file:{asked['data_dir']}/warehouse", "spark.sql.defaultCatalog": "lake",
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
}
builder = SparkSession.builder.master(f"local[{asked['threads']}]")
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
spark.range(0, 2, 1, 2).selectExpr("id + 1").collect()  # first tasks done
spark.sql("USE lake.chainalytics")


def plain(value):
    return str(value) if isinstance(value, (decimal.Decimal, datetime.date)) else value


seconds, rows = [], []
for statement in asked["statements"]:
    start = time.perf_counter()
    rows = spark.sql(statement).collect()
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": seconds, "rows": [[plain(v) for v in row] for row in rows]}))
spark.stop()
