"""Processes that stop before every call to a store, until a test lets them go on, fail or die.

Each runs as a greenlet, so that nothing happens at the same time and nothing happens unasked: the same moves
give the same run. Code that is called outside of any process is simply run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeVar
from unittest.mock import patch

import greenlet

Answer = TypeVar("Answer")


class Fate(Enum):
    """What becomes of the call before which a process has stopped."""

    DONE = "done"
    UNREACHABLE = "the server was not reached"
    ANSWER_LOST = "done, but its answer was lost"
    REPLAYED = "done, and done again by a client that had no answer"


class ProcessDied(BaseException):
    """Ends whatever a process is doing; no clean-up of it reaches a store any more."""


class Process:
    """What one operating system process has in memory, and the one task that it may be running."""

    def __init__(self) -> None:
        self.stopped_at = ""
        """What the call is before which it has stopped, as far as the call says so."""
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
        """Go on up to the next stop, or the end of the task, whose exception is raised."""
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
        """Wait for the test, which says how to go on."""
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
    call: Callable[[], Answer], unavailable: Exception, what: str = "", *, is_replayed: bool = False
) -> Answer:
    """Make a call to a store, as its fate wills; `is_replayed` if the store's client repeats calls itself."""
    fate = pause(what)
    if fate is Fate.UNREACHABLE:
        raise unavailable
    answer = call()
    if fate is Fate.ANSWER_LOST:
        raise unavailable
    return call() if fate is Fate.REPLAYED and is_replayed else answer


def pause(before: str = "") -> Fate:
    """Stop where others may go on meanwhile."""
    current = greenlet.getcurrent()
    return current.process.stop(before) if isinstance(current, _ProcessGreenlet) else Fate.DONE


class Clock:
    """The time of the whole simulation. It passes when a test says so, and while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds

    def _monotonic(self) -> float:
        return self.seconds

    def _sleep(self, seconds: float) -> None:
        self.pass_by(seconds)
        pause()

    @contextmanager
    def running(self) -> Iterator[None]:
        """`time.sleep` and `time.monotonic` are this clock's; pauses are not spread, to be the same again."""
        with (
            patch.object(time, "monotonic", self._monotonic),
            patch.object(time, "sleep", self._sleep),
            patch.object(random, "uniform", _middle),
        ):
            yield


def _middle(low: float, high: float) -> float:
    return (low + high) / 2
