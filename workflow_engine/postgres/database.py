"""Database: executes the statements of this package's services, and PooledDatabase on connections of its own.

A statement is a transaction of its own. Where several belong together, `transaction` sends BEGIN and COMMIT
itself: drivers change the mode of a connection with statements for the session, which a pooler in transaction
mode passes on to other clients.

Statements go to the driver's own cursor. SQLAlchemy is here only for callers who have loaded it themselves
(`caller_transaction`), and for the migrations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - a class, in spite of its name

from workflow_engine.postgres.connections.pool import ConnectionPool
from workflow_engine.postgres.connections.sender import AwaitedRows, Sender
from workflow_engine.postgres.driver_errors import engine_errors
from workflow_engine.settings import Settings

Row = tuple[Any, ...]

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

UNCOMPILED = {"jit": "off"}
IN_ORDER = {**UNCOMPILED, "enable_bitmapscan": "off"}
BY_BITMAPS = {
    **UNCOMPILED,
    "enable_seqscan": "off",
    "enable_indexscan": "off",
    "work_mem": "32MB",  # or of many pages a bitmap would forget which of their rows it is about
    "cpu_tuple_cost": "1000000",  # so that each index that leaves fewer rows takes part
    "max_parallel_workers_per_gather": "0",  # or by that cost it starts processes for a few rows
}
"""Settings of the planner for single statements."""

# Of the transaction, which may be that of a caller, and longer than the statement.
SET = """
SELECT name, current_setting(name), set_config(name, value, true)
FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
"""
RESTORE = """
SELECT set_config(name, value, true) FROM unnest(%(names)s::text[], %(values)s::text[]) AS was (name, value)
"""


class Statements(ABC):
    """Executes statements, in which `{s}` stands for the schema of the engine's tables."""

    def __init__(self, schema: str) -> None:
        self.schema = schema

    def rows(self, statement: str, /, **parameters: Any) -> list[Row]:
        """Return all rows of a statement's result; none if it has no result.

        Raises as `engine_errors` does.
        """
        return self._execute(statement.replace("{s}", self.schema), parameters)

    def first(self, statement: str, /, **parameters: Any) -> Row | None:
        """Return the first row of a statement's result, None if it has none. Raises as `rows` does."""
        rows = self.rows(statement, **parameters)
        return rows[0] if rows else None

    @abstractmethod
    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]: ...


class Database(Statements):
    """The engine's database. A statement commits by itself, unless it is part of a transaction."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Statements]:
        """Execute statements that commit together, or not at all if something is raised."""

    def rows_uncompiled(self, statement: str, /, **parameters: Any) -> list[Row]:
        """Return all rows of a statement that is quick although the planner expects much of it.

        To compile it, as Postgres does by such an estimate, would take far longer than to run it. Raises as
        `rows` does.
        """
        return self._rows_under(UNCOMPILED, statement, parameters)

    def rows_in_order(self, statement: str, /, **parameters: Any) -> list[Row]:
        """Return all rows of a statement that takes the first rows of indexes, in their order.

        So the planner cannot expect so few rows that it reads all of them, to sort them. Raises as `rows`
        does.
        """
        return self._rows_under(IN_ORDER, statement, parameters)

    def rows_by_bitmaps(self, statement: str, /, **parameters: Any) -> list[Row]:
        """Return all rows of a statement that takes rows of tables only from bitmaps of indexes.

        So the planner cannot expect to meet enough matches early on, and then read a table from end to end.
        It intersects all bitmaps that it can, before it reads a row. Raises as `rows` does.
        """
        return self._rows_under(BY_BITMAPS, statement, parameters)

    def _rows_under(
        self, settings: Mapping[str, str], statement: str, parameters: Mapping[str, Any]
    ) -> list[Row]:
        with self.transaction() as transaction:
            were = transaction.rows(SET, names=list(settings), values=list(settings.values()))
            names, values, _ = zip(*were, strict=True)
            found = transaction.rows(statement, **parameters)
            transaction.rows(RESTORE, names=list(names), values=list(values))
            return found

    def send(self, statement: str, /, **parameters: Any) -> AwaitedRows | None:
        """Send a statement without waiting for its result, whose reader is returned.

        Return None, and send nothing, while another such result is awaited, or where statements are always
        waited for. Raises as `rows` does.
        """
        return None

    def rest(self) -> None:
        """Close the connection that `send` keeps, until it is used again."""
        return

    @abstractmethod
    def dispose(self) -> None:
        """Close all connections that no thread is using."""


class _LentCursor:
    # Not a generator, which costs more: every hop runs this several times.
    __slots__ = ("_connection", "_cursor", "_pool")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def __enter__(self) -> Cursor:
        self._connection = self._pool.lend()
        try:
            cursor: Cursor = self._connection.cursor()
        except BaseException as error:
            self._pool.take_back(self._connection, error)
            raise
        self._cursor = cursor
        return cursor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._cursor.close()
        finally:
            self._pool.take_back(self._connection, error)


class PooledDatabase(Database):
    """The database on connections of the engine's own.

    Nothing is connected before it is used, and a forked process connects again.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.quoted_schema)
        self.url = settings.database_url
        self.pool = ConnectionPool(settings)
        self._sender = Sender(settings)

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        with engine_errors(), _LentCursor(self.pool) as cursor:
            cursor.execute(BEGIN)
            try:
                yield _Transaction(cursor, self.schema)
                cursor.execute("COMMIT")
            except BaseException:
                _roll_back(cursor)
                raise

    def send(self, statement: str, /, **parameters: Any) -> AwaitedRows | None:
        return self._sender.send(statement.replace("{s}", self.schema), parameters)

    def rest(self) -> None:
        self._sender.rest()

    def dispose(self) -> None:
        self.pool.dispose()
        self._sender.rest()

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        with engine_errors(), _LentCursor(self.pool) as cursor:
            return _fetch(cursor, statement, parameters)


class _Transaction(Statements):
    def __init__(self, cursor: Cursor, schema: str) -> None:
        super().__init__(schema)
        self._cursor = cursor

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        return _fetch(self._cursor, statement, parameters)


def _roll_back(cursor: Cursor) -> None:
    """Make a connection fit for the pool; if that fails, close it, and the pool replaces it."""
    try:
        cursor.execute("ROLLBACK")
    except psycopg2.Error:
        cursor.connection.close()


def _fetch(cursor: Cursor, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
    cursor.execute(statement, parameters or None)
    return [] if cursor.description is None else cursor.fetchall()
