"""Runs queries over Parquet folders; one JSON object a query on stdout. Input on stdin: threads, tables, queries."""
import datetime, decimal, json, sys, time
import duckdb


def plain(value):
    if isinstance(value, (decimal.Decimal, datetime.date)):
        return str(value)
    return value


asked = json.load(sys.stdin)
connection = duckdb.connect()
connection.execute(f"set threads={asked['threads']}")
for table in asked["tables"]:
    connection.execute(f"create view {table['name']} as select * from read_parquet('{table['dir']}/*.parquet')")
for query in asked["queries"]:
    try:
        start = time.perf_counter()
        rows = connection.execute(query).fetchall()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "rows": [[plain(v) for v in row] for row in rows]}), flush=True)
    except Exception as error:
        print(json.dumps({"error": f"{query[:60]}: {error}"}), flush=True)
        sys.exit(1)
