"""Celery workers as real processes that tests start, freeze and kill, behind pytest-celery's vocabulary.

pytest-celery's nodes ask a container for a handful of things, and a process can provide all of them; so
neither Docker nor an image is needed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from pytest_celery import CeleryTestBroker, CeleryTestWorker

from support.polling import poll
from workflow_engine.embedded import EmbeddedRedis

PR_SET_PDEATHSIG = 1
START_TIMEOUT, STOP_TIMEOUT = 60.0, 20.0


class WorkerProcess:
    """A worker's main process and its pool, with as much of a container's interface as pytest-celery uses."""

    celeryconfig: Mapping[str, Any] = {}

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._command = command
        self._folder = folder
        self._environment = environment
        self._log = folder / f"{name}.log"
        self._began = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._began = len(self.logs())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=dict(self._environment),
                start_new_session=True,  # a process group of its own, to be frozen as a whole
                preexec_fn=_die_with_the_tests,  # noqa: PLW1509 - it takes no lock
            )

    def ready(self) -> bool:
        """Wait until the worker takes messages. Raises AssertionError if it ends before that."""
        poll(
            lambda: self.status != "running" or " ready." in self.logs()[self._began :],
            f"worker {self.name} is ready",
            timeout=START_TIMEOUT,
        )
        assert self.status == "running", f"worker {self.name} ended at once:\n{self.logs()}"
        return True

    @property
    def pid(self) -> int:
        assert self._process is not None, f"worker {self.name} was never started"
        return self._process.pid

    @property
    def id(self) -> str:
        return str(self.pid)

    @property
    def status(self) -> str:
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    def reload(self) -> None:
        """Do nothing: the state of a process is always current."""

    def logs(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to the main process; its pool does not outlive it."""
        os.kill(self.pid, _number(signal))

    def kill_group(self, signum: signal.Signals) -> None:
        os.killpg(self.pid, signum)

    def wait(self, timeout: float) -> int:
        """Wait for the exit status, and return it. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout)

    def restart(self, timeout: float = STOP_TIMEOUT) -> None:
        self.teardown()
        self.start()
        self.ready()

    def teardown(self) -> None:
        if self.status != "running":
            return
        self.kill_group(signal.SIGCONT)
        self.kill(signal.SIGTERM)
        try:
            self.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill_group(signal.SIGKILL)
            self.wait(STOP_TIMEOUT)


class Worker(CeleryTestWorker):  # type: ignore[misc]  # pytest-celery's types follow its containers
    """A worker of the cluster: pytest-celery's `kill`, `restart`, `logs`, and what only processes can do."""

    container: WorkerProcess

    @property
    def pid(self) -> int:
        return self.container.pid

    @property
    def pool_pids(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.pid).children()}

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """End it as an orchestrator would (SIGTERM), and return its exit status."""
        self.kill("SIGTERM")
        return self.container.wait(timeout)

    def freeze(self) -> None:
        """Stop all its processes where they are, as a paused machine would (SIGSTOP)."""
        self.container.kill_group(signal.SIGSTOP)

    def thaw(self) -> None:
        self.container.kill_group(signal.SIGCONT)

    def lines(self, *parts: str) -> list[str]:
        """Return the lines of its log that hold all of the parts."""
        return [line for line in self.logs().splitlines() if all(part in line for part in parts)]


class RedisProcess:
    """An embedded Redis, with as much of a container's interface as pytest-celery uses."""

    name = "redis"
    status = "running"

    def __init__(self, server: EmbeddedRedis) -> None:
        self._server = server

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self._server.url, "host_url": self._server.url}

    def ready(self) -> bool:
        return True

    def reload(self) -> None:
        """Do nothing: the state of a process is always current."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self._server.kill()

    def restart(self, timeout: float = STOP_TIMEOUT) -> None:
        self._server.restart()

    def teardown(self) -> None:
        self._server.stop()


def embedded_broker() -> CeleryTestBroker:
    """Start a Redis of a test's own, which it may kill and restart."""
    return CeleryTestBroker(RedisProcess(EmbeddedRedis().start()))


def _number(name: str | int) -> int:
    return signal.Signals[name] if isinstance(name, str) else name


_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _die_with_the_tests() -> None:
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
