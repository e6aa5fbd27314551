"""Database: executes the statements of this package's services, and PooledDatabase on connections of its own.

A statement is a transaction of its own. Where several belong together, `transaction` sends BEGIN and COMMIT
itself: drivers change the mode of a connection with statements for the session, which a pooler in transaction
mode passes on to other clients.

Statements go to the driver's own cursor, on a connection that stays checked out between two of them:
SQLAlchemy's execution and its pool take longer than the rest of the call.
"""

from __future__ import annotations

import os
import re
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - a class, in spite of its name
from sqlalchemy import Connection, PoolProxiedConnection, text

from workflow_engine.postgres.connection import breaks_connection, connect_engine, has_ended
from workflow_engine.postgres.driver_errors import engine_errors
from workflow_engine.settings import Settings

Row = tuple[Any, ...]

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

PLACEHOLDER = re.compile(r"%\((\w+)\)s")
"""A parameter as psycopg2 writes it; SQLAlchemy writes it for every driver."""

_databases: weakref.WeakSet[PooledDatabase] = weakref.WeakSet()
_parents_idle: list[Any] = []
"""The parent's idle connections. Returning one would need a lock of its pool, which the parent may hold."""


def _leave_connections_to_parents() -> None:
    for database in _databases:
        database.leave_connections_to_parent()


# A connection used by parent and child gives each the other's results.
os.register_at_fork(after_in_child=_leave_connections_to_parents)


class Statements(ABC):
    """Executes statements, in which `{s}` stands for the schema of the engine's tables."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def rows(self, statement: str, /, **parameters: Any) -> list[Row]:
        """Return all rows of a statement's result; none if it has no result.

        Raises as `engine_errors` does.
        """
        return self._execute(statement.replace("{s}", self._schema), parameters)

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

    @abstractmethod
    def dispose(self) -> None:
        """Close all connections that no thread is using."""

    def on(self, connection: Connection) -> Statements:
        """Execute statements on a connection of the caller's, as part of the transaction that it is in.

        It may have any driver, whose errors are raised as they are.
        """
        return _OnConnection(connection, self._schema)


class _LentCursor:
    # Not a generator, which costs more: every hop runs this several times.
    __slots__ = ("_connection", "_cursor", "_database")

    def __init__(self, database: PooledDatabase) -> None:
        self._database = database

    def __enter__(self) -> Cursor:
        self._connection = self._database.lend()
        try:
            cursor: Cursor = self._connection.driver_connection.cursor()  # type: ignore[union-attr]
        except BaseException as error:
            self._database.take_back(self._connection, error)
            raise
        self._cursor = cursor
        return cursor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._cursor.close()
        finally:
            self._database.take_back(self._connection, error)


class PooledDatabase(Database):
    """The database on connections of the engine's own.

    Nothing is connected before it is used, and a forked process connects again.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.quoted_schema)
        self.engine = connect_engine(settings)
        self._idle: deque[PoolProxiedConnection] = deque()
        _databases.add(self)

    @contextmanager
    def transaction(self) -> Iterator[Statements]:
        with engine_errors(), _LentCursor(self) as cursor:
            cursor.execute(BEGIN)
            try:
                yield _Transaction(cursor, self._schema)
                cursor.execute("COMMIT")
            except BaseException:
                _roll_back(cursor)
                raise

    def dispose(self) -> None:
        for connection in self._take_idle():
            connection.invalidate()
        self.engine.dispose()

    def leave_connections_to_parent(self) -> None:
        """Drop the connections of the parent process without closing them, right after a fork."""
        _parents_idle.extend(self._idle)
        self._idle.clear()
        self.engine.dispose(close=False)

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        with engine_errors(), _LentCursor(self) as cursor:
            return _fetch(cursor, statement, parameters)

    def take_back(self, connection: PoolProxiedConnection, error: BaseException | None) -> None:
        """Keep a connection for the next statement, unless it is broken or there is one already."""
        if error is not None and breaks_connection(self.engine, connection, error):
            connection.invalidate(error)
        if error is not None or self._idle:
            connection.close()
        else:
            self._idle.append(connection)

    def lend(self) -> PoolProxiedConnection:
        """Return the idle connection, or one from the pool if that has ended or is in use."""
        for connection in self._take_idle():
            if not has_ended(connection):
                return connection
            connection.invalidate()
        return self.engine.raw_connection()

    def _take_idle(self) -> Iterator[PoolProxiedConnection]:
        with suppress(IndexError):  # another thread may be faster
            while self._idle:
                yield self._idle.pop()


class _Transaction(Statements):
    def __init__(self, cursor: Cursor, schema: str) -> None:
        super().__init__(schema)
        self._cursor = cursor

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        return _fetch(self._cursor, statement, parameters)


class _OnConnection(Statements):
    def __init__(self, connection: Connection, schema: str) -> None:
        super().__init__(schema)
        self._connection = connection

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        result = self._connection.execute(text(PLACEHOLDER.sub(r":\1", statement)), dict(parameters))
        return [tuple(row) for row in result] if result.returns_rows else []


def _roll_back(cursor: Cursor) -> None:
    """Make a connection fit for the pool; if that fails, close it, and the pool replaces it."""
    try:
        cursor.execute("ROLLBACK")
    except psycopg2.Error:
        cursor.connection.close()


def _fetch(cursor: Cursor, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
    cursor.execute(statement, parameters or None)
    return [] if cursor.description is None else cursor.fetchall()
