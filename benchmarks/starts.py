"""What a start costs its producer and the servers, alone and with many, beside Celery's `apply_async`.

One process starts while no worker runs. The ways take turns, so that each meets the same machine. Two of them
are floors: a statement that commits one number, and what the servers need for the rows and messages of many
starts whose content was made before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import raw_celery
from benchmarks.contenders import RAW_DATABASE, stopped
from benchmarks.nodes import no_ops
from benchmarks.processor_time import ProcessorTime
from benchmarks.report import Figure, Section, Spread, ratio_at_least, ratio_at_most
from benchmarks.testbed import Testbed, print_step
from workflow_engine import Start
from workflow_engine.engine.starts.starting import BATCH

NAME = "starts"
COPIED = "10000000-0000-0000-0000-000000000000"
"""The lowest id of a copy, above all of real executions."""
RATE = 5_000
"""Executions a second of `start_many`."""
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

    def commits() -> None:
        for number in range(size.single):
            testbed.execute(f"INSERT INTO committed VALUES ({number})")

    def many() -> None:
        testbed.client.start_many(NAME, [Start({"number": number}) for number in range(size.many)])

    copies = Copies(testbed, size.many)
    ways = [
        (single, size.single),
        (tasks, size.single),
        (commits, size.single),
        (many, size.many),
        (copies.insert, size.many),
    ]
    costs: list[list[Cost]] = [[] for _ in ways]
    with stopped(testbed.running_workers()), _tables(testbed):
        for turn in range(size.turns + 1):
            print_step(f"turn {turn} of {size.turns}: start, apply_async, commit, start_many, copy")
            for (way, number), found in zip(ways, costs, strict=True):
                if way == copies.insert:
                    copies.prepare()
                found.append(_cost(testbed, way, number))
        before = _wal_position(testbed)
        many()
        wal = (_wal_position(testbed) - before) / size.many
    # The first turn connects, and fills what is kept.
    return Section(_figures(*(found[1:] for found in costs), wal=wal), _method(size))


@contextmanager
def _tables(testbed: Testbed) -> Iterator[None]:
    """Make the table of the commits; afterwards remove all that was started, before a worker runs it."""
    testbed.execute("CREATE TABLE committed (number integer)")
    yield
    testbed.execute("DROP TABLE committed, new_executions, new_rows")
    testbed.execute("TRUNCATE executions CASCADE")
    testbed.redis.delete(*testbed.redis.scan_iter("workflow*", _type="list"))


class Copies:
    """The newest executions once more, as rows that Postgres inserts and messages that are there already.

    What is left of many starts without everything that makes their content, checks it and reads it as JSON.
    """

    def __init__(self, testbed: Testbed, number: int) -> None:
        self._testbed, self._number = testbed, number
        self._turns = 0

    def prepare(self) -> None:
        """Set copies of the newest executions aside, under ids of their own in the same order."""
        self._turns += 1
        new_id = f"overlay({{}}::text PLACING '{0x10 + self._turns:02x}' FROM 1 FOR 2)"
        for statement in (
            "DROP TABLE IF EXISTS new_executions, new_rows",
            "CREATE TABLE new_executions AS SELECT copy.* FROM executions e, "
            f"jsonb_populate_record(e, jsonb_build_object('id', {new_id.format('e.id')})) copy WHERE e.id IN "
            f"(SELECT id FROM executions WHERE id < '{COPIED}' ORDER BY id DESC LIMIT {self._number})",
            "CREATE TABLE new_rows AS SELECT copy.* FROM node_executions n, jsonb_populate_record(n, "
            f"jsonb_build_object('execution_id', {new_id.format('n.execution_id')})) copy "
            f"WHERE {new_id.format('n.execution_id')}::uuid IN (SELECT id FROM new_executions)",
            "CREATE UNIQUE INDEX ON new_executions (id)",
            "CREATE UNIQUE INDEX ON new_rows (execution_id)",
            "VACUUM ANALYZE new_executions",
            "VACUUM ANALYZE new_rows",
        ):
            self._testbed.execute(statement)
        self._ids = [str(row[0]) for row in self._testbed.rows("SELECT id FROM new_executions ORDER BY id")]
        self._queue = next(self._testbed.redis.scan_iter("workflow*", _type="list"))
        self._message = self._testbed.redis.lindex(self._queue, 0)

    def insert(self) -> None:
        """Insert the copies and push as many messages, batch by batch as `start_many` does."""
        for begin in range(0, len(self._ids), BATCH):
            ids = self._ids[begin : begin + BATCH]
            between = f"BETWEEN '{ids[0]}' AND '{ids[-1]}'"
            self._testbed.execute(
                "WITH first AS (INSERT INTO executions "
                f"SELECT * FROM new_executions WHERE id {between} ORDER BY id) "
                f"INSERT INTO node_executions SELECT * FROM new_rows WHERE execution_id {between} "
                "ORDER BY execution_id"
            )
            self._testbed.redis.lpush(self._queue, *[str(self._message)] * len(ids))


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
    single: Sequence[Cost],
    tasks: Sequence[Cost],
    commits: Sequence[Cost],
    many: Sequence[Cost],
    copies: Sequence[Cost],
    *,
    wal: float,
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

    def rate(costs: Sequence[Cost]) -> Spread:
        return Spread.of([1 / cost.clock for cost in costs])

    def ratio_without(commits: Sequence[Cost]) -> str:
        beyond = zip(single, commits, tasks, strict=True)
        return Spread.of([(one.clock - commit.clock) / task.clock for one, commit, task in beyond]).text()

    return [
        *rows("`start`", single),
        *rows("`apply_async` of Celery", tasks),
        *rows("a statement that only commits", commits),
        *rows("`start_many`, each", many),
        *rows("the same rows and messages, copied", copies),
        Figure("`start` relative to `apply_async`", ratio(lambda cost: cost.clock, single).text()),
        Figure("- without a commit", ratio_without(commits)),
        ratio_at_most("- processor time", ratio(lambda cost: cost.processor, single), RATIO_LIMIT),
        Figure("`start_many` relative to `apply_async`", ratio(lambda cost: cost.clock, many).text()),
        Figure("- processor time", ratio(lambda cost: cost.processor, many).text()),
        ratio_at_least("starts a second, many at once", rate(many), RATE),
        Figure(
            "- by the processor time alone", f"{1 / Spread.of([each.processor for each in many]).median:,.0f}"
        ),
        Figure("- copied", rate(copies).text()),
        Figure("WAL of a start, many at once", f"{wal:,.0f} B"),
    ]


def _method(size: Size) -> str:
    return (
        f"In each of {size.turns} turns one process starts {size.single:,} executions one by one, sends as "
        f"many tasks with `apply_async`, and starts {size.many:,} executions with one `start_many`. "
        "No worker runs. The tasks go to another database of the same Redis. A statement that only commits "
        "inserts one number. Copied are the rows of the last `start_many`, from a table beside theirs, by "
        f"{BATCH} in a statement, with as many messages in one command. Figures are medians."
    )
