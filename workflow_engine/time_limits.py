"""How long one attempt of a node may run: an alarm around the node, and the end of its process behind it.

Both are armed when the node begins and disarmed when it ends, in its own process, so they can hit no other
node, and neither counts the time that a commit waits for Postgres. Celery's limits can promise neither: they
run from the message's arrival, and their signal is sent by the parent, which may be an instant late.

What ignores the alarm, or sits in C code that never returns to Python, meets `faulthandler`'s watchdog, which
needs no interpreter to end the process; the parent notices and fails the node.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

GRACE = 5.0
"""Seconds that a node has to clean up between the alarm and the end of its process."""

Answer = TypeVar("Answer")


class NodeTimedOut(Exception):
    """Raised inside a node that has run for as long as it may."""


def limited(seconds: float | None, call: Callable[[], Answer]) -> Answer:
    """Call; raise `NodeTimedOut` in it after so many seconds, and end the process `GRACE` seconds later.

    Only the main thread of a process can have an alarm, which is where Celery's prefork and solo pools
    run nodes; elsewhere there are no limits, as those pools have none either.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        return call()
    is_armed = True

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise NodeTimedOut(timed_out(seconds))

    started = time.monotonic()
    others, interval = 0.0, 0.0
    before = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            others, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
            # Celery replaces sys.stderr by a log, which has no file to write to without the interpreter.
            faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
            return call()
        finally:
            # It rings once at most: if not before this line, then never, and nothing cuts short what follows.
            is_armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        if others:
            left = others - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)


def timed_out(seconds: float) -> str:
    """What a node's failure says of its timeout."""
    return f"the node ran for longer than its timeout of {seconds:g} s"
