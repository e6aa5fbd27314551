"""What a start costs its producer and the servers, alone and with many, beside Celery's `apply_async`.

One process starts while no worker runs. The ways take turns, so that each meets the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import raw_celery
from benchmarks.contenders import RAW_DATABASE
from benchmarks.nodes import no_ops
from benchmarks.processor_time import ProcessorTime
from benchmarks.report import Figure, Section, Spread, ratio_at_most
from benchmarks.testbed import Testbed, print_step
from workflow_engine import Start

NAME = "starts"
RATIO_LIMIT = 2.0
"""Of the processor time of a start, relative to that of `apply_async`; the clock waits for a flush."""


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    single: int
    many: int
    turns: int


FULL = Size(single=1_000, many=10_000, turns=5)
QUICK = Size(single=20, many=1_000, turns=1)


@dataclass(frozen=True)
class Cost:
    """Seconds for each start: by the clock, and of processor time in the producer and in each server."""

    clock: float
    producer: float
    postgres: float
    redis: float

    @property
    def processor(self) -> float:
        return self.producer + self.postgres + self.redis


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure starts one by one and many at once, and `apply_async` of a task with the same data."""
    size = QUICK if quick else FULL
    testbed.client.deploy(no_ops(NAME, 10))
    task = raw_celery.connected_to(testbed.redis_database(RAW_DATABASE)).signature("raw_celery.no_op")

    def single() -> None:
        for number in range(size.single):
            testbed.client.start(NAME, {"number": number})

    def tasks() -> None:
        for _ in range(size.single):
            task.apply_async()

    def many() -> None:
        testbed.client.start_many(NAME, [Start({"number": number}) for number in range(size.many)])

    ways = [(single, size.single), (tasks, size.single), (many, size.many)]
    for way, _ in ways:
        way()  # connects
    costs: list[list[Cost]] = [[], [], []]
    for turn in range(size.turns):
        print_step(f"turn {turn + 1} of {size.turns}: start, apply_async, start_many")
        for (way, number), found in zip(ways, costs, strict=True):
            found.append(_cost(testbed, way, number))
    before = _wal_position(testbed)
    many()
    wal = (_wal_position(testbed) - before) / size.many
    return Section(_figures(*costs, wal=wal), _method(size))


def _wal_position(testbed: Testbed) -> int:
    """Return the bytes of WAL that Postgres has written since it was made."""
    ((position,),) = testbed.rows("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return int(position)


def _cost(testbed: Testbed, way: Callable[[], None], number: int) -> Cost:
    def used() -> tuple[float, ...]:
        servers = (testbed.servers.postgres.pid, testbed.servers.redis.pid)
        return time.perf_counter(), time.process_time(), *(ProcessorTime.of(pid).total for pid in servers)

    before = used()
    way()
    clock, producer, postgres, redis = (
        (after - earlier) / number for after, earlier in zip(used(), before, strict=True)
    )
    return Cost(clock, producer, postgres, redis)


def _figures(
    single: Sequence[Cost], tasks: Sequence[Cost], many: Sequence[Cost], *, wal: float
) -> list[Figure]:
    def microseconds(of: Callable[[Cost], float], costs: Sequence[Cost]) -> str:
        return f"{1e6 * Spread.of([of(cost) for cost in costs]).median:,.0f} µs"

    def rows(name: str, costs: Sequence[Cost]) -> list[Figure]:
        return [
            Figure(name, microseconds(lambda cost: cost.clock, costs)),
            Figure("- processor time of the producer", microseconds(lambda cost: cost.producer, costs)),
            Figure("- of Postgres", microseconds(lambda cost: cost.postgres, costs)),
            Figure("- of Redis", microseconds(lambda cost: cost.redis, costs)),
        ]

    def ratio(of: Callable[[Cost], float], costs: Sequence[Cost]) -> Spread:
        return Spread.of([of(one) / of(task) for one, task in zip(costs, tasks, strict=True)])

    return [
        *rows("`start`", single),
        *rows("`apply_async` of Celery", tasks),
        *rows("`start_many`, each", many),
        Figure("`start` relative to `apply_async`", ratio(lambda cost: cost.clock, single).text()),
        ratio_at_most("- processor time", ratio(lambda cost: cost.processor, single), RATIO_LIMIT),
        Figure("`start_many` relative to `apply_async`", ratio(lambda cost: cost.clock, many).text()),
        Figure("- processor time", ratio(lambda cost: cost.processor, many).text()),
        Figure("starts a second, many at once", Spread.of([1 / cost.clock for cost in many]).text()),
        Figure("WAL of a start, many at once", f"{wal:,.0f} B"),
    ]


def _method(size: Size) -> str:
    return (
        f"In each of {size.turns} turns one process starts {size.single:,} executions one by one, sends as "
        f"many tasks with `apply_async`, and starts {size.many:,} executions with one `start_many`. "
        "No worker runs. The tasks go to another database of the same Redis. Figures are medians."
    )
