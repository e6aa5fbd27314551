"""What a node logs while it runs, kept for its row in the journal.

A handler beside those of the log takes the lines of the current attempt, in every thread or greenlet that has
inherited its context. It sees what the levels of the loggers let through.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from workflow_engine.telemetry.json_log import message_of

LISTENED_TO = (None, "celery.task")
"""The loggers at which lines arrive: the root, and that of Celery's tasks, which passes nothing on."""

LONGEST_NAME = 200
"""Characters of a logger's name."""

Clean = Callable[[str, int], str]
"""Returns a text without secrets, within a number of bytes, as it can be stored."""


class AttemptLog:
    """The last lines of one attempt, in `limit` bytes of JSON."""

    def __init__(self, limit: int, clean: Clean) -> None:
        self._limit = limit
        self._clean = clean
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._latest: logging.LogRecord | None = None

    def add(self, record: logging.LogRecord) -> None:
        """Keep a line, and drop the first ones if there is no room for it."""
        if record is self._latest:  # it has come from the logger of Celery's tasks to the root
            return
        self._latest = record
        longest = self._limit // 4
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname[:LONGEST_NAME],
            "logger": self._clean(record.name[:LONGEST_NAME], LONGEST_NAME),
            "message": self._clean(message_of(record), longest),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self._clean("".join(traceback.format_exception(record.exc_info[1])), longest)
        encoded = json.dumps(line).encode()
        self._lines.append(encoded)
        self._size += len(encoded) + 1
        while self._size > self._limit and self._lines:
            self._size -= len(self._lines.popleft()) + 1
            self._dropped += 1

    def encoded(self) -> bytes | None:
        """Return the lines as JSON; None if nothing was logged."""
        if not self._lines and not self._dropped:
            return None
        return b'{"dropped":%d,"lines":[%b]}' % (self._dropped, b",".join(self._lines))


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (current := _current.get()) is not None:
            token = _current.set(None)  # what is logged while a line is cleaned is not of the node
            try:
                current.add(record)
            except Exception:  # noqa: BLE001 - any code may be behind a record, and the node must not fail by it
                self.handleError(record)
            finally:
                _current.reset(token)


_current: ContextVar[AttemptLog | None] = ContextVar("attempt_log", default=None)
_listener = _Listener()


@contextmanager
def kept(log: AttemptLog) -> Iterator[None]:
    """Keep in `log` what the block logs."""
    for name in LISTENED_TO:
        # Each time, since a program that sets up its log again removes all handlers.
        if _listener not in (logger := logging.getLogger(name)).handlers:
            logger.addHandler(_listener)
    token = _current.set(log)
    try:
        yield
    finally:
        _current.reset(token)
