"""Indexes that are added to large tables while workers write to them.

In a migration, which is one transaction, a new index would keep every commit waiting until it is complete. So
these are built after the migrations, one at a time and each without a lock on writers. What works without
them is only slower until then, and an upgrade that was interrupted is finished by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, Index, text
from sqlalchemy.schema import CreateIndex

from workflow_engine.postgres.tables import tables
from workflow_engine.postgres.tables.columns import BUILT_ONLINE

BUILD_LOCK = 0x776F726B666C6F78
"""Key of the advisory lock that lets one process build at a time; the one before is that of migrations."""

POLL = 0.2
"""Seconds between two attempts to take the lock."""

VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)"


def build_missing(engine: Engine, schema: str) -> None:
    """Build what is missing, or was left incomplete. Concurrent callers wait for each other."""
    wanted = [
        index
        for table in tables(schema).sorted_tables
        for index in sorted(table.indexes, key=lambda each: str(each.name))
        if index.info.items() >= BUILT_ONLINE.items()
    ]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if all(_is_valid(connection, index) for index in wanted):
            return
        with _alone(engine):
            for index in wanted:
                _build(connection, index)


def _build(connection: Connection, index: Index) -> None:
    if (is_valid := _is_valid(connection, index)) is True:
        return
    if is_valid is False:  # its build was interrupted
        connection.execute(text(f"DROP INDEX CONCURRENTLY {_name(index)}"))
    statement = str(CreateIndex(index).compile(connection))
    connection.exec_driver_sql(statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1))


def _is_valid(connection: Connection, index: Index) -> bool | None:
    """Return whether an index is complete; None if there is none."""
    found: bool | None = connection.scalar(text(VALID), {"index": _name(index)})
    return found


def _name(index: Index) -> str:
    return f'"{index.table.schema}".{index.name}'  # type: ignore[union-attr]


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Hold the lock in a transaction of its own, as poolers in transaction mode need it.

    The lock is polled: a statement that waited for it would be one that the build waits for.
    """
    while True:
        with engine.begin() as connection:
            if connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": BUILD_LOCK}):
                yield
                return
        time.sleep(POLL)
