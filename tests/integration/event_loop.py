"""Turning the event loop of a worker's main process by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

from kombu.asynchronous import Hub

PATIENCE = 10.0


def turn_until(hub: Hub, condition: Callable[[], bool]) -> None:
    """Let it do what it would do by itself, for as long as it takes."""
    deadline = time.monotonic() + PATIENCE
    often = hub.timer.call_repeatedly(0.01, lambda: None)  # or a turn without events would take a second
    while not condition():
        assert time.monotonic() < deadline
        hub.run_once()
    often.cancel()
