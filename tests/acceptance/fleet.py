"""Celery workers as real processes that tests start, freeze and kill, behind pytest-celery's vocabulary.

pytest-celery's nodes ask a container for a handful of things, and a process can answer all of them; so
neither Docker nor an image is needed. A `Fleet` is such workers with one Postgres, one Redis and a folder
in which the nodes of the tests write down what they did.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import redis
from json_lines import lines_of
from nodes import FOLDER_VARIABLE, RUNS, TASKS
from pytest_celery import CeleryTestBroker, CeleryTestWorker

from workflow_engine import Execution, ExecutionStatus, NodeExecution, Settings, WorkflowClient
from workflow_engine.dispatch import Dispatch, HopMessage
from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.engine import Engine
from workflow_engine.settings import ENVIRONMENT_PREFIX

HERE = Path(__file__).parent
PR_SET_PDEATHSIG = 1
START_PATIENCE, STOP_PATIENCE = 20.0, 10.0

Answer = TypeVar("Answer")


def poll(condition: Callable[[], Answer], timeout: float, description: str) -> Answer:
    """Ask until the answer is true, and give it. Raises AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {description}; the last answer was {answer!r}")
        time.sleep(0.02)
    return answer


class WorkerProcess:
    """A worker's main process and its pool, as far as pytest-celery asks a container about itself."""

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
            START_PATIENCE,
            f"worker {self.name} is ready",
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
        """Nothing to do: what is told about a process is never out of date."""

    def logs(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to the main process; its pool does not outlive it."""
        os.kill(self.pid, _number(signal))

    def kill_group(self, signum: signal.Signals) -> None:
        os.killpg(self.pid, signum)

    def wait(self, timeout: float) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout)

    def restart(self, timeout: float = STOP_PATIENCE) -> None:
        self.teardown()
        self.start()
        self.ready()

    def teardown(self) -> None:
        if self.status != "running":
            return
        self.kill_group(signal.SIGCONT)
        self.kill(signal.SIGTERM)
        try:
            self.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill_group(signal.SIGKILL)
            self.wait(STOP_PATIENCE)


class Worker(CeleryTestWorker):  # type: ignore[misc]  # pytest-celery's types follow its containers
    """A worker of the cluster: pytest-celery's `kill`, `restart`, `logs`, and what only processes can do."""

    container: WorkerProcess

    @property
    def pid(self) -> int:
        return self.container.pid

    @property
    def pool_pids(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.pid).children()}

    def terminate(self, timeout: float = STOP_PATIENCE) -> int:
        """Ask it to end as an orchestrator would (SIGTERM); its exit status."""
        self.kill("SIGTERM")
        return self.container.wait(timeout)

    def freeze(self) -> None:
        """Stop all its processes where they are, as a paused machine would (SIGSTOP)."""
        self.container.kill_group(signal.SIGSTOP)

    def thaw(self) -> None:
        self.container.kill_group(signal.SIGCONT)

    def lines(self, *parts: str) -> list[str]:
        """The lines of its log that hold all of the parts."""
        return [line for line in self.logs().splitlines() if all(part in line for part in parts)]


class RedisProcess:
    """An embedded Redis, as far as pytest-celery asks a container about itself."""

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
        """Nothing to do: what is told about a process is never out of date."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self._server.kill()

    def restart(self, timeout: float = STOP_PATIENCE) -> None:
        self._server.restart()

    def teardown(self) -> None:
        self._server.stop()


def embedded_broker() -> CeleryTestBroker:
    """A Redis of a test's own, which it may kill and restart."""
    return CeleryTestBroker(RedisProcess(EmbeddedRedis().start()))


@dataclass(frozen=True)
class Run:
    """One call of a node's function, as it wrote it down itself."""

    execution_id: str
    node_id: str
    key: str
    process: int


class Fleet:
    """Workers with one Postgres and one Redis, and the producer's view of them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.workers: list[Worker] = []
        self.redis = redis.Redis.from_url(settings.redis_url)

    @functools.cached_property
    def engine(self) -> Engine:
        return Engine.assemble(self.settings)

    @functools.cached_property
    def client(self) -> WorkflowClient:
        return WorkflowClient(engine=self.engine)

    def add_worker(
        self, name: str, *options: str, app: str = "workers", concurrency: int = 2, **environment: str
    ) -> Worker:
        """Start a worker, and do not wait for it: `ready()` does."""
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@%h", "-l", "INFO"]
        command += ["-c", str(concurrency), "--without-gossip", "--without-mingle", *options]
        process = WorkerProcess(name, command, self.folder, self._environment() | environment)
        process.start()
        self.workers.append(Worker(process, None))
        return self.workers[-1]

    def add_workers(self, *names: str, app: str = "workers", concurrency: int = 2) -> None:
        """Start workers side by side, and wait until all of them are ready."""
        added = [self.add_worker(name, app=app, concurrency=concurrency) for name in names]
        for worker in added:
            worker.ready()

    def worker_of(self, run: Run) -> Worker:
        """The worker in one of whose processes this run takes place."""
        return next(worker for worker in self.workers if run.process in worker.pool_pids)

    def end(self) -> None:
        """End the workers as an orchestrator would: told to, and killed if they do not listen."""
        for worker in self.workers:
            if worker.container.status == "running":
                worker.kill("SIGTERM")  # to all of them before waiting for one
        for worker in self.workers:
            worker.teardown()
        self.redis.close()

    def kill(self) -> None:
        """End the workers at once: nobody needs what they were doing."""
        for worker in self.workers:
            if worker.container.status == "running":
                worker.container.kill_group(signal.SIGKILL)
                worker.container.wait(STOP_PATIENCE)
        self.redis.close()

    def wipe_redis(self) -> None:
        """Remove everything at once, as a FLUSHALL or an empty replica would: contexts, locks and queues."""
        script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end"
        self.redis.eval(script, 0, f"{self.settings.key_prefix}*")

    def keys(self) -> set[str]:
        """The names of all keys in Redis, the broker's too."""
        return {
            key.decode() for key in self.redis.scan_iter(match=f"{self.settings.key_prefix}*", count=1000)
        }

    def engine_keys(self) -> set[str]:
        """The names of the engine's own keys in Redis."""
        kinds = tuple(f"{self.settings.key_prefix}{kind}:" for kind in ("execution", "lock"))
        return {key for key in self.keys() if key.startswith(kinds)}

    def _environment(self) -> dict[str, str]:
        of_settings = {
            f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value)
            for name, value in self.settings.model_dump(exclude_unset=True).items()
        }
        return {
            **os.environ,
            **of_settings,
            f"{ENVIRONMENT_PREFIX}IMPORTS": ",".join(self.settings.imports),
            FOLDER_VARIABLE: str(self.folder),
            "TMPDIR": str(self.folder),  # of a killed worker something may be left
            "PYTHONPATH": str(HERE),
            "PYTHONUNBUFFERED": "1",
        }

    # -- what producers and operators do ---------------------------------------------------------------------

    def start(self, workflow_id: str, data: Any = None) -> str:
        return self.client.start(workflow_id, data).id

    def completed(self, execution_id: str, timeout: float = 15.0) -> Execution:
        """Wait for the end of an execution that has to complete."""
        execution = self.client.wait(execution_id, timeout)
        assert execution.status is ExecutionStatus.COMPLETED, f"{execution.status}: {execution.error}"
        return execution

    def failed(self, execution_id: str, timeout: float = 15.0) -> Execution:
        """Wait for the end of an execution that has to fail."""
        execution = self.client.wait(execution_id, timeout)
        assert execution.status is ExecutionStatus.FAILED, str(execution.status)
        return execution

    def journal(self, execution_id: str) -> Sequence[NodeExecution]:
        return self.client.journal(execution_id)

    def resume(self, execution_id: str, timeout: float = 10.0) -> None:
        """Send what is due of an execution that stands still, as soon as its lock is free."""
        poll(
            lambda: self.engine.executor.resume_execution(execution_id),
            timeout,
            f"execution {execution_id} can be resumed",
        )

    def deliver(self, execution_id: str, workflow_id: str, node_id: str, seq: int, copies: int = 1) -> None:
        """Publish messages for a node as the engine would."""
        message = HopMessage(execution_id, workflow_id, 1, node_id, seq)
        dispatch = Dispatch(message, self.settings.queue, self.settings.node_priority)
        self.engine.dispatcher.publish([dispatch] * copies)

    # -- what really happened --------------------------------------------------------------------------------

    def runs(self, execution_id: str, node_id: str | None = None) -> list[Run]:
        """The calls of nodes' functions, in the order in which they began."""
        all_runs = [Run(**fields) for fields in lines_of(self.folder / RUNS)]
        of_execution = [run for run in all_runs if run.execution_id == execution_id]
        return [run for run in of_execution if node_id in (None, run.node_id)]

    def tasks(self, execution_id: str) -> int:
        """How many Celery tasks ran for an execution."""
        return sum(fields["execution_id"] == execution_id for fields in lines_of(self.folder / TASKS))

    def begun(self, execution_id: str, node_id: str, times: int = 1, timeout: float = 10.0) -> Run:
        """Wait until a node has begun to run for the n-th time."""
        return poll(
            lambda: self.runs(execution_id, node_id)[times - 1 :],
            timeout,
            f"node {node_id} of execution {execution_id} has begun to run {times} times",
        )[0]

    def open_gate(self, execution_id: str, node_id: str) -> None:
        """Let a gated node end."""
        (self.folder / f"{execution_id}.{node_id}.open").touch()

    def lines(self, *parts: str) -> list[str]:
        """The lines of all workers' logs that hold all of the parts."""
        return [line for worker in self.workers for line in worker.lines(*parts)]

    def keys_of(self, execution_id: str) -> list[str]:
        """The names of the keys in Redis that belong to an execution."""
        return sorted(key for key in self.keys() if execution_id in key)


def _number(name: str | int) -> int:
    return signal.Signals[name] if isinstance(name, str) else name


_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _die_with_the_tests() -> None:
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
