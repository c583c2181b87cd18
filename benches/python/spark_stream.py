"""Reads a Kafka topic once (availableNow) into a new Iceberg table; one JSON object on stdout. Input on stdin: brokers, topic, format, avro_schema,
fields, master, class_path, warehouse, catalog, checkpoint."""
import json, os, shutil, sys, time

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
from pyspark.sql import SparkSession, functions as F

asked = json.load(sys.stdin)
local = asked["master"].startswith("local")
lake = "spark.sql.catalog.lake"
settings = {
    "spark.driver.extraClassPath": asked["class_path"], "spark.executor.extraClassPath": asked["class_path"],
    "spark.driver.memory": "6g" if local else "2g", "spark.executor.memory": "2g", "spark.executor.cores": "1",
    "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions", "spark.sql.session.timeZone": "UTC",
    lake: "org.apache.iceberg.spark.SparkCatalog", f"{lake}.type": "jdbc", f"{lake}.uri": f"jdbc:sqlite:{asked['catalog']}", f"{lake}.jdbc.schema-version": "V1",
    f"{lake}.warehouse": f"file://{asked['warehouse']}", "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.sql.shuffle.partitions": "12", "spark.scheduler.minRegisteredResourcesRatio": "1.0",
}
builder = SparkSession.builder.master(asked["master"]).appName("kafka_to_bronze")
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("WARN")
spark.range(0, 3, 1, 3).selectExpr("id + 1").collect()  # first tasks done: executors are there
columns = ", ".join(f"{name} {kind}" for name, kind in asked["fields"])
is_json = asked["format"] == "json"
start = time.perf_counter()
spark.sql("CREATE NAMESPACE IF NOT EXISTS lake.bronze")
table = "lake.bronze.events"
spark.sql(
    f"CREATE OR REPLACE TABLE {table} ({columns}{', corrupt_record STRING' if is_json else ''}, arrival_ts TIMESTAMP, _topic STRING, _partition INT, "
    "_offset BIGINT, _ingested_at TIMESTAMP) USING iceberg PARTITIONED BY (days(_ingested_at)) "
    "TBLPROPERTIES ('write.distribution-mode'='none','write.spark.fanout.enabled'='true','write.parquet.compression-codec'='zstd')"
)
if is_json:
    value = F.from_json(F.col("value").cast("string"), columns + ", corrupt_record STRING", {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": "corrupt_record"})
else:
    from pyspark.sql.avro.functions import from_avro

    value = from_avro(F.expr("substring(value, 6)"), asked["avro_schema"], {"mode": "PERMISSIVE"})
shutil.rmtree(asked["checkpoint"], ignore_errors=True)
read = (
    spark.readStream.format("kafka").option("kafka.bootstrap.servers", asked["brokers"]).option("subscribe", asked["topic"]).option("startingOffsets", "earliest").load()
    .select(value.alias("j"), F.col("timestamp").alias("arrival_ts"), F.col("topic").alias("_topic"), F.col("partition").alias("_partition"), F.col("offset").alias("_offset"))
    .select("j.*", "arrival_ts", "_topic", "_partition", "_offset").withColumn("_ingested_at", F.current_timestamp())
)
query = (
    read.writeStream.format("iceberg").outputMode("append").trigger(availableNow=True).option("checkpointLocation", asked["checkpoint"])
    .option("fanout-enabled", "true").toTable(table)
)
query.awaitTermination()
seconds = time.perf_counter() - start
whole = "WHERE corrupt_record IS NULL" if is_json else ""
rows = spark.table(table).count()
sums = spark.sql(f"SELECT count(event_id), sum(user_id), sum(quantity), count(DISTINCT event_id) FROM {table} {whole}").collect()[0]
print(json.dumps({"seconds": seconds, "rows": rows, "sums": list(sums)}))
spark.stop()
