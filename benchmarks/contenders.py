"""The engine and raw Celery, made to do the same: so many chains of the same tasks, all at once.

Both begin with everything queued: their worker is stopped by a signal while the executions are started, and
the clock runs from the moment it goes on until the last one's end is told. So what is measured is workers at
saturation and nothing of the producer.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import psutil
from celery import chain, chord

from benchmarks import raw_celery
from benchmarks.fleet import BenchmarkFailed, Fleet
from benchmarks.report import Figure, Spread
from benchmarks.usage import Usage
from workflow_engine import ExecutionStatus, WorkflowClient

PATIENCE = 120.0
"""Seconds for a batch."""

RAW_DATABASE = 1
RESULTS_DATABASE = 2


@dataclass(frozen=True)
class Batch:
    """What a batch took: seconds from the first hop's begin to the last one's end, and processor time."""

    hops: int
    seconds: float
    used: Usage

    @property
    def seconds_per_hop(self) -> float:
        return self.seconds / self.hops

    @property
    def processor_seconds_per_hop(self) -> float:
        """Of the workers, Redis and Postgres."""
        return (self.used.workers.total + self.used.redis.total + self.used.postgres.total) / self.hops


class Contender(Protocol):
    """Runs `number` chains of `nodes` nodes at once."""

    def run(self, number: int, nodes: int) -> Batch: ...


class DurableExecutions:
    """The engine, whose worker has these processes; each node is a Celery task of its own."""

    def __init__(
        self, fleet: Fleet, pids: Mapping[str, int], workflow_id: str, client: WorkflowClient | None = None
    ) -> None:
        self._fleet = fleet
        self._pids = pids
        self._workflow_id = workflow_id
        self._client = client or fleet.client

    def run(self, number: int, nodes: int) -> Batch:
        """The workflow has as many nodes as `nodes` says. Raises BenchmarkFailed."""
        channel = self._fleet.settings.finished_channel("*")
        with self._fleet.redis.pubsub(ignore_subscribe_messages=True) as endings:  # type: ignore[no-untyped-call]
            endings.psubscribe(channel)
            with stopped(self._pids):
                for _ in range(number):
                    self._client.start(self._workflow_id)
                before = Usage.now(self._fleet, self._pids)
            begin = time.perf_counter()
            ended = 0
            while ended < number:
                if time.perf_counter() > begin + PATIENCE:
                    raise BenchmarkFailed(f"{ended} of {number} executions ended within {PATIENCE:g} s")
                if (ending := endings.get_message(timeout=1)) is not None:
                    if ending["data"] != ExecutionStatus.COMPLETED:
                        raise BenchmarkFailed(f"an execution of {self._workflow_id!r} is {ending['data']}")
                    ended += 1
            seconds = time.perf_counter() - begin
        return Batch(number * nodes, seconds, Usage.now(self._fleet, self._pids) - before)


class RawWorker:
    """A worker of raw Celery with its defaults and no result backend, on another database of the same Redis.

    With `results` it keeps them there, as Celery needs it for a chord.
    """

    def __init__(
        self,
        fleet: Fleet,
        processes: int,
        name: str = "raw",
        database: int = RAW_DATABASE,
        options: Sequence[str] = (),
        results: bool = False,
    ) -> None:
        self._fleet = fleet
        url = fleet.redis_database(database)
        self.app = raw_celery.connected_to(url, url if results else None)
        pipe = fleet.scratch_file(f"endings-of-{name}")
        if not pipe.exists():
            os.mkfifo(pipe)
        # Open for writing too, so that it does not end when a worker closes it.
        self._endings = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        variables = {raw_celery.ENDINGS_VARIABLE: str(pipe)}
        self.pids = {name: fleet.start_raw_worker(name, self.app, processes, options, **variables)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fleet.stop_workers(*self.pids)
        os.close(self._endings)

    def measure(self, number: int, hops: int, whole: Any) -> Batch:
        """Run a canvas of so many hops so often, all at once. Raises BenchmarkFailed."""
        with stopped(self.pids):
            for _ in range(number):
                whole.apply_async()
            before = Usage.now(self._fleet, self.pids)
        begin = time.perf_counter()
        ended = 0
        while ended < number:
            if not select.select([self._endings], [], [], PATIENCE)[0]:
                raise BenchmarkFailed(f"{ended} of {number} chains ended, and no more for {PATIENCE:g} s")
            ended += len(os.read(self._endings, number))
        seconds = time.perf_counter() - begin
        return Batch(number * hops, seconds, Usage.now(self._fleet, self.pids) - before)

    @classmethod
    def with_results(cls, fleet: Fleet, processes: int) -> Self:
        """One that keeps its results, on a database of its own."""
        return cls(fleet, processes, "raw-results", RESULTS_DATABASE, results=True)

    def task(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        return self.app.signature(f"raw_celery.{name}", arguments, keywords, immutable=True)


class RawChains:
    """Celery's own `chain` of one of the raw tasks."""

    def __init__(self, worker: RawWorker, task: str = "no_op", *arguments: Any) -> None:
        self._worker = worker
        self._task = worker.task(task, *arguments)
        self._last = worker.task(task, *arguments, is_last=True)

    def run(self, number: int, nodes: int) -> Batch:
        """Raises BenchmarkFailed."""
        whole = chain(*[self._task] * (nodes - 1), self._last, app=self._worker.app)
        return self._worker.measure(number, nodes, whole)


class RawChords:
    """Celery's own `chord`: tasks that do nothing, all at once, and one more after all of them."""

    def __init__(self, worker: RawWorker) -> None:
        self._worker = worker
        # The end comes through the pipe. Celery would subscribe to the result of every task here.
        worker.app.backend.on_task_call = lambda *_: None

    def run(self, number: int, nodes: int) -> Batch:
        """Raises BenchmarkFailed."""
        header = [self._worker.task("no_op")] * (nodes - 1)
        whole = chord(header, self._worker.task("no_op", is_last=True), app=self._worker.app)
        return self._worker.measure(number, nodes, whole)


def in_turns(
    contenders: Sequence[Contender], number: int, nodes: int, repetitions: int, warm_up: bool = True
) -> list[list[Batch]]:
    """The batches of each contender; before them, one that only warms up caches and connections."""
    if warm_up:
        for contender in contenders:
            contender.run(number, nodes)
    batches = [[contender.run(number, nodes) for contender in contenders] for _ in range(repetitions)]
    return [list(of_one) for of_one in zip(*batches, strict=True)]


def ratios(ours: Sequence[Batch], theirs: Sequence[Batch]) -> list[float]:
    """Of the seconds per hop, batch by batch."""
    return [a.seconds_per_hop / b.seconds_per_hop for a, b in zip(ours, theirs, strict=True)]


def processor_ratios(ours: Sequence[Batch], theirs: Sequence[Batch]) -> list[float]:
    """Of the processor time per hop of workers and servers, batch by batch."""
    return [
        a.processor_seconds_per_hop / b.processor_seconds_per_hop for a, b in zip(ours, theirs, strict=True)
    ]


def seconds_told(name: str, batches: Sequence[Batch]) -> Figure:
    """How long a whole batch took."""
    return Figure(name, Spread.of([batch.seconds for batch in batches]).told("ms", 1000))


def hop_told(name: str, batches: Sequence[Batch]) -> Figure:
    """The time of a batch, divided by its hops."""
    return Figure(name, Spread.of([batch.seconds_per_hop for batch in batches]).told("ms", 1000))


@contextmanager
def stopped(pids: Mapping[str, int]) -> Iterator[None]:
    """Hold these workers and their pools by SIGSTOP, so that what is sent to them waits in its queue."""
    mains = [psutil.Process(pid) for pid in pids.values()]
    processes = [*mains, *(child for main in mains for child in main.children(recursive=True))]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
