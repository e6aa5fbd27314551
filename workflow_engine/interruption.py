"""Interrupting a running node whose result nobody wants any more, and never the node after it.

Another thread of the process names the run that it means; the main thread looks, in the handler of a signal,
whether it is still in that very run, and only then raises. Whichever of the two is late, the signal has no
effect. SIGURG, because a process that has no handler for it ignores it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

SIGNAL = signal.SIGURG

Answer = TypeVar("Answer")


class NodeInterrupted(BaseException):
    """Raised inside a node that is to stop because its execution has moved on without it.

    Like KeyboardInterrupt no Exception, so that what a node does against failures does not hold it up.
    """


class _Run:
    """One run of a node by the main thread. It is interrupted once at most."""

    __slots__ = ("is_interruptible", "is_unwanted", "token")

    def __init__(self, token: str) -> None:
        self.token = token
        self.is_unwanted = False
        self.is_interruptible = True


_current: _Run | None = None
_has_handler = False


def interruptible(token: str, call: Callable[[], Answer]) -> Answer:
    """Call; while that runs, `interrupt(token)` in another thread raises `NodeInterrupted` in it.

    Only the main thread of a process can be interrupted, which is where Celery's prefork and solo pools run
    nodes; in other pools a node has to ask `context.cancelled()`.
    """
    global _current, _has_handler  # noqa: PLW0603 - a process has one main thread
    if threading.current_thread() is not threading.main_thread():
        return call()
    if not _has_handler:
        signal.signal(SIGNAL, _interrupt_the_run_that_is_meant)
        _has_handler = True
    run = _Run(token)
    try:
        try:
            _current = run
            return call()
        finally:
            # From here on the handler raises no more; had it raised just before, it has done so once.
            run.is_interruptible = False
    finally:
        _current = None


def interrupt(token: str) -> bool:
    """Have the main thread leave the run of this token; False if it is not in it (any more)."""
    run = _current
    if run is None or run.token != token:
        return False
    run.is_unwanted = True
    signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
    return True


def _interrupt_the_run_that_is_meant(signum: int, frame: FrameType | None) -> None:
    run = _current
    if run is not None and run.is_unwanted and run.is_interruptible:
        run.is_interruptible = False
        raise NodeInterrupted
