"""A stage: workers in processes on empty servers, and orders that come in while things break.

Each fault gets a stage of its own and may break anything on it. Leaving the stage ends every worker and
removes every file, in any state that the fault left them in.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg2

from faults.effects import Effect, effects_in, running_in
from faults.fault import Scale
from faults.record import Record, query
from faults.servers import Servers
from faults.workload import FOLDER_VARIABLE, ORDER, PACE_VARIABLE, workflows
from support.fleet import Fleet
from support.repository import ROOT, TESTS
from support.worker_processes import Worker
from workflow_engine import Settings, WorkflowClient
from workflow_engine.embedded.lifetime import ScratchFolder
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import WorkflowEngineError

PYTHON_PATH = os.pathsep.join(map(str, (TESTS, ROOT)))
"""Where the processes of the suite find it and what it tests."""
UNFINISHED = "SELECT id::text FROM executions WHERE status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
LAST_ROWS, LAST_LINES = 4, 6


class Stage:
    """Workers and a database of their own, from `with Stage.opened(scale, servers)` on until its end."""

    def __init__(self, scale: Scale, servers: Servers, fleet: Fleet) -> None:
        self.scale = scale
        self.servers = servers
        self.fleet = fleet
        self.settings = fleet.settings
        self.folder = fleet.folder
        self.ended_by_themselves = 0
        """Workers that a supervisor had to start again though no fault had ended them."""

    @classmethod
    @contextmanager
    def opened(cls, scale: Scale, servers: Servers) -> Iterator[Self]:
        """Start the servers again, without workers yet. At the end, kill workers and remove all files."""
        with ExitStack() as undo:
            scratch = ScratchFolder({})
            undo.callback(scratch.leave)
            settings = Settings(
                database_url=servers.renew(),
                **servers.topology.settings,
                imports=("faults.workload",),
                **scale.settings,
            )
            fleet = Fleet(settings, scratch.data)
            undo.callback(fleet.kill)
            stage = cls(scale, servers, fleet)
            for workflow in workflows(scale.walk):
                stage.client.deploy(workflow)
            yield stage

    @property
    def client(self) -> WorkflowClient:
        return self.fleet.client

    @property
    def engine(self) -> Engine:
        return self.fleet.engine

    @property
    def redis(self) -> Any:
        return self.fleet.redis

    def rows(self, statement: str) -> Any:
        """Return the rows that Postgres returns."""
        return self.fleet.engine.database.rows(statement)

    @property
    def workers(self) -> Sequence[Worker]:
        return self.fleet.workers

    # -- workers --------------------------------------------------------------------------------------------

    def add_workers(
        self,
        count: int,
        processes: int | None = None,
        *,
        app: str | None = None,
        pace: str | None = None,
    ) -> None:
        """Start prefork workers side by side, and wait until they take messages."""
        added = [
            self.fleet.add_worker(
                f"worker{len(self.workers) + 1}",
                app=app or self.servers.topology.app,
                concurrency=processes or self.scale.processes,
                PYTHONPATH=PYTHON_PATH,
                **{FOLDER_VARIABLE: str(self.folder), PACE_VARIABLE: pace or self.scale.pace},
            )
            for _ in range(count)
        ]
        for worker in added:
            worker.ready()

    def supervise(self) -> None:
        """Restart workers that have ended, as a supervisor would."""
        for worker in self.workers:
            if worker.container.status != "running":
                self.ended_by_themselves += 1
                worker.container.start()

    def running_in(self, worker: Worker) -> list[Effect]:
        """Return the runs that are going on in a worker."""
        return running_in(effects_in(self.folder), pool_processes([worker]), time.time())

    def wait_until_busy(self, worker: Worker, timeout: float) -> None:
        """Wait until a worker runs a node, for up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.running_in(worker) and time.monotonic() < deadline:
            time.sleep(0.02)

    # -- what happened ---------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        return [row["id"] for row in query(self.settings.database_url, UNFINISHED)]

    def wait_for_the_end(self, timeout: float | None = None) -> None:
        """Wait until every execution has ended, for up to `timeout` seconds; the verdict reports the rest."""
        deadline = time.monotonic() + (timeout or self.scale.timeout)
        while time.monotonic() < deadline:
            self.supervise()
            try:
                if not self.unfinished():
                    return
            except psycopg2.OperationalError:
                pass  # it is being recovered
            time.sleep(0.2)

    def deadlocks(self) -> int:
        """Return how many deadlocks Postgres has broken since its statistics were last lost in a crash."""
        (row,) = query(self.settings.database_url, DEADLOCKS)
        return int(row["deadlocks"])

    def record(self) -> Record:
        return Record.read(self.settings.database_url, self.folder)

    def story_of(self, record: Record, execution_id: str) -> str:
        """Return the status of an execution, why it does not move, its last journal rows and log lines."""
        row = record.executions.get(execution_id)
        journal = [f"  journal {entry}" for entry in record.journal.get(execution_id, [])[-LAST_ROWS:]]
        logged = [f"  {line}" for line in self.fleet.lines(execution_id)[-LAST_LINES:]]
        head = f"{execution_id}: {row.status if row else 'does not exist'}"
        return "\n".join([head, f"  {self._explained(execution_id)}", *journal, *logged])

    def _explained(self, execution_id: str) -> str:
        try:
            explanation = self.client.explain(execution_id)
        except WorkflowEngineError as error:
            return f"cannot be explained: {error}"
        return f"{explanation.code}: {explanation.sentence} {json.dumps(explanation.evidence)}"


class Load:
    """Orders that come in while things break, spread evenly over some seconds, or all at once.

    A `start` that raises is retried with the same idempotency key, as a careful producer would, until the
    load is left; `started` holds the executions that were returned.
    """

    def __init__(
        self, stage: Stage, count: int, over: float = 0.0, workflow_id: str = ORDER, first: int = 0
    ) -> None:
        self.started: set[str] = set()
        self._stage, self._over, self._workflow_id = stage, over, workflow_id
        self._numbers = range(first, first + count)
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._ended = threading.Event()
        self.refusals = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.join(0 if kind else self._over + self._stage.scale.timeout)
        self._ended.set()

    def _run(self) -> None:
        began = time.monotonic()
        for place, number in enumerate(self._numbers):
            pause = began + self._over * place / len(self._numbers) - time.monotonic()
            if self._ended.wait(max(0.0, pause)):
                return
            self._start(number)

    def _start(self, number: int) -> None:
        while not self._ended.is_set():
            try:
                started = self._stage.client.start(
                    self._workflow_id,
                    {"number": number},
                    idempotency_key=f"{self._workflow_id}-{number}",
                )
            except WorkflowEngineError:
                self.refusals += 1
                time.sleep(0.2)
            else:
                self.started.add(started.id)
                return


def pool_processes(workers: Collection[Worker]) -> list[int]:
    """Return the processes of these workers' pools, as they are now."""
    alive = [worker for worker in workers if worker.container.status == "running"]
    return list(itertools.chain.from_iterable(worker.pool_pids for worker in alive))
