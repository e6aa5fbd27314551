"""Processes that stop before every call to a store, until a test lets them go on, fail or die.

Each runs as a greenlet, so no two run at the same time and none runs by itself: the same moves give the same
run. Code that is called outside of any process just runs.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeVar
from unittest.mock import patch

import greenlet

Result = TypeVar("Result")


class Fate(Enum):
    """The outcome of the call before which a process has stopped."""

    DONE = "done"
    UNREACHABLE = "the server was not reached"
    REPLY_LOST = "done, but its reply was lost"
    REPLAYED = "done, and done again by a client that got no reply"


class ProcessDied(BaseException):
    """Ends the task of a process; its clean-up no longer reaches a store."""


class Process:
    """One operating system process, with the one task that it may be running."""

    def __init__(self) -> None:
        self.stopped_at = ""
        """The name of the call before which it has stopped, if that call has one."""
        self._running: greenlet.greenlet | None = None
        self._is_dead = False

    @property
    def is_idle(self) -> bool:
        return self._running is None

    def begin(self, task: Callable[[], None]) -> None:
        """Run a task up to its first stop."""

        def run(_: Fate) -> None:
            with suppress(ProcessDied):
                task()

        self._running = _ProcessGreenlet(self, run)
        self.go(Fate.DONE)

    def go(self, fate: Fate) -> None:
        """Go on to the next stop or to the end of the task. Raises the task's exception."""
        running = self._running
        assert running is not None
        try:
            running.switch(fate)
        finally:
            if running.dead:
                self._running = None

    def die(self) -> None:
        self._is_dead = True
        if self._running is not None:
            self._running.throw(ProcessDied)

    def stop(self, before: str) -> Fate:
        """Wait until the test lets the process go on; return the fate of its call."""
        if self._is_dead:
            raise ProcessDied
        self.stopped_at = before
        fate: Fate = greenlet.getcurrent().parent.switch()
        return fate


class _ProcessGreenlet(greenlet.greenlet):
    def __init__(self, process: Process, run: Callable[[Fate], None]) -> None:
        super().__init__(run)
        self.process = process


def step(
    call: Callable[[], Result], unavailable: Exception, what: str = "", *, is_replayed: bool = False
) -> Result:
    """Make a call to a store with the fate it meets; `is_replayed` if the store's client repeats calls."""
    fate = pause(what)
    if fate is Fate.UNREACHABLE:
        raise unavailable
    reply = call()
    if fate is Fate.REPLY_LOST:
        raise unavailable
    return call() if fate is Fate.REPLAYED and is_replayed else reply


def pause(before: str = "") -> Fate:
    """Stop at a point where other processes may go on."""
    current = greenlet.getcurrent()
    return current.process.stop(before) if isinstance(current, _ProcessGreenlet) else Fate.DONE


class Clock:
    """The time of the whole simulation. It passes when a test moves it, and while a process sleeps."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Replace `time.sleep` and `time.monotonic` by this clock, and switch off jitter, for equal runs.

        Other threads, which tests before may have left, keep theirs: this clock would pass while they sleep.
        """
        thread, real_sleep, real_monotonic = threading.get_ident(), time.sleep, time.monotonic

        def monotonic() -> float:
            return self.seconds if threading.get_ident() == thread else real_monotonic()

        def sleep(seconds: float) -> None:
            if threading.get_ident() == thread:
                self.pass_by(seconds)
                pause()
            else:
                real_sleep(seconds)

        with (
            patch.object(time, "monotonic", monotonic),
            patch.object(time, "sleep", sleep),
            patch.object(random, "uniform", _middle),
        ):
            yield


def _middle(low: float, high: float) -> float:
    return (low + high) / 2
