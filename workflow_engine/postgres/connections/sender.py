"""Sender: sends a statement, and reads its result later, on a connection of its own.

The connection is one of libpq's that do not block. It waits in Python, so the deadline needs no thread.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, in spite of its name
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from workflow_engine.postgres.connections.connection import connect_without_blocking, has_ended
from workflow_engine.postgres.driver_errors import engine_errors
from workflow_engine.settings import Settings

PAUSE = 30.0
"""Seconds without an attempt to connect after one that failed."""

EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


class AwaitedRows:
    """The result of a statement that was sent. Another thread may read it, once."""

    __slots__ = ("_connection", "_cursor", "_deadline", "_sender", "_was_here")

    def __init__(self, sender: Sender, connection: Connection, cursor: Cursor, deadline: float) -> None:
        self._sender = sender
        self._connection = connection
        self._cursor = cursor
        self._deadline = deadline
        self._was_here = _flushed(connection, deadline) == POLL_OK

    @property
    def is_here(self) -> bool:
        """True if the result has come, or its first part has."""
        if not self._was_here:
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            self._was_here = bool(poll.poll(0))
        return self._was_here

    @property
    def socket(self) -> int:
        """The file descriptor that becomes readable when the result comes, if it has not by now."""
        return self._connection.fileno()

    def rows(self) -> list[tuple[Any, ...]]:
        """Wait for the result, and return its rows. Raises as `Statements.rows` does."""
        is_usable = False
        try:
            with engine_errors():
                try:
                    wait(self._connection, self._deadline)
                except psycopg2.Error as error:
                    is_usable = error.pgcode is not None and not self._connection.closed
                    raise
                is_usable = True
                return self._cursor.fetchall()
        finally:
            self._sender.take_back(self._connection if is_usable else None)
            if not is_usable:
                self._connection.close()


class Sender:
    """Sends one statement at a time. It connects when it is first used, and again in a forked process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self._of_parent: Any = None
        self._connects_again = 0.0
        self._free = threading.Lock()
        self._process = os.getpid()

    def send(self, statement: str, parameters: Mapping[str, Any]) -> AwaitedRows | None:
        """Send a statement.

        Return None while the result of another is awaited, and for a while after it could not connect.
        """
        if self._process != os.getpid():
            self._leave_connection_to_parent()
        if time.monotonic() < self._connects_again or not self._free.acquire(blocking=False):
            return None
        try:
            with engine_errors():
                connection = self._connected()
                deadline = time.monotonic() + self._settings.database_deadline
                try:
                    cursor = connection.cursor()
                    cursor.execute(statement, parameters)
                    return AwaitedRows(self, connection, cursor, deadline)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            self._free.release()
            raise

    def take_back(self, connection: Connection | None) -> None:
        """Keep a connection whose result was read; None if it cannot be used any more."""
        self._connection = connection
        self._free.release()

    def rest(self) -> None:
        """Close the connection, unless a result is awaited."""
        if self._process == os.getpid() and self._free.acquire(blocking=False):
            try:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.close()
            finally:
                self._free.release()

    def _connected(self) -> Connection:
        connection, self._connection = self._connection, None
        if connection is not None:
            if not has_ended(connection):
                return connection
            connection.close()
        try:
            connection = connect_without_blocking(self._settings)
            wait(connection, time.monotonic() + self._settings.database_timeout)
        except psycopg2.Error:
            # Of several hosts this tries only those within its time. A pool's connection tries all.
            self._connects_again = time.monotonic() + PAUSE
            raise
        return connection

    def _leave_connection_to_parent(self) -> None:
        # Closing it here would end its session there, too.
        self._of_parent, self._connection = self._connection, None
        self._free, self._process = threading.Lock(), os.getpid()


def wait(connection: Connection, deadline: float) -> None:
    """Wait until a connection that does not block has done its work.

    Raises `psycopg2.Error`, also if that takes until the deadline, by `time.monotonic()`.
    """
    while (state := connection.poll()) != POLL_OK:
        _await_socket(connection, EVENTS[state], deadline)


def _flushed(connection: Connection, deadline: float) -> int:
    """Send what the socket has not taken at once, and return the state of the connection then."""
    while (state := connection.poll()) == POLL_WRITE:
        _await_socket(connection, EVENTS[state], deadline)
    return int(state)


def _await_socket(connection: Connection, events: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), events)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise psycopg2.OperationalError("no response before the deadline")
