"""A deadline for statements that needs no answer of Postgres: what is overdue has its connection cut.

libpq waits for an answer as long as the connection lives, and the connection to a frozen server lives: its
kernel acknowledges everything. psycopg2 could wait in Python instead, but only for all connections of the
process, other people's included, and more slowly; so a thread watches what the engine's connections wait for.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, in spite of its name
from psycopg2.extensions import cursor as Cursor  # noqa: N812

Answer = TypeVar("Answer")

LONGEST_TICK = 1.0
"""Seconds between two looks at most; an answer may be overdue by so much, or by a tenth of its deadline."""


class Watch:
    """Cuts connections whose server keeps silent. One watches over all of the engine's in a process."""

    def __init__(self) -> None:
        self._forget_parent()
        os.register_at_fork(after_in_child=self._forget_parent)

    def _forget_parent(self) -> None:
        self._awaited: dict[tuple[float, Connection], bool] = {}
        self._tick = LONGEST_TICK
        self._is_needed = threading.Event()
        self._cutting = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def over(self, connection: Connection, seconds: float, call: Callable[..., Answer], *args: Any) -> Answer:
        """Call, which waits for this connection's server; for so many seconds, more or less.

        Raises `psycopg2.OperationalError` if its answer was overdue; the connection is then of no more use.
        """
        awaited = (time.monotonic() + seconds, connection)
        try:
            self._awaited[awaited] = True
            if not self._is_needed.is_set():
                self._begin(seconds)
            return call(*args)
        except psycopg2.Error as error:
            if awaited not in self._awaited:
                raise psycopg2.OperationalError(f"no answer within {seconds:g} s") from error
            raise
        finally:
            # Only one side can take it out. If that was the other, it is cutting the connection, whose file
            # descriptor must not be closed, and mean something else, before that is done.
            if not self._awaited.pop(awaited, False):
                with self._cutting:
                    pass

    def _begin(self, seconds: float) -> None:
        with self._starting:
            self._tick = min(self._tick, seconds / 10)
            self._is_needed.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_looking, name="deadlines", daemon=True)
                self._thread.start()

    def _keep_looking(self) -> None:
        while True:
            time.sleep(self._tick)
            self._cut_overdue()
            # In this order: whoever begins to wait looks at the event after it is in the dict.
            self._is_needed.clear()
            if self._awaited:
                self._is_needed.set()
            else:
                self._is_needed.wait()

    def _cut_overdue(self) -> None:
        now = time.monotonic()
        for awaited in self._awaited.copy():
            deadline, connection = awaited
            if deadline <= now:
                with self._cutting:
                    if self._awaited.pop(awaited, False):
                        _cut(connection)


def _cut(connection: Connection) -> None:
    """Let libpq, which waits in another thread, find the connection closed by the server."""
    # What psycopg2 has closed meanwhile, or the server has, needs no cutting.
    with suppress(psycopg2.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


_watch = Watch()


class WatchedCursor(Cursor):
    """A cursor whose statements have the deadline of their connection."""

    def execute(self, query: Any, vars: Any = None) -> None:
        connection: WatchedConnection = self.connection  # type: ignore[assignment]
        _watch.over(connection, connection.deadline, super().execute, query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        connection: WatchedConnection = self.connection  # type: ignore[assignment]
        _watch.over(connection, connection.deadline, super().executemany, query, vars_list)


class WatchedConnection(Connection):
    """A connection each of whose round trips has a deadline, in seconds."""

    deadline: float

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self.cursor_factory = WatchedCursor

    def commit(self) -> None:
        _watch.over(self, self.deadline, super().commit)

    def rollback(self) -> None:
        if self.autocommit:  # then it asks nothing of the server, and comes with every statement
            super().rollback()
        else:
            _watch.over(self, self.deadline, super().rollback)


def connecting(deadline: float) -> Callable[..., WatchedConnection]:
    """A `connection_factory` for psycopg2: its connections wait so many seconds for an answer.

    Connecting itself is bounded by libpq's `connect_timeout`.
    """

    def connect(*args: Any, **others: Any) -> WatchedConnection:
        connection = WatchedConnection(*args, **others)
        connection.deadline = deadline
        return connection

    return connect
