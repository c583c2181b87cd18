"""Reads every table of the catalogs in the data directories given with PyIceberg and DuckDB and compares the rows with ours.

usage: compare_tables.py BINARY DATA_DIR...

Prints one JSON object: tables compared by each reader, and what a reader says it cannot read. Exits with 1 on the first rows that differ.
"""

import glob
import importlib
import json
import sys

import duckdb
from pyiceberg.catalog.sql import SqlCatalog

from compare_rows import comparable, ours, rows_of

# What these readers do not know; anything else that they raise is a fault of the table.
UNSUPPORTED = (
    "not support", "unsupported", "not implemented", "notimplemented", "not yet", "cannot read", "unknown type", "deletion vector",
    "equality delete", "format version 3", "format-version 3", "v3", "default", "puffin",
)


def of_version_1(table, error):
    """DuckDB wants sequence numbers in the manifest lists of an upgraded table, also in those from before; the spec has readers take 0."""
    snapshot = table.current_snapshot()
    return "'sequence_number' is NULL" in str(error) and table.metadata.format_version > 1 and not (snapshot and snapshot.sequence_number)


def main():
    binary, directories = sys.argv[1], sys.argv[2:]
    report = {"pyiceberg": 0, "duckdb": 0, "not_readable": {}}
    try:
        duck = duckdb.connect()
        for extension in ("avro", "iceberg"):
            package = importlib.import_module(f"duckdb_extension_{extension}")
            (path,) = glob.glob(f"{package.__path__[0]}/extensions/*/*.duckdb_extension")
            duck.execute(f"LOAD '{path}'")
    except Exception as error:  # the extension is a package of its own
        duck = None
        report["not_readable"]["duckdb"] = str(error).splitlines()[0]
    for data_dir in directories:
        catalog = SqlCatalog("default", uri=f"sqlite:///{data_dir}/catalog.db", warehouse=f"file://{data_dir}/warehouse")
        for namespace in catalog.list_namespaces():
            for identifier in catalog.list_tables(namespace):
                name = ".".join(identifier)
                where = f"{data_dir} {name}"
                try:
                    table = catalog.load_table(identifier)
                    fields = table.schema().fields
                    columns = [f.name for f in fields if comparable(str(f.field_type))]
                    theirs = table.scan().to_arrow().to_pylist()
                except Exception as error:
                    if not any(word in str(error).lower() for word in UNSUPPORTED) and not of_version_1(table, error):
                        raise SystemExit(f"{where}: PyIceberg: {type(error).__name__}: {error}")
                    report["not_readable"][where] = f"PyIceberg: {str(error)[:160]}"
                    continue
                quoted = ".".join(f'"{part}"' for part in identifier)
                listed = ", ".join(
                    f'CAST("{f.name}" AS STRING) AS "{f.name}"' if str(f.field_type).startswith("decimal") else f'"{f.name}"'
                    for f in fields if f.name in columns
                )
                mine = ours(binary, data_dir, f"SELECT {listed or '1 AS one'} FROM {quoted}")
                if len(mine) != len(theirs):
                    raise SystemExit(f"{where}: {len(mine)} rows, PyIceberg reads {len(theirs)}")
                expected = rows_of(mine, columns)
                if rows_of(theirs, columns) != expected:
                    raise SystemExit(f"{where}: PyIceberg reads other rows\nours   {expected[:5]}\ntheirs {rows_of(theirs, columns)[:5]}")
                report["pyiceberg"] += 1
                if duck is None or table.current_snapshot() is None:
                    continue
                try:
                    result = duck.execute("SELECT * FROM iceberg_scan(?)", [table.metadata_location.removeprefix("file://")])
                    names = [d[0] for d in result.description]
                    seen = [dict(zip(names, row)) for row in result.fetchall()]
                except Exception as error:
                    if not any(word in str(error).lower() for word in UNSUPPORTED) and not of_version_1(table, error):
                        raise SystemExit(f"{where}: DuckDB: {type(error).__name__}: {error}")
                    report["not_readable"][where] = f"DuckDB: {str(error)[:160]}"
                    continue
                if rows_of(seen, columns) != expected:
                    raise SystemExit(f"{where}: DuckDB reads other rows\nours   {expected[:5]}\ntheirs {rows_of(seen, columns)[:5]}")
                report["duckdb"] += 1
    print(json.dumps(report))


if __name__ == "__main__":
    main()
