"""Days full of finished executions: copies of one that really ran, with realistic ids and times.

Their ids are UUIDs of version 7 in the order of their starts, because that order keeps a hop's index pages
together, at the ends of the indexes. SQL makes them, without checks of foreign keys.
"""

from __future__ import annotations

from contextlib import closing

import psycopg2
import psycopg2.extensions

from benchmarks.testbed import Testbed

AT_ONCE = 50_000

COPIES = """
CREATE TEMPORARY TABLE copies AS
SELECT (lpad(to_hex((extract(epoch FROM started) * 1000)::bigint), 12, '0') || '7'
        || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
    started - %(original_start)s AS later
FROM (
    SELECT n, now() - %(days)s * interval '1 day' * (1 - n::float / %(times)s) AS started
    FROM generate_series(%(first)s, %(last)s) AS n
) AS starts
"""
COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = %s ORDER BY ordinal_position
"""
KEYS = {"executions": "id", "node_executions": "execution_id"}


def fill(testbed: Testbed, execution_id: str, times: int, days: float) -> None:
    """Insert copies of an execution and its journal, spread evenly over the last `days` days."""
    url = testbed.settings.database_url.replace("+psycopg2", "")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            cursor.execute("SELECT created_at FROM executions WHERE id = %s", [execution_id])
            (original_start,) = cursor.fetchone() or (None,)
            statements = [_copy_statement(cursor, table, key) for table, key in KEYS.items()]
            for first in range(1, times + 1, AT_ONCE):
                last = min(first + AT_ONCE - 1, times)
                given = {
                    "original_start": original_start,
                    "days": days,
                    "times": times,
                    "first": first,
                    "last": last,
                }
                cursor.execute(COPIES, given)
                for statement in statements:
                    cursor.execute(statement, {"original": execution_id})
                cursor.execute("DROP TABLE copies")
            cursor.execute("VACUUM (ANALYZE) executions")  # as autovacuum would have by now
            cursor.execute("VACUUM (ANALYZE) node_executions")
            cursor.execute("CHECKPOINT")  # or the next steps would wait for the disk to write all this


def _copy_statement(cursor: psycopg2.extensions.cursor, table: str, key: str) -> str:
    cursor.execute(COLUMNS, [table])
    columns = dict(cursor.fetchall())
    values = [
        "copies.id"
        if name == key
        else f"original.{name} + copies.later"
        if kind == "timestamp with time zone"
        else f"original.{name}"
        for name, kind in columns.items()
    ]
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "
        f"FROM copies CROSS JOIN {table} AS original WHERE original.{key} = %(original)s ORDER BY copies.id"
    )
