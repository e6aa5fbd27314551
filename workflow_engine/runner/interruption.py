"""How a node is ended from outside: by an order to its worker, or by an interruption of this one node.

`interrupt` stops a running node whose result is no longer wanted, and never the node after it.

Another thread of the process names the run that it means. The main thread raises in the handler of a signal,
but only if it is still in that run; a signal that comes too early or too late has no effect. SIGURG, because
a process that has no handler for it ignores it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

SIGNAL = signal.SIGURG

Result = TypeVar("Result")


class NodeInterrupted(BaseException):
    """Raised inside a node that has to stop because its execution has moved on without it.

    Like KeyboardInterrupt it is not an `Exception`, so a node's handling of failures does not catch it.
    """


class _Run:
    """One run of a node by the main thread. It is interrupted at most once."""

    __slots__ = ("is_interruptible", "is_unwanted", "token")

    def __init__(self, token: str) -> None:
        self.token = token
        self.is_unwanted = False
        self.is_interruptible = True


_current: _Run | None = None
_has_handler = False


def call_interruptibly(token: str, call: Callable[..., Result], *args: Any) -> Result:
    """Call; until it returns, `interrupt(token)` in another thread raises `NodeInterrupted` inside the call.

    Only the main thread of a process can be interrupted, which is where Celery's prefork and solo pools run
    nodes; in other pools a node has to check `context.cancelled()`.
    """
    global _current, _has_handler  # noqa: PLW0603 - a process has one main thread
    if threading.current_thread() is not threading.main_thread():
        return call(*args)
    if not _has_handler:
        signal.signal(SIGNAL, _raise_in_unwanted_run)
        _has_handler = True
    run = _Run(token)
    try:
        try:
            _current = run
            return call(*args)
        finally:
            # From here on the handler raises no more; if it raised just before, it did so once.
            run.is_interruptible = False
    finally:
        _current = None


def interrupt(token: str) -> bool:
    """Make the main thread leave the run of this token; False if it is not in that run (any more)."""
    run = _current
    if run is None or run.token != token:
        return False
    run.is_unwanted = True
    signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
    return True


def _raise_in_unwanted_run(signum: int, frame: FrameType | None) -> None:
    run = _current
    if run is not None and run.is_unwanted and run.is_interruptible:
        run.is_interruptible = False
        raise NodeInterrupted


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, its contexts and the members of its groups, each once."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        left += [each.__context__, each.__cause__, *members]


def order_behind(error: BaseException) -> BaseException | None:
    """Return the order to stop that led to a node's error; None if the error is the node's own.

    A node that stops on an order may raise another error, from its clean-up or around the order.
    """
    return next((each for each in causes(error) if _is_order(each)), None)


def _is_order(error: BaseException) -> bool:
    """Distinguish orders to the worker from what a node raises by itself.

    The signal handler of Celery's pool (`billiard.common`) exits with the signal's number less 256, a status
    that no program passes to `sys.exit`. Ctrl-C counts where Python's handler is in place, which Celery's
    workers replace. Pools of greenlets end a task by raising GreenletExit in it.
    """
    if isinstance(error, NodeInterrupted):
        return True
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and -256 < error.code <= -256 + signal.NSIG
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    greenlet = sys.modules.get("greenlet")
    if greenlet is None or not isinstance(error, greenlet.GreenletExit):
        return False
    return greenlet.getcurrent().parent is not None
