"""What a stretch of time costs: processor time of workers and servers, and transactions.

Two readings and their difference; who else used the machine meanwhile is part of it, because figures from a
busy machine are other figures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.fleet import Fleet
from benchmarks.processor_time import ProcessorTime, of_the_machine


@dataclass(frozen=True)
class Usage:
    """What workers and servers have used by a time; of a difference, what they used in between."""

    seconds: float
    workers: ProcessorTime
    postgres: ProcessorTime
    redis: ProcessorTime
    machine: float
    transactions: int

    @classmethod
    def now(cls, fleet: Fleet, pids: Mapping[str, int]) -> Usage:
        statement = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ((transactions,),) = fleet.rows(statement)
        return cls(
            seconds=time.monotonic(),
            workers=sum(map(ProcessorTime.of, pids.values()), start=ProcessorTime(0, 0, 0)),
            postgres=ProcessorTime.of(fleet.servers.postgres.pid),
            redis=ProcessorTime.of(fleet.servers.redis.pid),
            machine=of_the_machine(),
            transactions=transactions,
        )

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.seconds - earlier.seconds,
            self.workers - earlier.workers,
            self.postgres - earlier.postgres,
            self.redis - earlier.redis,
            self.machine - earlier.machine,
            self.transactions - earlier.transactions,
        )

    @property
    def others(self) -> float:
        """Processor time of what does not belong to the benchmark: how quiet the machine was."""
        return self.machine - self.workers.total - self.postgres.total - self.redis.total

    def percent(self, processor_seconds: float) -> float:
        """Of one core."""
        return 100 * processor_seconds / self.seconds
