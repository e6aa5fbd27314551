"""A past for the tables: what is measured beside many finished executions, as any real database has them.

They are copies of one execution that really ran, made in bulk by SQL; running 100,000 would take an hour and
leave the same rows.
"""

from __future__ import annotations

from sqlalchemy import text

from benchmarks.fleet import Fleet
from workflow_engine.database import autocommit, transaction

AT_ONCE = 10_000
"""Copies made by one statement, which the engine's connections do not wait for without an end."""

COPY = """
INSERT INTO {table}
SELECT copy.* FROM {table} original, copies,
    LATERAL jsonb_populate_record(original, {changes}) copy
WHERE original.{key} = :original
"""
COPIED = (
    ("executions", "id", "jsonb_build_object('id', copies.id)"),
    ("node_executions", "execution_id", "jsonb_build_object('execution_id', copies.id)"),
    (
        "execution_wait_states",
        "execution_id",
        "jsonb_build_object('execution_id', copies.id, 'id', gen_random_uuid())",
    ),
)


def copy_execution(fleet: Fleet, execution_id: str, times: int) -> None:
    """Put copies of an execution, its journal and its wait states beside it."""
    for begin in range(0, times, AT_ONCE):
        _copy(fleet, execution_id, min(AT_ONCE, times - begin))
    with autocommit(fleet.engine.state.engine) as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum would have by now


def _copy(fleet: Fleet, execution_id: str, times: int) -> None:
    with transaction(fleet.engine.state.engine) as connection:
        connection.execute(
            text(
                "CREATE TEMPORARY TABLE copies ON COMMIT DROP AS "
                "SELECT gen_random_uuid() AS id FROM generate_series(1, :times)"
            ),
            {"times": times},
        )
        for table, key, changes in COPIED:
            statement = COPY.format(table=table, key=key, changes=changes)
            connection.execute(text(statement), {"original": execution_id})
