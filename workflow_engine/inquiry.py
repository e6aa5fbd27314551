"""Asking a server that may keep silent, in a thread that is left behind if it does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Facts = TypeVar("Facts")


class Inquiry(Generic[Facts]):
    """Questions put to a server by a thread of their own, which is left behind if the server keeps silent."""

    def __init__(self, ask: Callable[[], Facts]) -> None:
        self._answers: queue.SimpleQueue[Facts | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._put, args=(ask,), daemon=True).start()

    def answer(self, deadline: float) -> Facts | Exception:
        """The facts, or why there are none; `deadline` is of `time.monotonic`."""
        try:
            return self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return TimeoutError("it accepts connections and does not answer")

    def _put(self, ask: Callable[[], Facts]) -> None:
        try:
            self._answers.put(ask())
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a server or its URL is the answer
            self._answers.put(error)
