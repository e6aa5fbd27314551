"""Pauses between reconnections to a broker that accepts connections but refuses commands.

Celery pauses while a broker refuses connections. One that is full, read-only or about to be replaced accepts
them, and refuses the next command; Celery then connects again at once, several times a second.
"""

from __future__ import annotations

import time
from typing import Any

from celery import bootsteps
from celery.worker import state

from workflow_engine.outages import BackOff

STEADY = 3.0
"""Seconds after which a connection counts as stable, and the next pause is short again: a broker that refuses
commands refuses the first ones."""

FIRST = 0.5
"""Seconds of the first pause: enough for a broker that is started again at once. One that is not there yet is
asked again by Celery after two."""


class ReconnectionPause(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Part of the consumer, which is stopped and started again with every new connection."""

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's way to order steps

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._since = time.monotonic()
        self._back_off = BackOff(first=FIRST, longest=30.0)

    def stop(self, consumer: Any) -> None:
        if time.monotonic() > self._since + STEADY:
            self._back_off.reset()
        until = time.monotonic() + self._back_off.pause()
        while time.monotonic() < until and not (state.should_stop or state.should_terminate):
            time.sleep(0.1)
        self._since = time.monotonic()
