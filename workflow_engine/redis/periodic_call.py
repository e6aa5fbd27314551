"""Calls to Redis that a process repeats beside its nodes, until nothing needs them any more.

An engine that is dropped takes its threads and their connections with it: threads and fork hooks reference
the object that they serve only weakly.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from weakref import WeakMethod

from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class PeriodicCall:
    """Calls a method every `seconds` in a thread of its own, as long as the method's object lives."""

    def __init__(self, name: str, seconds: float, method: Callable[[], None]) -> None:
        self._name = name
        self._arguments = (name, seconds, WeakMethod(method))
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        call_in_children(self._forget_thread)

    def start(self) -> None:
        """Start the thread, unless this process has started it. A forked child has to start its own."""
        if self._thread is None:
            self._start_once()

    def _start_once(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=_repeat, args=self._arguments, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def _forget_thread(self) -> None:
        self._thread = None
        # A lock that the parent holds at the fork would never be released in the child.
        self._starting = threading.Lock()


def call_in_children(method: Callable[[], None]) -> None:
    """Call this method in every child that is forked while the method's object lives."""
    reference = WeakMethod(method)

    def call() -> None:
        if (in_child := reference()) is not None:
            in_child()

    os.register_at_fork(after_in_child=call)


def _repeat(name: str, seconds: float, method: WeakMethod[Callable[[], None]]) -> None:
    never = threading.Event()
    while not never.wait(seconds):
        if (call := method()) is None:
            return
        try:
            call()
        except Exception as error:
            log.exception(
                "A round of %s failed; continuing",
                name,
                extra=log_fields(LogEvent.PERIODIC_CALL_FAILED, call=name, error=error),
            )
        del call  # or it would live as long as this thread waits
