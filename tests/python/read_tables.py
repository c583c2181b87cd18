"""Opens the catalog with PyIceberg, as another engine would, and prints counts and sums of the platform's tables as one JSON object.

usage: read_tables.py CATALOG_NAME CATALOG_URI WAREHOUSE NAMESPACE [KEY=VALUE...]

The pairs are properties of the catalog, such as s3.endpoint.
"""
import json
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog import load_catalog

name, uri, warehouse, namespace = sys.argv[1:5]
properties = dict(pair.split("=", 1) for pair in sys.argv[5:])
if warehouse:
    properties["warehouse"] = warehouse
catalog = load_catalog(name, uri=uri, **properties)
out = {"counts": {}, "revenue": None, "field_ids": None}
for identifier in catalog.list_tables(namespace):
    table = catalog.load_table(identifier)
    out["counts"][identifier[-1]] = table.scan().to_arrow().num_rows
table = catalog.load_table((namespace, "silver_user_events"))
events = table.scan().to_arrow()
purchases = events.filter(pc.equal(events["event_type"], "purchase"))
out["revenue"] = pc.sum(purchases["value"]).as_py()
# A data file's columns carry Iceberg's field ids.
task = next(iter(table.scan().plan_files()))
with table.io.new_input(task.file.file_path).open() as file:
    schema = pq.read_schema(file)
out["field_ids"] = [int(field.metadata[b"PARQUET:field_id"]) for field in schema]
print(json.dumps(out))
