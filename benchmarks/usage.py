"""The cost of a span of time: processor time of workers and servers, context switches and transactions.

It is the difference of two readings. The use of the rest of the machine is part of it, because a busy machine
yields other figures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from benchmarks.processor_time import ProcessorTime, of_the_machine
from benchmarks.testbed import Testbed


@dataclass(frozen=True)
class Usage:
    """The use of workers and servers up to a time; as a difference, the use in between."""

    seconds: float
    workers: ProcessorTime
    postgres: ProcessorTime
    redis: ProcessorTime
    machine: float
    transactions: int
    switches: int
    """Context switches of the whole machine."""

    @classmethod
    def now(cls, testbed: Testbed, pids: Mapping[str, int]) -> Usage:
        statement = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ((transactions,),) = testbed.rows(statement)
        return cls(
            seconds=time.monotonic(),
            workers=sum(map(ProcessorTime.of, pids.values()), start=ProcessorTime(0, 0, 0)),
            postgres=ProcessorTime.of(testbed.servers.postgres.pid),
            redis=ProcessorTime.of(testbed.servers.redis.pid),
            machine=of_the_machine(),
            transactions=transactions,
            switches=psutil.cpu_stats().ctx_switches,
        )

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.seconds - earlier.seconds,
            self.workers - earlier.workers,
            self.postgres - earlier.postgres,
            self.redis - earlier.redis,
            self.machine - earlier.machine,
            self.transactions - earlier.transactions,
            self.switches - earlier.switches,
        )

    @property
    def others(self) -> float:
        """Processor time outside the benchmark: how quiet the machine was."""
        return self.machine - self.workers.total - self.postgres.total - self.redis.total

    def percent(self, processor_seconds: float) -> float:
        """Return processor time as percent of one core."""
        return 100 * processor_seconds / self.seconds
