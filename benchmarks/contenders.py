"""The engine and raw Celery on the same work: many chains of the same tasks, all at once.

Both begin with everything queued. A signal stops their worker while the executions are started, and the clock
runs from the moment it continues until the end of the last one. So the figures are those of workers at
saturation, without the producer.
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
from benchmarks.report import Figure, Spread
from benchmarks.testbed import BenchmarkFailed, Testbed
from benchmarks.usage import Usage
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.redis.keys import Keys

BATCH_TIMEOUT = 120.0
"""Seconds for a batch."""

RAW_DATABASE = 1
RESULTS_DATABASE = 2


@dataclass(frozen=True)
class Batch:
    """The cost of a batch: seconds from the start of its first hop to the end of its last, processor time."""

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
        self,
        testbed: Testbed,
        pids: Mapping[str, int],
        workflow_id: str,
        client: WorkflowClient | None = None,
        data: Any = None,
    ) -> None:
        self._testbed = testbed
        self._pids = pids
        self._workflow_id = workflow_id
        self._client = client or testbed.client
        self._data = data

    def run(self, number: int, nodes: int) -> Batch:
        """Run a workflow that has `nodes` nodes. Raises BenchmarkFailed."""
        keys = Keys.of(self._testbed.settings)
        with self._testbed.redis.pubsub(ignore_subscribe_messages=True) as endings:  # type: ignore[no-untyped-call]
            endings.psubscribe(keys.finished("*"))
            with stopped(self._pids):
                started = [self._client.start(self._workflow_id, self._data).id for _ in range(number)]
                # Children end on channels of their own.
                channels = {keys.finished(execution_id) for execution_id in started}
                before = Usage.now(self._testbed, self._pids)
            begin = time.perf_counter()
            ended = 0
            while ended < number:
                if time.perf_counter() > begin + BATCH_TIMEOUT:
                    raise BenchmarkFailed(f"{ended} of {number} executions ended within {BATCH_TIMEOUT:g} s")
                ending = endings.get_message(timeout=1)
                if ending is not None and ending["channel"] in channels:
                    if ending["data"] != ExecutionStatus.COMPLETED:
                        raise BenchmarkFailed(f"an execution of {self._workflow_id!r} is {ending['data']}")
                    ended += 1
            seconds = time.perf_counter() - begin
        return Batch(number * nodes, seconds, Usage.now(self._testbed, self._pids) - before)


class RawWorker:
    """A worker of raw Celery with its defaults and no result backend, on another database of the same Redis.

    With `results` it keeps them there, as Celery's chord requires. `broker_url` is that of another broker.
    """

    def __init__(
        self,
        testbed: Testbed,
        processes: int,
        name: str = "raw",
        database: int = RAW_DATABASE,
        options: Sequence[str] = (),
        results: bool = False,
        broker_url: str = "",
    ) -> None:
        self._testbed = testbed
        url = broker_url or testbed.redis_database(database)
        self.app = raw_celery.connected_to(url, url if results else None)
        pipe = testbed.scratch_file(f"endings-of-{name}")
        if not pipe.exists():
            os.mkfifo(pipe)
        # Open for writing too, so that it does not end when a worker closes it.
        self._endings = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        variables = {raw_celery.ENDINGS_VARIABLE: str(pipe)}
        self.pids = {name: testbed.start_raw_worker(name, self.app, processes, options, **variables)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._testbed.stop_workers(*self.pids)
        os.close(self._endings)

    def measure(self, number: int, hops: int, whole: Any) -> Batch:
        """Run a canvas of `hops` hops `number` times, all at once. Raises BenchmarkFailed."""
        with stopped(self.pids):
            for _ in range(number):
                whole.apply_async()
            before = Usage.now(self._testbed, self.pids)
        begin = time.perf_counter()
        ended = 0
        while ended < number:
            if not select.select([self._endings], [], [], BATCH_TIMEOUT)[0]:
                raise BenchmarkFailed(
                    f"{ended} of {number} chains ended, and no more for {BATCH_TIMEOUT:g} s"
                )
            ended += len(os.read(self._endings, number))
        seconds = time.perf_counter() - begin
        return Batch(number * hops, seconds, Usage.now(self._testbed, self.pids) - before)

    @classmethod
    def with_results(cls, testbed: Testbed, processes: int) -> Self:
        """Return a worker that keeps its results, on a database of its own."""
        return cls(testbed, processes, "raw-results", RESULTS_DATABASE, results=True)

    def task(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        return self.app.signature(f"raw_celery.{name}", arguments, keywords, immutable=True)


class RawChains:
    """Celery's own `chain` of one of the raw tasks."""

    def __init__(self, worker: RawWorker, task: str = "no_op", *arguments: Any) -> None:
        self._worker = worker
        self._task = worker.task(task, *arguments)
        self._last = worker.task(task, *arguments, is_last=True)

    def run(self, number: int, nodes: int) -> Batch:
        """Run the chains. Raises BenchmarkFailed."""
        whole = chain(*[self._task] * (nodes - 1), self._last, app=self._worker.app)
        return self._worker.measure(number, nodes, whole)


class RawChords:
    """Celery's own `chord`: one of the raw tasks many times at once, and then one that does nothing."""

    def __init__(self, worker: RawWorker, task: str = "no_op", *arguments: Any) -> None:
        self._worker = worker
        self._task = worker.task(task, *arguments)
        # The end comes through the pipe. Celery would subscribe to the result of every task here.
        worker.app.backend.on_task_call = lambda *_: None

    def run(self, number: int, nodes: int) -> Batch:
        """Run the chords. Raises BenchmarkFailed."""
        header = [self._task] * (nodes - 1)
        whole = chord(header, self._worker.task("no_op", is_last=True), app=self._worker.app)
        return self._worker.measure(number, nodes, whole)


def in_turns(
    contenders: Sequence[Contender], number: int, nodes: int, repetitions: int, warm_up: bool = True
) -> list[list[Batch]]:
    """Return the batches of each contender, after one that only warms up caches and connections."""
    if warm_up:
        for contender in contenders:
            contender.run(number, nodes)
    batches = [[contender.run(number, nodes) for contender in contenders] for _ in range(repetitions)]
    return [list(of_one) for of_one in zip(*batches, strict=True)]


def ratios(ours: Sequence[Batch], theirs: Sequence[Batch]) -> list[float]:
    """Return the ratios of the seconds per hop, batch by batch."""
    return [a.seconds_per_hop / b.seconds_per_hop for a, b in zip(ours, theirs, strict=True)]


def processor_ratios(ours: Sequence[Batch], theirs: Sequence[Batch]) -> list[float]:
    """Return the ratios of the processor time per hop of workers and servers, batch by batch."""
    return [
        a.processor_seconds_per_hop / b.processor_seconds_per_hop for a, b in zip(ours, theirs, strict=True)
    ]


def seconds_figure(name: str, batches: Sequence[Batch]) -> Figure:
    """Return the time of a whole batch."""
    return Figure(name, Spread.of([batch.seconds for batch in batches]).text("ms", 1000))


def hop_figure(name: str, batches: Sequence[Batch]) -> Figure:
    """Return the time of a batch, divided by its hops."""
    return Figure(name, Spread.of([batch.seconds_per_hop for batch in batches]).text("ms", 1000))


@contextmanager
def stopped(pids: Mapping[str, int]) -> Iterator[None]:
    """Stop these workers and their pools with SIGSTOP, so that messages wait in their queues."""
    mains = [psutil.Process(pid) for pid in pids.values()]
    processes = [*mains, *(child for main in mains for child in main.children(recursive=True))]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
