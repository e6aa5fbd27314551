"""DjangoDatabase: the engine's statements on Django's own connection, with psycopg 2 or 3.

So they are part of `transaction.atomic()`, of a test's transaction as well, and they obey what the project
has set for its connections: poolers, options, `CONN_MAX_AGE`. Outside of one, each commits by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connections, transaction, utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from workflow_engine.django.connections import close_if_ended
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.json_values import decode_jsonb
from workflow_engine.outages import outages
from workflow_engine.postgres.database import Database, Row, Statements
from workflow_engine.postgres.driver_errors import translate

JSON, JSONB, TIMESTAMPTZ = 114, 3802, 1184
"""What Postgres calls the types that Django has its drivers read in another way than the engine's."""


class DjangoDatabase(Database):
    """The database of an alias. Threads may share it, as each has a connection of Django's of its own."""

    def __init__(self, alias: str, schema: str) -> None:
        super().__init__(schema)
        self._alias = alias

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        with transaction.atomic(using=self._alias):
            yield self

    def dispose(self) -> None:
        connections[self._alias].close()

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        connection: BaseDatabaseWrapper = connections[self._alias]
        close_if_ended(connection)
        with _errors(connection), connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return [] if cursor.description is None else _rows(cursor, connection)


@contextmanager
def _errors(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Turn Django's errors into the engine's, unless they abort a transaction of the caller.

    A connection that is lost outside of a transaction is closed, so that the next statement opens another.
    """
    try:
        yield
    except utils.Error as error:
        if connection.in_atomic_block:
            raise
        connection.close_if_unusable_or_obsolete()
        translated = translate(error, utils, _sqlstate(error))
        if translated is None:
            raise
        raise translated from error
    outages.record_reply(DatabaseUnavailable)


def _sqlstate(error: Exception) -> str | None:
    """Return Postgres's code for an error, as psycopg 3 or psycopg2 have it."""
    of_driver = error.__cause__
    return getattr(of_driver, "sqlstate", None) or getattr(of_driver, "pgcode", None)


def _rows(cursor: CursorWrapper, connection: BaseDatabaseWrapper) -> list[Row]:
    """Return rows as the engine's own connections do: JSON decoded, times with their zone."""
    kinds = [column[1] for column in cursor.description]
    rows: list[Row] = cursor.fetchall()
    converted = [(place, kind) for place, kind in enumerate(kinds) if kind in (JSON, JSONB, TIMESTAMPTZ)]
    if not converted:
        return rows
    zone = ZoneInfo(connection.timezone_name)
    return [_converted(row, converted, zone) for row in rows]


def _converted(row: Row, columns: list[tuple[int, int]], zone: ZoneInfo) -> Row:
    values = list(row)
    for place, kind in columns:
        values[place] = _value(values[place], kind, zone)
    return tuple(values)


def _value(value: Any, kind: int, zone: ZoneInfo) -> Any:
    if kind == TIMESTAMPTZ:
        if not isinstance(value, datetime):
            return value
        # Without USE_TZ Django has times without zone, in that of its connection.
        return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).astimezone(UTC)
    return decode_jsonb(value) if isinstance(value, str) else value
