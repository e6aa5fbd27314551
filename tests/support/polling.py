"""Waiting for a condition, in place of a sleep that is too long on one machine and too short on another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

TIMEOUT = 20.0
"""Seconds that are enough on a crowded machine, and too few for a lost message to be rescued meanwhile."""


def poll(condition: Callable[[], Answer], description: str, timeout: float = TIMEOUT) -> Answer:
    """Call until the result is true, and return it. Raise AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {description}; the last result was {answer!r}")
        time.sleep(0.02)
    return answer
