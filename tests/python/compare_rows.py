"""What the comparisons of tables share: our rows, and values as text that is the same from every reader."""

import datetime
import decimal
import json
import math
import subprocess


def ours(binary, data_dir, sql):
    done = subprocess.run(
        [binary, "--data-dir", data_dir, "sql", "--master", "local[2]", "--output", "json", "-e", sql],
        capture_output=True, text=True, timeout=120,
    )
    if done.returncode != 0:
        raise SystemExit(f"{data_dir}: {sql}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def plain(value):
    """A value as text that is the same from every reader."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "NULL" if math.isnan(value) else repr(value)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def comparable(kind):
    """Types whose JSON form is beyond doubt; the others count as rows only."""
    return kind in ("int", "long", "boolean", "string", "date", "double") or kind.startswith("decimal")


def rows_of(records, columns):
    return sorted("|".join(plain(record[column]) for column in columns) for record in records)
