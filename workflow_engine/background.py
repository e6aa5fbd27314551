"""A thread for calls that may hang, so that whoever wants them done waits only so long.

Not every client library lets its caller bound a call: how long kombu takes to publish depends on its
transport and on options that belong to the team. The thread does not keep its process from ending.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)

Call = Callable[[], object]


class Background:
    """Makes calls, one after the other, in a thread of its own; `what` says in the log what they do."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._forget_parent()
        os.register_at_fork(after_in_child=self._forget_parent)

    def _forget_parent(self) -> None:
        self._calls: SimpleQueue[tuple[Call, threading.Event]] = SimpleQueue()
        self._is_late = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def done_within(self, seconds: float, call: Call) -> bool:
        """Make a call, and tell whether it was over so many seconds later; what it raises is logged.

        A call that is late goes on. Until it is over, other calls are refused: they would wait in vain.
        """
        if self._is_late:
            return False
        is_over = threading.Event()
        self._calls.put((call, is_over))
        self._begin()
        if is_over.wait(seconds):
            return True
        self._is_late = True
        if is_over.is_set():  # at the last moment, and the thread may have reset what was set only now
            self._is_late = False
            return True
        log.warning(
            "To %s takes more than %g s; until it is done, no other waits for it.", self._what, seconds
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
            except Exception:
                log.exception("It was not possible to %s.", self._what)
            is_over.set()
            self._is_late = False
