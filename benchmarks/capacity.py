"""What follows from the cost of a hop: what workers can do, what is full first, what a day leaves on disk.

Pure arithmetic on measured costs and on assumptions that are written down in one place, `Installation`.
A resource is taken for full well below 100 %, because queues grow long before that. Nodes are taken to do
nothing: real ones need more processes, and cost Postgres and Redis no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Connections:
    """What a worker keeps open to a server."""

    main: int
    """By its main process."""
    process: int
    """By each process of its pool."""

    def of(self, workers: int, processes: int) -> int:
        """Of so many workers with so many processes each."""
        return workers * (self.main + processes * self.process)


@dataclass(frozen=True)
class Costs:
    """What was measured. Times are processor time; bytes are those of a hop unless a name says otherwise."""

    nodes: int
    """Of each execution."""
    main_seconds: float
    """The worker's main process: its event loop."""
    pool_seconds: float
    """A process of its pool."""
    postgres_seconds: float
    redis_seconds: float
    broker_share: float
    """Of the time of Redis, what it does as Celery's broker."""
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
        """On disk, for good; the trigger has a row of its own."""
        return self.execution_bytes + (self.nodes + 1) * self.row_bytes

    @property
    def wal_per_execution(self) -> float:
        return self.wal_bytes_per_start + self.nodes * self.wal_bytes


@dataclass(frozen=True)
class Installation:
    """What is assumed, because it is not the engine's to measure."""

    processes: int = 8
    """Of a worker."""
    worker_cores: int = 4
    postgres_cores: int = 8
    postgres_connections: int = 300
    """That Postgres accepts; more cost it memory and locks, whether they are busy or not."""
    wal_bytes_per_second: float = 100e6
    """That the disk of the WAL takes."""
    waiting: float = 0.004
    """Seconds of a hop in which its process waits: four round trips in a network, one flush of the WAL."""
    flush: float = 0.002
    """Seconds for which a commit keeps its session of Postgres, the flush of the WAL included."""
    full: float = 0.7
    """Share of a resource from which on queues grow."""
    has_own_broker: bool = False
    """Whether messages go through another Redis than contexts."""


def walls(costs: Costs, workers: int, at: Installation) -> dict[str, float]:
    """Hops a second at which each resource is full."""
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
    """The resource that is full before all others, and the hops a second at which it is."""
    name = min(rates, key=lambda each: rates[each])
    return name, rates[name]


def of_the_workers(rates: Mapping[str, float]) -> float:
    """Hops a second that the workers would do on servers without limits."""
    return min(rate for name, rate in rates.items() if "of the workers" in name)


def busy_sessions(hops_per_second: float, at: Installation) -> float:
    """Sessions of Postgres that are at work at a time: what a pooler in transaction mode has to hold."""
    return hops_per_second * at.flush / at.full


def pool_processes(costs: Costs, hops_per_second: float, node_seconds: float, at: Installation) -> float:
    """Processes that so many hops a second need, of nodes that take so long."""
    return hops_per_second * (costs.pool_seconds + at.waiting + node_seconds) / at.full


def on_one_machine(costs: Costs, cores: int) -> float:
    """Hops a second where workers and servers share these cores and nothing else keeps them."""
    each = costs.main_seconds + costs.pool_seconds + costs.postgres_seconds + costs.redis_seconds
    return cores / each


@dataclass(frozen=True)
class Day:
    """A day of so many executions, whose busiest minutes see `peak` times the average."""

    executions: int = 1_000_000
    peak: float = 5.0
    active_seconds: float = 60.0
    """How long an execution is active, from its start to its end or its next long wait."""

    def hops_per_second(self, costs: Costs) -> float:
        """On average."""
        return self.executions * costs.nodes / SECONDS_PER_DAY

    def hops_at_peak(self, costs: Costs) -> float:
        return self.peak * self.hops_per_second(costs)

    def wal_bytes(self, costs: Costs) -> float:
        return self.executions * costs.wal_per_execution

    def aof_bytes(self, costs: Costs) -> float:
        return self.executions * costs.nodes * costs.aof_bytes

    def disk_bytes(self, costs: Costs, days: int = 1) -> float:
        """What the tables hold if they keep so many days."""
        return days * self.executions * costs.bytes_per_execution

    def active_at_peak(self) -> float:
        """Executions that are active at a time."""
        return self.peak * self.executions / SECONDS_PER_DAY * self.active_seconds

    def redis_bytes(self, costs: Costs) -> float:
        """Memory of Redis for them at the peak, each with a message in its queue."""
        return self.active_at_peak() * (costs.context_bytes + costs.message_bytes)
