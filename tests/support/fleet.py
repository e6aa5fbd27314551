"""Celery workers with one Postgres and one Redis, and the producer's view of them.

A `Fleet` has a folder in which the nodes of the tests record what they did.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from support.json_lines import lines_of
from support.nodes.recorded import FOLDER_VARIABLE, RUNS, TASKS
from support.polling import TIMEOUT, poll
from support.repository import TESTS
from support.worker_processes import STOP_TIMEOUT, Worker, WorkerProcess
from workflow_engine import Execution, ExecutionStatus, NodeExecution, Settings, WorkflowClient
from workflow_engine.addresses.redis import SEVERAL
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.redis.client import connect_redis
from workflow_engine.settings import ENVIRONMENT_PREFIX

BOTH_WAYS = pytest.mark.parametrize("celery_internals", [True, False], ids=["private parts", "celery's own"])
"""Runs a test with private parts of Celery and kombu in use, and without."""


@dataclass(frozen=True)
class Run:
    """One call of a node's function, as the node recorded it."""

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
        is_one_server = settings.redis_address.scheme not in SEVERAL
        self.redis = redis.Redis.from_url(settings.redis_url) if is_one_server else connect_redis(settings)

    @functools.cached_property
    def engine(self) -> Engine:
        return Engine.assemble(self.settings)

    @functools.cached_property
    def client(self) -> WorkflowClient:
        return WorkflowClient(engine=self.engine)

    def add_worker(
        self,
        name: str,
        *options: str,
        app: str = "workflow_engine.worker",
        concurrency: int = 2,
        program: Sequence[str] = (sys.executable, "-m", "celery"),
        **environment: str,
    ) -> Worker:
        """Start a worker, and do not wait for it: `ready()` does."""
        command = [*program, "-A", app, "worker", "-n", f"{name}@%h", "-l", "INFO"]
        command += ["-c", str(concurrency), "--without-gossip", "--without-mingle", *options]
        process = WorkerProcess(name, command, self.folder, self._environment() | environment)
        process.start()
        self.workers.append(Worker(process, None))
        return self.workers[-1]

    def add_workers(self, *names: str, app: str = "workflow_engine.worker", concurrency: int = 2) -> None:
        """Start workers side by side, and wait until all of them are ready."""
        added = [self.add_worker(name, app=app, concurrency=concurrency) for name in names]
        for worker in added:
            worker.ready()

    def program(self, name: str, *command: str) -> WorkerProcess:
        """Start another program with the settings of the fleet, and do not wait for it."""
        process = WorkerProcess(name, command, self.folder, self._environment())
        process.start()
        return process

    def worker_of(self, run: Run) -> Worker:
        """Return the worker in one of whose processes this run takes place."""
        return next(worker for worker in self.workers if run.process in worker.pool_pids)

    def end(self) -> None:
        """End the workers as an orchestrator would: with SIGTERM, then SIGKILL if they do not end."""
        for worker in self.workers:
            if worker.container.status == "running":
                worker.kill("SIGTERM")  # to all of them before waiting for one
        for worker in self.workers:
            worker.teardown()
        self.redis.close()

    def kill(self) -> None:
        """Kill the workers: their work is not needed."""
        for worker in self.workers:
            if worker.container.status == "running":
                worker.container.kill_group(signal.SIGKILL)
                worker.container.wait(STOP_TIMEOUT)
        self.redis.close()

    def wipe_redis(self) -> None:
        """Remove everything at once, as a FLUSHALL or an empty replica would: contexts, locks and queues."""
        script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end"
        self.redis.eval(script, 0, f"{self.settings.key_prefix}*")

    def keys(self) -> set[str]:
        """Return the names of all keys in Redis, including the broker's."""
        return {
            key.decode() for key in self.redis.scan_iter(match=f"{self.settings.key_prefix}*", count=1000)
        }

    def engine_keys(self) -> set[str]:
        """Return the names of the engine's own keys in Redis."""
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
            "TMPDIR": str(self.folder),  # a killed worker may leave something
            "PYTHONPATH": str(TESTS),
            "PYTHONUNBUFFERED": "1",
        }

    # -- what producers and operators do ---------------------------------------------------------------------

    def start(self, workflow_id: str, data: Any = None) -> str:
        return self.client.start(workflow_id, data).id

    def completed(self, execution_id: str, timeout: float = TIMEOUT) -> Execution:
        """Wait for the end of an execution that has to complete."""
        execution = self.client.wait(execution_id, timeout)
        assert execution.status is ExecutionStatus.COMPLETED, f"{execution.status}: {execution.error}"
        return execution

    def failed(self, execution_id: str, timeout: float = TIMEOUT) -> Execution:
        """Wait for the end of an execution that has to fail."""
        execution = self.client.wait(execution_id, timeout)
        assert execution.status is ExecutionStatus.FAILED, str(execution.status)
        return execution

    def journal(self, execution_id: str) -> Sequence[NodeExecution]:
        return self.client.journal(execution_id)

    def resume(self, execution_id: str, timeout: float = TIMEOUT) -> None:
        """Send what is due of a stalled execution, as soon as its lock is free."""
        poll(
            lambda: self.engine.executor.resume_execution(execution_id),
            f"execution {execution_id} can be resumed",
            timeout=timeout,
        )

    def deliver(self, execution_id: str, workflow_id: str, node_id: str, seq: int, copies: int = 1) -> None:
        """Publish messages for a node as the engine would."""
        message = HopMessage(execution_id, workflow_id, 1, node_id, seq)
        dispatch = Dispatch(message, self.settings.queue, self.settings.node_priority)
        self.engine.dispatcher.publish([dispatch] * copies)

    # -- what really happened --------------------------------------------------------------------------------

    def runs(self, execution_id: str, node_id: str | None = None) -> list[Run]:
        """Return the calls of nodes' functions, in the order in which they began."""
        all_runs = [Run(**fields) for fields in lines_of(self.folder / RUNS)]
        of_execution = [run for run in all_runs if run.execution_id == execution_id]
        return [run for run in of_execution if node_id in (None, run.node_id)]

    def tasks(self, execution_id: str) -> int:
        """Return how many Celery tasks ran for an execution."""
        return sum(fields["execution_id"] == execution_id for fields in lines_of(self.folder / TASKS))

    def begun(self, execution_id: str, node_id: str, times: int = 1, timeout: float = TIMEOUT) -> Run:
        """Wait until a node has begun to run for the n-th time."""
        return poll(
            lambda: self.runs(execution_id, node_id)[times - 1 :],
            f"node {node_id} of execution {execution_id} has begun to run {times} times",
            timeout=timeout,
        )[0]

    def open_gate(self, execution_id: str, node_id: str) -> None:
        """Let a gated node end."""
        (self.folder / f"{execution_id}.{node_id}.open").touch()

    def lines(self, *parts: str) -> list[str]:
        """Return the lines of all workers' logs that hold all of the parts."""
        return [line for worker in self.workers for line in worker.lines(*parts)]

    def keys_of(self, execution_id: str) -> list[str]:
        """Return the names of the keys in Redis that belong to an execution."""
        return sorted(key for key in self.keys() if execution_id in key)
