"""The ways in which a node ends badly, and the failure that each has to become."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

SPARE = 64 * 1024 * 1024
"""Bytes that a node may still have when its memory is limited."""


class Abort(BaseException):
    """A library's own way to abort everything."""


@dataclass(frozen=True)
class Ending:
    """One way to end; `act` does it, in the process of a worker."""

    act: Callable[[], object]
    error_type: str
    """The type of the node's failure."""
    reason: str
    """Text that its message has to contain."""
    kills: bool = False
    """True if its process dies each time, so that it runs again until `max_recoveries` is reached."""


async def _cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


def _abort() -> None:
    raise Abort("enough")


def _exit_generator() -> None:
    raise GeneratorExit


def _interrupt() -> None:
    raise KeyboardInterrupt


def _recurse() -> None:
    _recurse()


def _use_up_memory() -> None:
    """Outgrow a memory limit on this process, and restore the limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, before[1]))
    try:
        bytearray(16 * SPARE)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _signal_itself(number: signal.Signals) -> Callable[[], None]:
    def act() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    return act


def _ignore_everything() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(60)


def _hold_the_interpreter() -> None:
    sum(range(10**12))


ENDINGS = {
    "cancels its own task": Ending(lambda: asyncio.run(_cancel()), "CancelledError", "CancelledError"),
    "lets out a library's BaseException": Ending(_abort, "Abort", "enough"),
    "lets out a GeneratorExit": Ending(_exit_generator, "GeneratorExit", "GeneratorExit"),
    "lets out a KeyboardInterrupt": Ending(_interrupt, "KeyboardInterrupt", "KeyboardInterrupt"),
    "calls sys.exit": Ending(lambda: sys.exit("bye"), "SystemExit", "bye"),
    "recurses without end": Ending(_recurse, "RecursionError", "maximum recursion depth exceeded"),
    "outgrows a memory limit": Ending(_use_up_memory, "MemoryError", "MemoryError"),
    "sends itself SIGUSR1": Ending(
        _signal_itself(signal.SIGUSR1), "SoftTimeLimitExceeded", "Celery's soft time limit"
    ),
    "calls os._exit": Ending(lambda: os._exit(3), "WORKER_LOST", "exitcode 3", kills=True),
    "calls os._exit as if all were well": Ending(
        lambda: os._exit(0), "WORKER_LOST", "exitcode 0", kills=True
    ),
    "reads from nowhere": Ending(
        lambda: ctypes.string_at(0), "WORKER_LOST", "signal 11 (SIGSEGV)", kills=True
    ),
    "aborts": Ending(os.abort, "WORKER_LOST", "signal 6 (SIGABRT)", kills=True),
    "sends itself SIGTERM": Ending(_signal_itself(signal.SIGTERM), "WORKER_LOST", " 15 ", kills=True),
    "sends itself SIGKILL": Ending(
        _signal_itself(signal.SIGKILL), "WORKER_LOST", "signal 9 (SIGKILL)", kills=True
    ),
}
"""Those that end by themselves, by what the node does."""

ENDLESS = {
    "never returns": Ending(lambda: time.sleep(600), "TIMEOUT", "longer than its timeout"),
    "never returns and ignores signals": Ending(_ignore_everything, "TIMEOUT", "longer than its timeout"),
    "never returns to Python": Ending(_hold_the_interpreter, "TIMEOUT", "longer than its timeout"),
}
"""Those that do not; their node has a timeout."""
