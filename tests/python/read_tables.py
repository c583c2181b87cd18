"""Opens the catalog with PyIceberg, as another engine would, and prints counts and sums of the platform's tables as one JSON object.

usage: read_tables.py CATALOG_NAME CATALOG_URI WAREHOUSE NAMESPACE
"""
import json
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog

name, uri, warehouse, namespace = sys.argv[1:]
catalog = SqlCatalog(name, uri=uri, warehouse=warehouse)
out = {"counts": {}, "revenue": None, "field_ids": None}
for identifier in catalog.list_tables(namespace):
    table = catalog.load_table(identifier)
    out["counts"][identifier[-1]] = table.scan().to_arrow().num_rows
events = catalog.load_table((namespace, "silver_user_events")).scan().to_arrow()
purchases = events.filter(pc.equal(events["event_type"], "purchase"))
out["revenue"] = pc.sum(purchases["value"]).as_py()
# A data file's columns carry Iceberg's field ids.
task = next(iter(catalog.load_table((namespace, "silver_user_events")).scan().plan_files()))
schema = pq.read_schema(task.file.file_path.removeprefix("file://"))
out["field_ids"] = [int(field.metadata[b"PARQUET:field_id"]) for field in schema]
print(json.dumps(out))
