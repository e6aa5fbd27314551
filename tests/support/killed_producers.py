"""Producers that are killed at random moments of their work.

They are forked from one process, like those of a web server.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable

CALIBRATIONS = 10
"""Producers that are not killed, to see how long one takes."""

Produce = Callable[[int, Callable[[], object]], None]
"""Connects, reports ready, and does the work of the producer with this number."""


def kill_producers(count: int, produce: Produce, *, mostly_early: bool = False) -> dict[str, int]:
    """Fork producers until `count` of them were killed; return the numbers of kills and of attempts.

    The work of number 0 is done here, so that those forked find everything imported.
    """
    produce(0, lambda: None)
    median = statistics.median(_lifetime(produce, number)[0] for number in range(1, CALIBRATIONS + 1))
    killed, attempts = 0, CALIBRATIONS + 1
    while killed < count:
        moment = random.random() ** 3 if mostly_early else random.random()
        killed += _lifetime(produce, attempts, kill_after=median * moment)[1]
        attempts += 1
    return {"killed": killed, "attempts": attempts}


def _lifetime(produce: Produce, number: int, kill_after: float | None = None) -> tuple[float, bool]:
    """Fork a producer. Return how long it lived once ready, in seconds, and whether it was killed."""
    reading, writing = os.pipe()
    if (producer := os.fork()) == 0:
        status = 1
        try:
            produce(number, lambda: os.write(writing, b"r"))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    is_ready = os.read(reading, 1)
    os.close(reading)
    assert is_ready, "a producer could not connect"
    began = time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(producer, signal.SIGKILL)
    _, status = os.waitpid(producer, 0)
    assert os.WIFSIGNALED(status) or status == 0, "a producer failed without being killed"
    return time.monotonic() - began, os.WIFSIGNALED(status)
