"""What follows from the cost of a hop: the rate of the workers, the first bottleneck, the disk use of a day.

Pure arithmetic on measured costs and on assumptions that are written down in one place, `Installation`.
A resource counts as full well below 100 %, because queues grow long before that. Nodes are assumed to do
nothing: real ones need more processes, and cost Postgres and Redis no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Connections:
    """The connections of a worker to one server."""

    main: int
    """By its main process."""
    process: int
    """By each process of its pool."""

    def of(self, workers: int, processes: int) -> int:
        """Return the connections of all workers, with `processes` processes each."""
        return workers * (self.main + processes * self.process)


@dataclass(frozen=True)
class Costs:
    """The measured costs. Times are processor time; bytes are those of a hop unless a name says otherwise."""

    nodes: int
    """Of each execution."""
    main_seconds: float
    """The worker's main process: its event loop."""
    pool_seconds: float
    """A process of its pool."""
    postgres_seconds: float
    redis_seconds: float
    broker_share: float
    """The share of the time of Redis that it spends as Celery's broker."""
    wal_bytes: float
    wal_bytes_per_start: float
    aof_bytes: float
    row_bytes: float
    """A row of the journal, its indexes and TOAST included."""
    execution_bytes: float
    """An execution without its journal, the same way."""
    context_bytes: float
    """Memory in Redis of an active execution."""
    message_bytes: float
    postgres_connections: Connections
    redis_connections: Connections

    @property
    def bytes_per_execution(self) -> float:
        """Bytes on disk, permanently; the trigger has a row of its own."""
        return self.execution_bytes + (self.nodes + 1) * self.row_bytes

    @property
    def wal_per_execution(self) -> float:
        return self.wal_bytes_per_start + self.nodes * self.wal_bytes


@dataclass(frozen=True)
class Installation:
    """The assumptions, which do not depend on the engine."""

    processes: int = 8
    """Of a worker."""
    worker_cores: int = 4
    postgres_cores: int = 8
    postgres_connections: int = 300
    """The most that Postgres should have; more cost memory and locks, even when idle."""
    wal_bytes_per_second: float = 100e6
    """Bytes a second that the disk of the WAL takes."""
    waiting: float = 0.004
    """Seconds of a hop in which its process waits: four round trips in a network, one flush of the WAL."""
    flush: float = 0.002
    """Seconds for which a commit keeps its session of Postgres, the flush of the WAL included."""
    full: float = 0.7
    """The share of a resource above which queues grow."""
    has_own_broker: bool = False
    """True if messages go through another Redis than contexts."""


def walls(costs: Costs, workers: int, at: Installation) -> dict[str, float]:
    """Return the hops a second at which each resource is full."""
    cores = at.full * at.worker_cores * workers
    found = {
        "processes of the workers": workers * at.processes / (costs.pool_seconds + at.waiting),
        "cores of the workers": cores / (costs.main_seconds + costs.pool_seconds),
        "event loops of the workers": at.full * workers / costs.main_seconds,
        "cores of Postgres": at.full * at.postgres_cores / costs.postgres_seconds,
        "WAL": at.full * at.wal_bytes_per_second / costs.wal_bytes,
    }
    if not at.has_own_broker:
        return found | {"Redis": at.full / costs.redis_seconds}
    return found | {
        "Redis of the contexts": at.full / (costs.redis_seconds * (1 - costs.broker_share)),
        "Redis of the broker": at.full / (costs.redis_seconds * costs.broker_share),
    }


def first_wall(rates: Mapping[str, float]) -> tuple[str, float]:
    """Return the resource that is full before all others, and the hops a second at which it is."""
    name = min(rates, key=lambda each: rates[each])
    return name, rates[name]


def of_the_workers(rates: Mapping[str, float]) -> float:
    """Return the hops a second of the workers on servers without limits."""
    return min(rate for name, rate in rates.items() if "of the workers" in name)


def busy_sessions(hops_per_second: float, at: Installation) -> float:
    """Return how many sessions of Postgres are busy at a time: the size of a pooler in transaction mode."""
    return hops_per_second * at.flush / at.full


def pool_processes(costs: Costs, hops_per_second: float, node_seconds: float, at: Installation) -> float:
    """Return how many processes this rate needs, for nodes that take `node_seconds`."""
    return hops_per_second * (costs.pool_seconds + at.waiting + node_seconds) / at.full


def on_one_machine(costs: Costs, cores: int) -> float:
    """Return the hops a second of workers and servers that share these cores, with no other bottleneck."""
    each = costs.main_seconds + costs.pool_seconds + costs.postgres_seconds + costs.redis_seconds
    return cores / each


@dataclass(frozen=True)
class Day:
    """A day with this many executions, whose busiest minutes have `peak` times the average."""

    executions: int = 1_000_000
    peak: float = 5.0
    active_seconds: float = 60.0
    """How long an execution is active, from its start to its end or its next long wait."""

    def hops_per_second(self, costs: Costs) -> float:
        """Return the average rate."""
        return self.executions * costs.nodes / SECONDS_PER_DAY

    def hops_at_peak(self, costs: Costs) -> float:
        return self.peak * self.hops_per_second(costs)

    def wal_bytes(self, costs: Costs) -> float:
        return self.executions * costs.wal_per_execution

    def aof_bytes(self, costs: Costs) -> float:
        return self.executions * costs.nodes * costs.aof_bytes

    def disk_bytes(self, costs: Costs, days: int = 1) -> float:
        """Return the size of the tables if they keep this many days."""
        return days * self.executions * costs.bytes_per_execution

    def active_at_peak(self) -> float:
        """Return how many executions are active at a time."""
        return self.peak * self.executions / SECONDS_PER_DAY * self.active_seconds

    def redis_bytes(self, costs: Costs) -> float:
        """Return the memory of Redis for them at the peak, each with a message in its queue."""
        return self.active_at_peak() * (costs.context_bytes + costs.message_bytes)
