"""How long one attempt of a node may run: an alarm around the node, and the end of its process behind it.

Where a process runs one node at a time (Celery's pools prefork and solo), both are armed when the node begins
and disarmed when it ends, in its own process. So they can hit no other node, and do not count the time that
a commit waits for Postgres. Celery's limits can promise neither: they run from the message's arrival, and
the parent process sends their signal, which may be an instant late.

A node that ignores the alarm, or sits in C code that never returns to Python, meets `faulthandler`'s
watchdog, which needs no interpreter to end the process; the parent process notices and fails the node.

Elsewhere (threads, gevent, eventlet) a node with a timeout runs in a thread of its own, which is a greenlet
where the pool has patched threads. Code that ignores the exception raised in it is left behind there: the
node fails in time, and its code goes on in the background.
"""

from __future__ import annotations

import contextvars
import ctypes
import faulthandler
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, TypeVar

from workflow_engine.nodes.contract import NodeTimedOut
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a node has to clean up after the alarm, before its process ends or it is left behind."""

LEFT_BEHIND = "; it did not stop and continues in the background"
"""Added to the failure of a node that could not be ended."""

WEAKNESSES = {
    "solo": "a node that ignores its timeout ends the whole worker",
    "threads": "a node that ignores its timeout fails, but goes on in a thread of its own until it returns",
    "gevent": "a node that ignores its timeout fails, but goes on in a greenlet of its own; one that never "
    "yields blocks the whole worker",
    "eventlet": "a node that ignores its timeout fails, but goes on in a greenlet of its own; one that never "
    "yields blocks the whole worker",
}

Result = TypeVar("Result")


def weakness_of_pool(name: str) -> str | None:
    """Return what a node's `timeout` cannot do in a pool of Celery; None where it ends every node.

    `name` is the pool's name in `celery worker --pool`.
    """
    return WEAKNESSES.get(name)


def with_time_limit(
    seconds: float | None,
    call: Callable[[], Result],
    *,
    soft: float | None = None,
    soft_error: type[Exception] = NodeTimedOut,
) -> Result:
    """Call; raise `NodeTimedOut` inside the call after `seconds`, and end the process `GRACE` seconds later.

    `soft` seconds after the beginning, `soft_error` is raised inside the call, which may then go on.

    Only the main thread of a process can have an alarm. Elsewhere the call runs in a thread of its own,
    which is left behind after `GRACE` seconds, and the caller gets `NodeTimedOut`; `soft` has no effect.
    """
    if seconds is None and not soft:
        return call()
    if threading.current_thread() is not threading.main_thread():
        return call() if seconds is None else _ThreadedCall(seconds, call).result()
    alarms: list[tuple[float, Exception]] = []
    if soft and (seconds is None or soft < seconds):
        alarms.append((soft, soft_error()))
    if seconds is not None:
        alarms.append((seconds, NodeTimedOut(timeout_message(seconds))))

    def ring(signum: int, frame: FrameType | None) -> None:
        if alarms:
            _, error = alarms.pop(0)
            if alarms:
                left = alarms[0][0] - (time.monotonic() - started)
                signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))
            raise error

    started = time.monotonic()
    others, interval = 0.0, 0.0
    before = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            others, interval = signal.setitimer(signal.ITIMER_REAL, alarms[0][0])
            if seconds is not None:
                # Celery replaces sys.stderr by a log, which has no file to write to without the interpreter.
                stderr = sys.__stderr__ or sys.stderr
                faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
            return call()
        finally:
            # If one did not ring before this line, it never does, and cannot interrupt what follows.
            alarms.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        if others:
            left = others - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)


def timeout_message(seconds: float) -> str:
    """Return the message of a node's failure by its timeout."""
    return f"the node ran for longer than its timeout of {seconds:g} s"


class _ThreadedCall(Generic[Result]):
    """A call in a thread of its own, which has `seconds` to return."""

    def __init__(self, seconds: float, call: Callable[[], Result]) -> None:
        self._seconds = seconds
        self._call = call
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._is_over = threading.Event()
        self._guard = threading.Lock()
        self._is_interruptible = False
        self._greenlet: Any = None

    def result(self) -> Result:
        # The node needs the task's context variables in its thread, for logs and tracing.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._run,), name="timed-node", daemon=True)
        thread.start()
        if not self._is_over.wait(self._seconds):
            self._interrupt(thread)
            if not self._is_over.wait(GRACE):
                log.warning(
                    "Node ignored its timeout of %g s; it continues in the background",
                    self._seconds,
                    extra=log_fields(LogEvent.NODE_LEFT_BEHIND, timeout=self._seconds),
                )
                raise NodeTimedOut(timeout_message(self._seconds) + LEFT_BEHIND)
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        greenlets = sys.modules.get("greenlet")
        current = greenlets.getcurrent() if greenlets is not None else None
        self._greenlet = current if current is not None and current.parent is not None else None
        self._is_interruptible = True
        try:
            try:
                self._result.append(self._call())
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._error = error
            with self._guard:
                self._is_interruptible = False
        except NodeTimedOut as error:  # it came when the call had just ended
            self._error = None if self._result else error
        finally:
            self._is_over.set()

    def _interrupt(self, thread: threading.Thread) -> None:
        message = timeout_message(self._seconds)

        class OutOfTime(NodeTimedOut):
            """A class, since an exception for another thread is passed as one."""

            def __init__(self) -> None:
                super().__init__(message)

        with self._guard:
            if not self._is_interruptible:
                return
            if self._greenlet is None:
                identity, raised = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(OutOfTime)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, raised)
            elif type(self._greenlet).__module__.startswith("eventlet"):
                self._greenlet.kill(OutOfTime)
            else:
                self._greenlet.kill(OutOfTime, block=False)
