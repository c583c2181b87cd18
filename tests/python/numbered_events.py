"""Counts the numbered events with PyIceberg: rows and distinct Kafka positions by partition, table and dead letters together, as one JSON object.

usage: numbered_events.py CATALOG_URI [KEY=VALUE...]

The pairs are properties of the catalog, such as warehouse.
"""
import json
import sys

import pyarrow as pa
from pyiceberg.catalog import load_catalog

catalog = load_catalog("default", uri=sys.argv[1], **dict(pair.split("=", 1) for pair in sys.argv[2:]))
columns = ("kafka_partition", "kafka_offset")
parts = [catalog.load_table(("chainalytics", name)).scan(selected_fields=columns).to_arrow() for name in ("bronze_numbered", "bronze_dead_letters")]
rows = pa.concat_tables([part.select(columns) for part in parts], promote_options="permissive").group_by("kafka_partition").aggregate(
    [("kafka_offset", "count"), ("kafka_offset", "count_distinct")]
)
print(json.dumps({str(r["kafka_partition"]): {"rows": r["kafka_offset_count"], "positions": r["kafka_offset_count_distinct"]} for r in rows.to_pylist()}))
