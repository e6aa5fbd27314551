"""A thread for calls that may hang, so that their callers wait only for a bounded time.

Not every client library lets its caller bound a call: how long kombu takes to publish depends on its
transport and on options that belong to the team. The thread does not keep its process from ending.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

Call = Callable[[], object]


class Background:
    """Makes calls one after the other in a thread of its own; `what` describes them in the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._calls: SimpleQueue[tuple[Call, threading.Event]] = SimpleQueue()
        self._is_late = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def done_within(self, seconds: float, call: Call) -> bool:
        """Make a call; return whether it finished within `seconds`. Its errors are logged.

        A late call goes on. Until it has finished, further calls are refused: they would only queue behind
        it.
        """
        if self._is_late:
            return False
        is_over = threading.Event()
        self._calls.put((call, is_over))
        self._begin()
        if is_over.wait(seconds):
            return True
        self._is_late = True
        if is_over.is_set():  # at the last moment: the thread may have reset the flag before it was set
            self._is_late = False
            return True
        log.warning(
            "It takes longer than %g s to %s; later calls are refused until this one has finished.",
            seconds,
            self._what,
            extra=log_fields(LogEvent.BACKGROUND_CALL_DELAYED, call=self._what, seconds=seconds),
        )
        return False

    def _begin(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._what, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            call, is_over = self._calls.get()
            try:
                call()
            except Exception as error:
                log.exception(
                    "Failed to %s.",
                    self._what,
                    extra=log_fields(LogEvent.BACKGROUND_CALL_FAILED, call=self._what, error=error),
                )
            is_over.set()
            self._is_late = False
