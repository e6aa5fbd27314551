"""What benchmarks run on: durable servers of their own, and workers as the README starts them.

The servers are the embedded ones with nothing switched off that keeps data through a crash. The workers are
processes with Celery's defaults, gossip and heartbeats included, because that is what a team runs.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

import click
import redis

from workflow_engine import WorkflowClient, migrations
from workflow_engine.demo.processes import Processes
from workflow_engine.dispatch import producer_app
from workflow_engine.embedded import EmbeddedServers
from workflow_engine.embedded.lifetime import ScratchFolder
from workflow_engine.engine import Engine
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

START_PATIENCE = 30.0

Answer = TypeVar("Answer")


class BenchmarkFailed(Exception):
    """There is nothing to report; the message says why."""


class Fleet:
    """Postgres, Redis and workers, from `with Fleet()` on until its end; and the producer's view of them."""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.servers = undo.enter_context(EmbeddedServers(durable=True))
            self.settings = Settings(database_url=self.servers.database_url, redis_url=self.servers.redis_url)
            self.redis = redis.Redis.from_url(self.settings.redis_url, decode_responses=True)
            undo.callback(self.redis.close)
            scratch = ScratchFolder({})
            undo.callback(scratch.remove)
            self._processes = Processes(scratch.data, self._environment(scratch))
            undo.callback(self._processes.stop)
            migrations.upgrade(self.settings.database_url, self.settings.database_schema)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    @functools.cached_property
    def engine(self) -> Engine:
        return Engine.assemble(self.settings)

    @functools.cached_property
    def client(self) -> WorkflowClient:
        return WorkflowClient(engine=self.engine)

    def _environment(self, scratch: ScratchFolder) -> dict[str, str]:
        return {
            **os.environ,
            f"{ENVIRONMENT_PREFIX}DATABASE_URL": self.settings.database_url,
            f"{ENVIRONMENT_PREFIX}REDIS_URL": self.settings.redis_url,
            "TMPDIR": str(scratch.data),  # what a worker leaves there is removed with ours
            "PYTHONUNBUFFERED": "1",
        }

    def start_workers(self, *names: str, concurrency: int = 2) -> dict[str, int]:
        """Start workers and wait until they take messages; the ids of their main processes by name."""
        command = [sys.executable, "-m", "celery", "-A", "workers", "worker", "--loglevel", "WARNING"]
        for name in names:
            hostname = ["--hostname", f"{name}@%h", "--concurrency", str(concurrency)]
            self._processes.start(name, [*command, *hostname])
        control = producer_app(self.settings).control

        def all_answer() -> bool:
            answers = {worker for answer in control.ping(timeout=0.5) for worker in answer}
            return {worker.partition("@")[0] for worker in answers} >= set(names)

        self.wait_until(all_answer, START_PATIENCE, "the workers take messages")
        return {name: self._processes.pid(name) for name in names}

    def wait_until(self, condition: Callable[[], Answer], patience: float, what: str) -> Answer:
        """Ask twice a second until the answer is true, and give it. Raises BenchmarkFailed."""
        deadline = time.monotonic() + patience
        while not (answer := condition()):
            self._processes.check()
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"not within {patience:g} s: {what}\n{self._processes.last_words()}")
            time.sleep(0.5)
        return answer


def tell(line: str) -> None:
    """Say what is being done, to whoever waits for it; it is no part of the result."""
    click.echo(f"  {time.strftime('%H:%M:%S')} {line}", err=True)
