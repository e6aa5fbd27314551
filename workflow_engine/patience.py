"""Repeating what a server that is away will do once it is back."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from workflow_engine.errors import BackingServiceUnavailable

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two attempts; doubled each time, and spread so that a fleet does not knock at once."""


def repeated(call: Callable[[], Answer], patience: float, what: str) -> Answer:
    """Call until it succeeds, for `patience` seconds at most; `what` completes "Waiting to …" in the log.

    Only `BackingServiceUnavailable` is waited out, and raised when the patience is at its end.
    """
    deadline = time.monotonic() + patience
    pause = FIRST_PAUSE
    while True:
        try:
            return call()
        except BackingServiceUnavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            if pause == FIRST_PAUSE:
                log.warning("Waiting to %s: %s", what, error)
            time.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - spreads load, guards no secret
            pause = min(pause * 2, LONGEST_PAUSE)
