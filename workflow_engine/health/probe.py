"""A question to a server that may not respond, in a thread that is left behind if it does not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Facts = TypeVar("Facts")


class Probe(Generic[Facts]):
    """Calls `ask` in a thread of its own, which is left behind if the server does not respond."""

    def __init__(self, ask: Callable[[], Facts]) -> None:
        self._results: queue.SimpleQueue[Facts | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(ask,), daemon=True).start()

    def result(self, deadline: float) -> Facts | Exception:
        """Return the facts, or the error that there are none; `deadline` is of `time.monotonic`."""
        try:
            return self._results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return TimeoutError("it accepts connections but does not respond")

    def _run(self, ask: Callable[[], Facts]) -> None:
        try:
            self._results.put(ask())
        except Exception as error:  # noqa: BLE001 - any fault of a server or its URL is a result
            self._results.put(error)
