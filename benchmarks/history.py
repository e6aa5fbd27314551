"""A past for the tables: many finished executions, as any real database has them.

They are copies of one execution that really ran, made in bulk by SQL; running 100,000 would take an hour and
leave the same rows.
"""

from __future__ import annotations

from workflow_engine.engine.assembly import Engine

AT_ONCE = 10_000
"""Copies per statement; the engine's connections have a deadline for each."""

COPY = """
INSERT INTO {s}.{table}
SELECT copy.* FROM {s}.{table} original, copies,
    LATERAL jsonb_populate_record(original, {changes}) copy
WHERE original.{key} = %(original)s
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
    """Insert copies of an execution, its journal and its wait states."""
    for begin in range(0, times, AT_ONCE):
        _copy(engine, execution_id, min(AT_ONCE, times - begin))
    vacuum(engine)


def keep_only(engine: Engine, number: int) -> None:
    """Remove the executions started last, until no more than these are left."""
    engine.database.rows(
        "DELETE FROM {s}.executions WHERE id IN "
        "(SELECT id FROM {s}.executions ORDER BY created_at, id OFFSET %(number)s)",
        number=number,
    )
    vacuum(engine)


def vacuum(engine: Engine) -> None:
    """Vacuum the tables, as autovacuum would have by now."""
    engine.database.rows("VACUUM ANALYZE")


def _copy(engine: Engine, execution_id: str, times: int) -> None:
    with engine.database.transaction() as transaction:
        transaction.rows(
            "CREATE TEMPORARY TABLE copies ON COMMIT DROP AS "
            "SELECT gen_random_uuid() AS id FROM generate_series(1, %(times)s)",
            times=times,
        )
        for table, key, changes in COPIED:
            statement = COPY.replace("{table}", table).replace("{key}", key).replace("{changes}", changes)
            transaction.rows(statement, original=execution_id)
