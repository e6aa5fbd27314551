"""The demo's workers and Flower: started with it, watched, and gone when it is gone.

Each is a process group of its own. So Ctrl-C on the terminal reaches the demo alone, which then ends them in
order; and what one of them forked ends with it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from workflow_engine.errors import WorkflowEngineError

STOP_PATIENCE = 3.0
"""Seconds a process may take to end by itself: plenty for a node of the demo.

A busy pool of Celery can miss the last result while it shuts down, and then sits there for 30.
"""

LINES_QUOTED = 15
PR_SET_PDEATHSIG = 1


class DemoFailed(WorkflowEngineError):
    """The demo cannot go on; the message says why and what to do."""


class Interrupted(Exception):
    """Somebody told the demo to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


class Interruption:
    """While it is entered, SIGINT, SIGTERM and SIGHUP only leave a note, which `check` and `pause` read.

    An exception that a signal raises anywhere could hit the line between starting a process and
    remembering it, or the clearing up itself.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Interrupted as soon as a signal comes."""
        deadline = time.monotonic() + seconds
        self.check()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
            self.check()

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = self.signum or signum


@dataclass
class Processes:
    """Programs that run in `folder`, with this environment, until `stop`."""

    folder: Path
    environment: Mapping[str, str]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program under a name; what it prints goes to a log in the folder."""
        with self._log_of(name).open("wb") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own command lines only
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=dict(self.environment),
                start_new_session=True,
                preexec_fn=functools.partial(_end_with, os.getpid()),  # noqa: PLW1509 - it takes no lock
            )

    def pid(self, name: str) -> int:
        """The process id of a program that was started under this name."""
        return self._running[name].pid

    def check(self) -> None:
        """Raises DemoFailed, with its last words, if one has ended by itself."""
        for name, process in self._running.items():
            if (status := process.poll()) is not None:
                raise DemoFailed(f"{name} ended by itself, with status {status}\n{self.last_words(name)}")

    def log(self, name: str) -> str:
        return self._log_of(name).read_text(errors="replace")

    def last_words(self, *names: str) -> str:
        """The ends of the logs of these processes, of all if none is named."""
        quoted = []
        for name in names or self._running:
            lines = self.log(name).splitlines()[-LINES_QUOTED:]
            quoted.append("\n".join([f"The end of the log of {name}:", *(f"  {line}" for line in lines)]))
        return "\n".join(quoted)

    def name_of(self, worker: str) -> str:
        """`worker1:4711` for a journal's `host:4711` if that is a process of worker1; else as it is.

        A process that has ended is known only if it was asked for while it lived.
        """
        if worker not in self._names:
            self._names[worker] = self._look_up(worker)
        return self._names[worker]

    def stop(self) -> None:
        """End all of them: SIGTERM, which lets workers finish the nodes they run, then SIGKILL."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_PATIENCE
        while any(process.poll() is None for process in self._running.values()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for process in self._running.values():
            _kill_group(process)
        self._running.clear()

    def _look_up(self, worker: str) -> str:
        host, _, pid = worker.rpartition(":")
        if host == socket.gethostname() and pid.isdecimal():
            try:
                group = os.getpgid(int(pid))
            except ProcessLookupError:
                return worker
            for name, process in self._running.items():
                if process.pid == group:
                    return f"{name}:{pid}"
        return worker

    def _log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # it has ended, and everything it forked
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_with(demo: int) -> None:
    """SIGKILL leaves the demo no time to stop anything: on Linux the kernel then does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != demo:  # it was gone before we could ask for the signal
            os._exit(1)
