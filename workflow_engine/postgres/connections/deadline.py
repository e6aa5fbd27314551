"""A deadline for statements that holds without a response from Postgres: a late one's connection is cut.

libpq waits for a response as long as the connection lives, and the connection to a frozen server lives: its
kernel acknowledges everything. psycopg2 could wait in Python instead, but only for all connections of the
process, including those of other libraries, and more slowly. So a thread watches the engine's connections.
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

Result = TypeVar("Result")

LONGEST_TICK = 1.0
"""Seconds between two checks at most. A response may be late by this much, or by a tenth of its deadline."""


class Watch:
    """Cuts connections whose server stops responding. One watches all of the engine's in a process."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._awaited: dict[tuple[float, Connection], bool] = {}
        self._tick = LONGEST_TICK
        self._is_needed = threading.Event()
        self._cutting = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def over(self, connection: Connection, seconds: float, call: Callable[..., Result], *args: Any) -> Result:
        """Make a call that waits for this connection's server, for about `seconds` at most.

        Raises `psycopg2.OperationalError` if the response was late; the connection is then unusable.
        """
        awaited = (time.monotonic() + seconds, connection)
        try:
            self._awaited[awaited] = True
            if not self._is_needed.is_set():
                self._begin(seconds)
            return call(*args)
        except psycopg2.Error as error:
            if awaited not in self._awaited:
                raise psycopg2.OperationalError(f"no response within {seconds:g} s") from error
            raise
        finally:
            # Only one thread can remove the entry. If the watching thread has, it is cutting the connection,
            # whose file descriptor must not be closed and reused before that is done.
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
            self._cut_late()
            # In this order: a caller checks the event after it has added itself to the dict.
            self._is_needed.clear()
            if self._awaited:
                self._is_needed.set()
            else:
                self._is_needed.wait()

    def _cut_late(self) -> None:
        now = time.monotonic()
        for awaited in self._awaited.copy():
            deadline, connection = awaited
            if deadline <= now:
                with self._cutting:
                    if self._awaited.pop(awaited, False):
                        _cut(connection)


def _cut(connection: Connection) -> None:
    """Shut down the socket; libpq, which waits in another thread, then finds the connection closed."""
    # A connection that psycopg2 or the server has closed by now needs no cutting.
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


def connection_factory(deadline: float) -> Callable[..., WatchedConnection]:
    """Return a `connection_factory` for psycopg2 whose connections wait `deadline` seconds for a response.

    Connecting itself is bounded by libpq's `connect_timeout`.
    """

    def connect(*args: Any, **others: Any) -> WatchedConnection:
        connection = WatchedConnection(*args, **others)
        connection.deadline = deadline
        return connection

    return connect
