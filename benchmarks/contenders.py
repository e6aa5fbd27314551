"""The engine and raw Celery, made to do the same: so many chains of tasks that do nothing, all at once.

Both begin with everything queued: their worker is stopped by a signal while the executions are started, and
the clock runs from the moment it goes on until the last one's end is told. So what is measured is workers at
saturation and nothing of the producer.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import psutil
from celery import chain

from benchmarks import raw_celery
from benchmarks.fleet import BenchmarkFailed, Fleet
from benchmarks.usage import Usage

PATIENCE = 120.0
"""Seconds for a batch."""

RAW_DATABASE = 1


@dataclass(frozen=True)
class Batch:
    """What a batch took: seconds from the first hop's begin to the last one's end, and processor time."""

    hops: int
    seconds: float
    used: Usage

    @property
    def seconds_per_hop(self) -> float:
        return self.seconds / self.hops


class Contender(Protocol):
    """Runs `number` chains of `nodes` nodes at once."""

    def run(self, number: int, nodes: int) -> Batch: ...


class DurableExecutions:
    """The engine, whose worker has these processes; each node is a Celery task of its own."""

    def __init__(self, fleet: Fleet, pids: Mapping[str, int], workflow_id: str) -> None:
        self._fleet = fleet
        self._pids = pids
        self._workflow_id = workflow_id

    def run(self, number: int, nodes: int) -> Batch:
        """The workflow has as many nodes as `nodes` says. Raises BenchmarkFailed."""
        channel = self._fleet.settings.finished_channel("*")
        with self._fleet.redis.pubsub(ignore_subscribe_messages=True) as endings:  # type: ignore[no-untyped-call]
            endings.psubscribe(channel)
            with stopped(self._pids):
                for _ in range(number):
                    self._fleet.client.start(self._workflow_id)
                before = Usage.now(self._fleet, self._pids)
            begin = time.perf_counter()
            ended = 0
            while ended < number:
                if time.perf_counter() > begin + PATIENCE:
                    raise BenchmarkFailed(f"{ended} of {number} executions ended within {PATIENCE:g} s")
                ended += endings.get_message(timeout=1) is not None
            seconds = time.perf_counter() - begin
        return Batch(number * nodes, seconds, Usage.now(self._fleet, self._pids) - before)


class RawChains:
    """Celery's own `chain` with its defaults, prefork and no result backend, on the same Redis."""

    def __init__(self, fleet: Fleet, processes: int) -> None:
        self._fleet = fleet
        self._app = raw_celery.connected_to(fleet.redis_database(RAW_DATABASE))
        path = fleet.scratch_file("endings")
        os.mkfifo(path)
        # Open for writing too, so that it does not end when a worker closes it.
        self._endings = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        variables = {raw_celery.ENDINGS_VARIABLE: str(path)}
        self._pids = {"raw": fleet.start_raw_worker("raw", self._app, processes, **variables)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._endings)

    def run(self, number: int, nodes: int) -> Batch:
        """Raises BenchmarkFailed."""
        no_op = self._app.signature("raw_celery.no_op", immutable=True)
        last = self._app.signature("raw_celery.last", immutable=True)
        whole = chain(*[no_op] * (nodes - 1), last, app=self._app)
        with stopped(self._pids):
            for _ in range(number):
                whole.apply_async()
            before = Usage.now(self._fleet, self._pids)
        begin = time.perf_counter()
        ended = 0
        while ended < number:
            if not select.select([self._endings], [], [], PATIENCE)[0]:
                raise BenchmarkFailed(f"{ended} of {number} chains ended, and no more for {PATIENCE:g} s")
            ended += len(os.read(self._endings, number))
        seconds = time.perf_counter() - begin
        return Batch(number * nodes, seconds, Usage.now(self._fleet, self._pids) - before)


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
