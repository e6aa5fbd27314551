"""A Celery worker as a process group that tests start, freeze and kill, without containers.

pytest-celery's nodes and clusters ask a container for a handful of things; a process can answer all of
them. So its vocabulary serves here, and neither Docker nor an image is needed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pytest_celery import CeleryTestWorker

PR_SET_PDEATHSIG = 1
READY = " ready."
START_PATIENCE = 20.0
STOP_PATIENCE = 10.0

Answer = TypeVar("Answer")


def poll(condition: Callable[[], Answer], timeout: float, description: str) -> Answer:
    """Ask until the answer is true, and give it. Raises AssertionError with the description after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {description}; last answer: {answer!r}")
        time.sleep(0.02)
    return answer


class WorkerProcess:
    """A worker's main process and its pool, with what pytest-celery asks of a container."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = command
        self.folder = folder
        self.environment = environment
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=dict(self.environment),
                start_new_session=True,  # the process group is what is stopped and killed
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def id(self) -> str:
        return str(self.pid)

    @property
    def status(self) -> str:
        return "exited" if self._process is None or self._process.poll() is not None else "running"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {}

    def logs(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ready(self) -> bool:
        """Wait until the worker takes messages. Raises AssertionError if it does not come so far."""
        began = self.logs().count(READY)
        poll(lambda: self.status == "exited" or READY in self.logs(), START_PATIENCE, f"{self.name} is ready")
        assert self.status == "running", f"{self.name} ended at once:\n{self.logs()}"
        return began >= 0

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to the main process alone."""
        os.kill(self.pid, _signal_number(signal))

    def kill_group(self, signum: signal.Signals) -> None:
        """Send a signal to the main process and its pool."""
        os.killpg(self.pid, signum)

    def wait(self, timeout: float) -> int:
        """The exit status, once there is one."""
        assert self._process is not None
        return self._process.wait(timeout)
