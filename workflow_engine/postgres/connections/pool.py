"""The connections of a process to Postgres: one for each thread that asks at the same time.

SQLAlchemy's pool would do, but brings 80 modules and 15 MB to each worker, for little more than a deque. A
connection that the server or a pooler has ended while it was idle is replaced before it is used.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, in spite of its name

from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.postgres.connections.connection import breaks_connection, connect, has_ended
from workflow_engine.settings import Settings

OVERFLOW = 4
"""Connections beyond `database_pool_size` that a rush may have; they are closed after it."""

_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
_of_parents: list[Any] = []
"""The parent's idle connections: closing one here would end its session there, too."""


def _leave_connections_to_parents() -> None:
    for pool in _pools:
        pool.leave_connections_to_parent()


# A connection used by parent and child gives each the other's results.
os.register_at_fork(after_in_child=_leave_connections_to_parents)


class ConnectionPool:
    """Lends connections. It makes none before it is asked, and a forked process makes its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(self._settings.database_pool_size + OVERFLOW)

    def lend(self) -> Connection:
        """Return an idle connection, or a new one. Each must be given to `take_back`.

        Raises `DatabaseUnavailable` if all are in use for `database_timeout`, and `psycopg2.Error`.
        """
        if not self._free.acquire(timeout=self._settings.database_timeout):
            number, seconds = self._settings.database_pool_size + OVERFLOW, self._settings.database_timeout
            raise DatabaseUnavailable(
                f"none of {number} connections to Postgres became free in {seconds:g} s"
            )
        try:
            for connection in self._take_idle():
                if not has_ended(connection):
                    return connection
                connection.close()
            return connect(self._settings)
        except BaseException:
            self._free.release()
            raise

    def take_back(self, connection: Connection, error: BaseException | None = None) -> None:
        """Keep a connection for the next statement, unless it is broken or there are enough."""
        is_broken = error is not None and breaks_connection(connection, error)
        if is_broken or len(self._idle) >= self._settings.database_pool_size:
            connection.close()
        else:
            self._idle.append(connection)
        self._free.release()

    @property
    def idle(self) -> int:
        """The number of connections that no thread is using."""
        return len(self._idle)

    def dispose(self) -> None:
        """Close all connections that no thread is using."""
        for connection in self._take_idle():
            connection.close()

    def leave_connections_to_parent(self) -> None:
        """Drop the connections of the parent process without closing them, right after a fork."""
        _of_parents.extend(self._idle)
        self._reset()

    def _take_idle(self) -> Iterator[Connection]:
        with suppress(IndexError):  # another thread may be faster
            while self._idle:
                yield self._idle.pop()
