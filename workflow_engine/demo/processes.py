"""The demo's workers and Flower: started with it, watched, and ended with it.

Each is a process group of its own. So Ctrl-C on the terminal reaches only the demo, which then ends them in
order, each with all the processes that it forked.
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

STOP_TIMEOUT = 3.0
"""Seconds a process may take to exit by itself: plenty for a node of the demo.

A busy pool of Celery can miss the last result while it shuts down, and then waits for 30.
"""

LINES_QUOTED = 15
PR_SET_PDEATHSIG = 1


class DemoFailed(WorkflowEngineError):
    """The demo cannot continue; the message says why and what to do."""


class Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


class Interruption:
    """Records SIGINT, SIGTERM and SIGHUP while it is entered; only `check` and `pause` raise for them.

    An exception that a signal raised anywhere could hit the line between starting a process and recording
    it, or the clean-up itself.
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
        """Raise Interrupted if a signal has come."""
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
    """Programs with this environment and their logs in `folder`.

    They run in `working_folder`, or else in `folder` too.
    """

    folder: Path
    environment: Mapping[str, str]
    working_folder: Path | None = None
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program under a name, with its output in a log in the folder."""
        with self._log_of(name).open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own command lines only
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.working_folder or self.folder,
                env=dict(self.environment),
                start_new_session=True,
                preexec_fn=functools.partial(_end_with, os.getpid()),  # noqa: PLW1509 - it takes no lock
            )

    def pid(self, name: str) -> int:
        """Return the process id of the program started under this name."""
        return self._running[name].pid

    def check(self) -> None:
        """Raise DemoFailed, with the end of its log, if a program has exited by itself."""
        for name, process in self._running.items():
            if (status := process.poll()) is not None:
                raise DemoFailed(f"{name} exited by itself, with status {status}\n{self.log_ends(name)}")

    def log(self, name: str) -> str:
        """Return the log of a program."""
        return self._log_of(name).read_text(encoding="utf-8", errors="replace")

    def log_ends(self, *names: str) -> str:
        """Return the last lines of the logs of these programs, or of all if none is named."""
        quoted = []
        for name in names or self._running:
            lines = self.log(name).splitlines()[-LINES_QUOTED:]
            quoted.append("\n".join([f"The end of the log of {name}:", *(f"  {line}" for line in lines)]))
        return "\n".join(quoted)

    def name_of(self, worker: str) -> str:
        """Return `worker1:4711` for a journal's `host:4711` that is a process of worker1, else the same name.

        A process that has exited is found only if it was looked up while it lived.
        """
        if worker not in self._names:
            self._names[worker] = self._look_up(worker)
        return self._names[worker]

    def status(self, name: str) -> int | None:
        """Return the exit status of a program; None while it runs."""
        return self._running[name].poll()

    def stop(self, *names: str) -> None:
        """End these programs, or all: SIGTERM, which lets workers finish their nodes, then SIGKILL."""
        ending = [self._running.pop(name) for name in names or tuple(self._running)]
        for process in ending:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(process.poll() is None for process in ending):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for process in ending:
            _kill_group(process)

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
    with suppress(ProcessLookupError):  # it has exited, with everything that it forked
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_with(demo: int) -> None:
    """Have the kernel, on Linux, kill this process if the demo is killed, which cannot do so itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != demo:  # the demo died before the signal was requested
            os._exit(1)
