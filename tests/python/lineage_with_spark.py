"""Row lineage of format v3: Spark and we change the same tables by turns; after each statement both must read the same `_row_id` and
`_last_updated_sequence_number` of each row."""

LINEAGE = "_row_id, _last_updated_sequence_number, id, s"
COW = "'format-version'='3'"
MOR = COW + ", 'write.delete.mode'='merge-on-read', 'write.update.mode'='merge-on-read', 'write.merge.mode'='merge-on-read'"
COMPACT = "CALL {catalog}system.rewrite_data_files(table => '{plain}', options => map('rewrite-all', 'true'))"
SORT = "CALL {catalog}system.rewrite_data_files(table => '{plain}', strategy => 'sort', sort_order => 'id DESC NULLS LAST', options => map('rewrite-all', 'true'))"
ZORDER = "CALL {catalog}system.rewrite_data_files(table => '{plain}', strategy => 'sort', sort_order => 'zorder(id, s)', options => map('rewrite-all', 'true'))"
MANIFESTS = "CALL {catalog}system.rewrite_manifests('{plain}')"
MERGE = ("MERGE INTO {t} USING (SELECT id, CONCAT('m', id) AS s FROM {src} WHERE id % 5 = 0) AS src ON {name}.id = src.id "
         "WHEN MATCHED AND src.id % 10 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET s = src.s WHEN NOT MATCHED THEN INSERT (id, s) VALUES (src.id, src.s)")
SOURCE = "CREATE TABLE {t} (id BIGINT, s STRING) USING iceberg"


def steps(properties, partitioned=""):
    """(engine, statement) in order: each kind of change by us between those of Spark."""
    return [
        ("spark", f"CREATE TABLE {{t}} (id BIGINT, s STRING) USING iceberg {partitioned} TBLPROPERTIES ({properties})"),
        ("spark", "INSERT INTO {t} SELECT id, concat('s', id) FROM range(40)"),
        ("spark", "UPDATE {t} SET s = 'spark' WHERE id % 8 = 1"),
        ("ours", "UPDATE {t} SET s = 'ours' WHERE id % 8 = 2"),
        ("ours", "INSERT INTO {t} VALUES (100, 'new'), (101, 'new')"),
        ("ours", "DELETE FROM {t} WHERE id % 8 = 3"),
        ("spark", "DELETE FROM {t} WHERE id % 8 = 4"),
        ("ours", MERGE),
        ("spark", "UPDATE {t} SET s = 'again' WHERE id IN (5, 15, 45, 100)"),
        ("ours", COMPACT),
        ("spark", "INSERT INTO {t} SELECT id + 200, 'late' FROM range(5)"),
        ("ours", "UPDATE {t} SET s = 'late too' WHERE id >= 203"),
        ("ours", MANIFESTS),
        ("ours", SORT),
        ("spark", MERGE),
        ("ours", ZORDER),
        ("spark", COMPACT),
        ("ours", "UPDATE {t} SET s = 'last' WHERE id < 20"),
    ]


# Ours from the start.
OURS = [("ours", s) if e == "ours" or n < 3 else (e, s) for n, (e, s) in enumerate(steps(COW))]
OURS[1] = ("ours", "INSERT INTO {t} SELECT value, 's' || value FROM generate_series(0, 39) AS g(value)")
# Written before the table had lineage.
UPGRADED = [
    ("spark", "CREATE TABLE {t} (id BIGINT, s STRING) USING iceberg TBLPROPERTIES ('format-version'='2')"),
    ("spark", "INSERT INTO {t} SELECT id, concat('s', id) FROM range(20)"),
    ("ours", "ALTER TABLE {t} SET TBLPROPERTIES ('format-version' = '3')"),
    ("ours", "INSERT INTO {t} VALUES (100, 'new')"),
    ("ours", "UPDATE {t} SET s = 'ours' WHERE id % 4 = 1"),
    ("spark", "UPDATE {t} SET s = 'spark' WHERE id % 4 = 2"),
    ("ours", COMPACT),
]
TABLES = [
    ("lineage_cow", steps(COW)),
    ("lineage_mor", steps(MOR)),
    ("lineage_partitioned", steps(MOR, "PARTITIONED BY (bucket(3, id))")),
    ("lineage_ours", OURS),
    ("lineage_upgraded", UPGRADED),
]


def check(spark, ours, same_rows, report):
    """Runs all steps. `ours(sql)` gives rows as dicts, `same_rows(mine, theirs, columns)` compares."""
    source = "lineage_source"
    spark.sql(SOURCE.format(t=f"lake.chainalytics.{source}"))
    spark.sql(f"INSERT INTO lake.chainalytics.{source} SELECT id, 'x' FROM range(60)")
    for name, statements in TABLES:
        done = 0
        for engine, statement in statements:
            try:
                if engine == "spark":
                    spark.sql(statement.format(t=f"lake.chainalytics.{name}", name=name, plain=f"chainalytics.{name}", catalog="lake.",
                                               src=f"lake.chainalytics.{source}"))
                else:
                    ours(statement.format(t=name, name=name, plain=name, catalog="", src=source))
                theirs, theirs_failed = rows(lambda: [row.asDict() for row in spark.sql(f"SELECT {LINEAGE} FROM lake.chainalytics.{name}").collect()])
                mine, mine_failed = rows(lambda: ours(f"SELECT {LINEAGE} FROM {name}"))
            except Exception as error:
                report["different"].append(f"{name} after {engine}: {statement[:60]}: {str(error)[:400]}")
                break
            if bool(theirs_failed) != bool(mine_failed) or not same_rows(mine, theirs, LINEAGE.split(", ")):
                report["different"].append(f"{name} after {engine}: {statement[:60]}: ours {mine_failed or sorted(map(str, mine))[:60]}, "
                                           f"Spark {theirs_failed or sorted(map(str, theirs))[:60]}")
                break
            done += 1
        report["lineage"].append(f"{name}: {done} of {len(statements)} statements")


def rows(read):
    """Rows, or why there are none (before v3 there is no lineage to select)."""
    try:
        return read(), None
    except Exception as error:
        if "_row_id" not in str(error):
            raise
        return [], str(error)[:200]
