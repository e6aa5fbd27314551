"""What the tables share: conditions of columns, and what is done when a table is made."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    Connection,
    Table,
    text,
)
from sqlalchemy.sql.elements import TextClause

from workflow_engine.postgres.functions import definition

NOW = text("now()")

BUILT_ONLINE = {"is_built_online": True}
"""Marks an index that is added to large tables while workers write to them."""


def one_of(column: str, values: object) -> TextClause:
    """Return a condition that a text column holds one of an enumeration's values."""
    names = ", ".join(f"'{value}'" for value in sorted(values))  # type: ignore[call-overload]
    return text(f"{column} IN ({names})")


EXECUTION_RULES = "status, seq, nodes_executed, started_at, completed_at, error"
JOURNAL_RULES = "status, seq, visit, attempt, superseded_by, superseded_for, completed_at, error"
"""The columns that the rules of these tables are about."""


def rules(schema: str, function: str, columns: str) -> TextClause:
    return text(f'"{schema}".{function}({columns})')


def create(function: str) -> Callable[..., None]:
    def create(table: Table, connection: Connection, **_: object) -> None:
        connection.exec_driver_sql(definition(f"checks/{function}", str(table.schema)))

    return create


def keep_room_for_updates(table: Table, connection: Connection, **_: object) -> None:
    connection.execute(text(f'ALTER TABLE "{table.schema}".{table.name} SET (fillfactor = 70)'))
