"""Turns of the event loop of a worker's main process, made by a test."""

from __future__ import annotations

import time
from collections.abc import Callable

from kombu.asynchronous import Hub

TIMEOUT = 60.0
"""Seconds after which a test fails. On a crowded machine the start of one process may take ten."""


def turn_until(hub: Hub, condition: Callable[[], bool]) -> None:
    """Turn the loop until the condition holds. Raises AssertionError after `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    often = hub.timer.call_repeatedly(0.01, lambda: None)  # or a turn without events would take a second
    while not condition():
        assert time.monotonic() < deadline
        hub.run_once()
    often.cancel()
