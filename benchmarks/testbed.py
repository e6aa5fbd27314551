"""What benchmarks run on: durable servers of their own, and workers as the README starts them.

The servers are the embedded ones, with full durability. The workers are processes with Celery's defaults,
gossip and heartbeats included, as a team runs them.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import click
import redis
from celery import Celery
from celery.utils.nodenames import gethostname, nodename

from workflow_engine import WorkflowClient
from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.demo.processes import Processes
from workflow_engine.embedded import EmbeddedServers
from workflow_engine.embedded.lifetime import ScratchFolder
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres import migrations
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

WORKER, PROCESSES = "worker", 2
"""The worker that most benchmarks use, on the engine's default queue, and the size of its pool."""

FLOWER = "flower"
"""The process that serves the pages."""

START_TIMEOUT = 30.0

Answer = TypeVar("Answer")


class BenchmarkFailed(Exception):
    """There are no figures; the message has the reason."""


class Testbed:
    """Postgres, Redis and workers inside `with Testbed()`, and the producer's view of them.

    A testbed that `keeps_workers` reuses a worker of the same name and ends them all at its own end, because
    a worker takes seconds to start and to stop.
    """

    def __init__(self, *, keeps_workers: bool = False) -> None:
        self._keeps_workers = keeps_workers

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.servers = undo.enter_context(EmbeddedServers(durable=True))
            self.settings = Settings(database_url=self.servers.database_url, redis_url=self.servers.redis_url)
            self.redis = redis.Redis.from_url(self.settings.redis_url, decode_responses=True)
            undo.callback(self.redis.close)
            scratch = ScratchFolder({})
            undo.callback(scratch.leave)
            self._folder = scratch.data
            self._workers: dict[str, Processes] = {}
            migrations.upgrade(self.settings.database_url, self.settings.database_schema)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_workers(list(self._workers))
        self._undo.close()

    @functools.cached_property
    def engine(self) -> Engine:
        return Engine.assemble(self.settings)

    @functools.cached_property
    def client(self) -> WorkflowClient:
        return WorkflowClient(engine=self.engine)

    def rows(self, statement: str) -> Any:
        """Return the rows that Postgres returns."""
        return self.engine.database.rows(statement)

    def execute(self, statement: str) -> None:
        """Execute a statement that returns no rows."""
        self.engine.database.rows(statement)

    def settings_over(self, broker_url: str) -> Settings:
        """Return the settings with another broker; an empty URL stands for the Redis of the contexts."""
        return self.settings.model_copy(update={"broker_url": broker_url})

    def redis_database(self, number: int) -> str:
        """Return the URL of another database of the same Redis; the engine's is 0."""
        return urlsplit(self.settings.redis_url)._replace(path=f"/{number}").geturl()

    def scratch_file(self, name: str) -> Path:
        """Return a path for a file that all processes may write to and that is removed with the testbed."""
        return self._folder / name

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            f"{ENVIRONMENT_PREFIX}DATABASE_URL": self.settings.database_url,
            f"{ENVIRONMENT_PREFIX}REDIS_URL": self.settings.redis_url,
            f"{ENVIRONMENT_PREFIX}IMPORTS": "benchmarks.nodes,benchmarks.raw_celery",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "TMPDIR": str(self._folder),  # removed with ours
            "PYTHONUNBUFFERED": "1",
        }

    def start_workers(
        self,
        *names: str,
        concurrency: int = PROCESSES,
        app: str = "workflow_engine.worker",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        broker_url: str = "",
    ) -> dict[str, int]:
        """Start workers and wait until they take messages. Return the ids of their main processes by name.

        `broker_url` is that of another broker than the Redis of the contexts.
        """
        new = [name for name in names if name not in self._workers]
        broker = {f"{ENVIRONMENT_PREFIX}BROKER_URL": broker_url} if broker_url else {}
        for name in new:
            command = [*_worker_command(app, name, concurrency), *options]
            self._start(name, command, {**broker, **(environment or {})})
        if new:
            self._wait_for_workers(producer_app(self.settings_over(broker_url)), new)
        return {name: self._workers[name].pid(name) for name in names}

    def start_raw_worker(
        self, name: str, app: Celery, concurrency: int, options: Sequence[str] = (), **environment: str
    ) -> int:
        """Start a worker of `raw_celery` for the servers of this app. Return the id of its main process."""
        if name in self._workers:
            return self._workers[name].pid(name)
        servers = {"CELERY_BROKER_URL": app.conf.broker_url}
        if app.conf.result_backend:
            servers["CELERY_RESULT_BACKEND"] = app.conf.result_backend
        command = [*_worker_command("benchmarks.raw_celery", name, concurrency), *options]
        self._start(name, command, {**servers, **environment})
        self._wait_for_workers(app, [name])
        return self._workers[name].pid(name)

    def start_flower(self, user: tuple[str, str]) -> tuple[str, int]:
        """Start Flower with the pages for one user. Return its address and the id of its process."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
        options = ["--address=127.0.0.1", f"--port={port}", f"--basic-auth={':'.join(user)}"]
        command = [sys.executable, "-m", "celery", "-A", "workflow_engine.worker", "flower", *options]
        self._start(FLOWER, [*command, "--enable-events=False"], {})
        address = f"http://127.0.0.1:{port}"
        self.wait_until(lambda: _listens(port), START_TIMEOUT, "Flower listens")
        return address, self._workers[FLOWER].pid(FLOWER)

    def running_workers(self) -> dict[str, int]:
        """Return the ids of the main processes of all workers by name, also of those that are kept."""
        return {name: one.pid(name) for name, one in self._workers.items() if name != FLOWER}

    def stop_workers(self, *names: str) -> None:
        """Stop these workers, unless the testbed keeps them."""
        if not self._keeps_workers:
            self._end_workers(names)

    def _end_workers(self, names: Sequence[str]) -> None:
        ended = [self._workers.pop(name) for name in names]
        with ThreadPoolExecutor() as at_once:  # a busy worker takes seconds to end
            list(at_once.map(Processes.stop, ended))

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        processes = Processes(self._folder, {**self._environment(), **environment})
        self._workers[name] = processes
        processes.start(name, command)

    def _wait_for_workers(self, app: Celery, names: Sequence[str]) -> None:
        # By their full names, or Celery would wait for more replies until the timeout.
        workers = list(map(full_name, names))

        def all_reply() -> bool:
            return len(app.control.ping(workers, timeout=0.5)) >= len(workers)

        self.wait_until(all_reply, START_TIMEOUT, "the workers take messages")

    def wait_until(self, condition: Callable[[], Answer], timeout: float, what: str) -> Answer:
        """Poll a condition twice a second until it is true, and return its value. Raises BenchmarkFailed."""
        deadline = time.monotonic() + timeout
        while not (answer := condition()):
            for worker in self._workers.values():
                worker.check()
            if time.monotonic() > deadline:
                raise BenchmarkFailed("\n".join([f"not within {timeout:g} s: {what}", self.log_ends()]))
            time.sleep(0.5)
        return answer

    def log_ends(self) -> str:
        """Return the last log lines of all workers."""
        return "\n".join(worker.log_ends() for worker in self._workers.values())


def _listens(port: int) -> bool:
    with socket.socket() as connecting:
        return connecting.connect_ex(("127.0.0.1", port)) == 0


def full_name(worker: str) -> str:
    """Return Celery's full name of a worker."""
    return str(nodename(worker, gethostname()))


def _worker_command(app: str, name: str, concurrency: int) -> list[str]:
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "WARNING"]
    return [*command, "--hostname", f"{name}@%h", "--concurrency", str(concurrency)]


def print_step(line: str) -> None:
    """Print the current step to stderr; it is no part of the result."""
    click.echo(f"  {time.strftime('%H:%M:%S')} {line}", err=True)
