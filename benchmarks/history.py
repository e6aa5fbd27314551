"""A past for the tables: what is measured beside many finished executions, as any real database has them.

They are copies of one execution that really ran, made in bulk by SQL; running 100,000 would take an hour and
leave the same rows.
"""

from __future__ import annotations

from sqlalchemy import text

from workflow_engine.database import autocommit, transaction
from workflow_engine.engine import Engine

AT_ONCE = 10_000
"""Copies made by one statement, which the engine's connections do not wait for without an end."""

COPY = """
INSERT INTO {schema}.{table}
SELECT copy.* FROM {schema}.{table} original, copies,
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


def copy_execution(engine: Engine, execution_id: str, times: int) -> None:
    """Put copies of an execution, its journal and its wait states beside it."""
    for begin in range(0, times, AT_ONCE):
        _copy(engine, execution_id, min(AT_ONCE, times - begin))
    vacuum(engine)


def keep_only(engine: Engine, number: int) -> None:
    """Remove the executions started last, until no more than these are left."""
    schema = engine.settings.database_schema
    with autocommit(engine.state.engine) as connection:
        connection.exec_driver_sql(
            f"DELETE FROM {schema}.executions WHERE id IN "
            f"(SELECT id FROM {schema}.executions ORDER BY created_at, id OFFSET {number:d})"
        )
    vacuum(engine)


def vacuum(engine: Engine) -> None:
    """As autovacuum would have by now."""
    with autocommit(engine.state.engine) as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _copy(engine: Engine, execution_id: str, times: int) -> None:
    schema = engine.settings.database_schema
    with transaction(engine.state.engine) as connection:
        connection.execute(
            text(
                "CREATE TEMPORARY TABLE copies ON COMMIT DROP AS "
                "SELECT gen_random_uuid() AS id FROM generate_series(1, :times)"
            ),
            {"times": times},
        )
        for table, key, changes in COPIED:
            statement = COPY.format(schema=schema, table=table, key=key, changes=changes)
            connection.execute(text(statement), {"original": execution_id})
