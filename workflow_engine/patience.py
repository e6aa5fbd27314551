"""Repeating what a server that is away will do once it is back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from workflow_engine.errors import BackingServiceUnavailable
from workflow_engine.outages import outages

Answer = TypeVar("Answer")


class BackOff:
    """The pauses between attempts, in seconds.

    Each is twice the one before, up to the longest; all are spread, so that a fleet does not knock at once.
    """

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """The pause before the next attempt."""
        pause = self._next * random.uniform(0.7, 1.3)  # noqa: S311 - spreads load, guards no secret
        self._next = min(self._next * 2, self._longest)
        return pause

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._next = self._first


def repeated(call: Callable[[], Answer], patience: float, what: str) -> Answer:
    """Call until it succeeds, for `patience` seconds at most; `what` completes "waiting to …" in the log.

    Only `BackingServiceUnavailable` is waited out, and raised when the patience is at its end.
    """
    began = time.monotonic()
    back_off = BackOff()
    while True:
        try:
            with outages.told(what, since=began):
                return call()
        except BackingServiceUnavailable:
            pause = back_off.pause()
            if time.monotonic() + pause > began + patience:
                raise
        time.sleep(pause)
