"""A stage: workers in processes on servers that hold nothing yet, and orders that come in meanwhile.

Each fault gets one of its own and may break anything on it. Leaving it ends every worker and removes
every file, whatever state the fault left them in.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg2
from fleet import HERE, Fleet, Worker

from faults.effects import Effect, effects_in, running_in
from faults.fault import Scale
from faults.record import Record, query
from faults.servers import Servers
from faults.workload import FOLDER_VARIABLE, ORDER, PACE_VARIABLE, workflows
from workflow_engine import Settings, WorkflowClient
from workflow_engine.embedded.lifetime import ScratchFolder
from workflow_engine.engine import Engine
from workflow_engine.errors import WorkflowEngineError

TESTS = Path(__file__).parents[1]
PYTHON_PATH = os.pathsep.join(map(str, (HERE, TESTS, TESTS.parent)))
"""Where the processes of the suite find it and what it tests."""
UNFINISHED = "SELECT id::text FROM executions WHERE status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')"
LAST_ROWS, LAST_LINES = 4, 6


class Stage:
    """Workers and a database of their own, from `with Stage(scale, servers)` on until its end."""

    def __init__(self, scale: Scale, servers: Servers) -> None:
        self.scale = scale
        self.servers = servers
        self.ended_by_themselves = 0
        """Workers that a supervisor had to start again though no fault had ended them."""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            scratch = ScratchFolder({})
            undo.callback(scratch.remove)
            self.folder = scratch.data
            self.settings = Settings(
                database_url=self.servers.renew(),
                redis_url=self.servers.redis_url,
                imports=("faults.workload",),
                **self.scale.settings,
            )
            self.fleet = Fleet(self.settings, self.folder)
            undo.callback(self.fleet.kill)
            for workflow in workflows(self.scale.hops):
                self.client.deploy(workflow)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def client(self) -> WorkflowClient:
        return self.fleet.client

    @property
    def engine(self) -> Engine:
        return self.fleet.engine

    @property
    def redis(self) -> Any:
        return self.fleet.redis

    @property
    def workers(self) -> Sequence[Worker]:
        return self.fleet.workers

    # -- who works ------------------------------------------------------------------------------------------

    def add_workers(
        self, count: int, processes: int | None = None, *, app: str = "workers", pace: str | None = None
    ) -> None:
        """Start prefork workers side by side, and wait until they take messages."""
        added = [
            self.fleet.add_worker(
                f"worker{len(self.workers) + 1}",
                app=app,
                concurrency=processes or self.scale.processes,
                PYTHONPATH=PYTHON_PATH,
                **{FOLDER_VARIABLE: str(self.folder), PACE_VARIABLE: pace or self.scale.pace},
            )
            for _ in range(count)
        ]
        for worker in added:
            worker.ready()

    def supervise(self) -> None:
        """Start workers again that have ended, as a supervisor would."""
        for worker in self.workers:
            if worker.container.status != "running":
                self.ended_by_themselves += 1
                worker.container.start()

    def running_in(self, worker: Worker) -> list[Effect]:
        """The runs that are going on in a worker."""
        return running_in(effects_in(self.folder), pool_processes([worker]), time.time())

    def wait_until_busy(self, worker: Worker, patience: float) -> None:
        """Wait until a worker runs a node; if it gets none, for so many seconds."""
        deadline = time.monotonic() + patience
        while not self.running_in(worker) and time.monotonic() < deadline:
            time.sleep(0.02)

    # -- what happened ---------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        return [row["id"] for row in query(self.settings.database_url, UNFINISHED)]

    def wait_for_the_end(self, patience: float | None = None) -> None:
        """Wait until every execution has ended, or for so many seconds; the verdict says what is missing."""
        deadline = time.monotonic() + (patience or self.scale.patience)
        while time.monotonic() < deadline:
            self.supervise()
            try:
                if not self.unfinished():
                    return
            except psycopg2.OperationalError:
                pass  # it is being recovered
            time.sleep(0.2)

    def record(self) -> Record:
        return Record.read(self.settings.database_url, self.folder)

    def story_of(self, record: Record, execution_id: str) -> str:
        """What is known of an execution: its status, its last journal rows, what the logs say of it."""
        row = record.executions.get(execution_id)
        journal = [f"  journal {entry}" for entry in record.journal.get(execution_id, [])[-LAST_ROWS:]]
        logged = [f"  {line}" for line in self.fleet.lines(execution_id)[-LAST_LINES:]]
        head = f"{execution_id}: {row.status if row else 'does not exist'}"
        return "\n".join([head, *journal, *logged])


class Load:
    """Orders that come in while things break, evenly spread over some seconds, or all at once.

    A `start` that raises is repeated with the same idempotency key, as a careful producer would, until
    the load is left; `started` has the executions that were given back.
    """

    def __init__(
        self, stage: Stage, count: int, over: float = 0.0, workflow_id: str = ORDER, first: int = 0
    ) -> None:
        self.started: set[str] = set()
        self._stage, self._over, self._workflow_id = stage, over, workflow_id
        self._numbers = range(first, first + count)
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._given_up = threading.Event()
        self.refusals = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.join(0 if kind else self._over + self._stage.scale.patience)
        self._given_up.set()

    def _run(self) -> None:
        began = time.monotonic()
        for place, number in enumerate(self._numbers):
            pause = began + self._over * place / len(self._numbers) - time.monotonic()
            if self._given_up.wait(max(0.0, pause)):
                return
            self._start(number)

    def _start(self, number: int) -> None:
        while not self._given_up.is_set():
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
    """The processes of some workers' pools, as they are now."""
    alive = [worker for worker in workers if worker.container.status == "running"]
    return list(itertools.chain.from_iterable(worker.pool_pids for worker in alive))
