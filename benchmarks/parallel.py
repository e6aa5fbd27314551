"""Branches at the same time: how near one execution comes to what its places allow, and the calls of a hop.

Nodes that wait for something outside show the engine's part. Branches that do nothing show its limit: commits
of one execution take turns at one row of Postgres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import (
    Batch,
    Contender,
    DurableExecutions,
    RawChords,
    RawWorker,
    in_turns,
    ratios,
    seconds_figure,
)
from benchmarks.counters import Counters, TableCounters
from benchmarks.nodes import branches
from benchmarks.report import Figure, Section, Spread, at_most, ratio_at_least, ratio_at_most
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from workflow_engine.settings import ENVIRONMENT_PREFIX

REDIS_LIMIT, POSTGRES_LIMIT = 2.3, 1.05
"""Calls per hop."""
COUNTED = 5
"""Executions whose transactions are counted, since those of timekeepers fall into any one of them."""
PROCESSES_LIMIT, THREADS_LIMIT = 0.75, 0.85
"""Shares of the ideal throughput."""
CHORD_LIMIT = 1.0
"""The time of branches that do nothing, relative to Celery's own chord."""

PLACES, THREADS = 8, 32
THREADS_DATABASE = 5
"""Of the Redis of the raw worker with threads."""
WAIT, LONGER_WAIT = 0.05, 0.1
"""Seconds that each node waits, on processes and on threads."""


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    branches: int
    on_threads: int
    idle: int
    repetitions: int


FULL = Size(branches=200, on_threads=64, idle=500, repetitions=5)
QUICK = Size(branches=16, on_threads=32, idle=20, repetitions=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure one execution at a time, whose branches run at the same time."""
    size = QUICK if quick else FULL
    figures = [*_on_processes(testbed, size), *_on_threads(testbed, size), *_idle(testbed, size)]
    return Section(figures, _method(size))


def _on_processes(testbed: Testbed, size: Size) -> list[Figure]:
    name = f"{size.branches} branches of {WAIT * 1000:g} ms, {PLACES} at a time"
    print_step(name)
    workflow_id = "parallel-processes"
    arguments = {"seconds": WAIT}
    workflow = branches(
        workflow_id,
        size.branches,
        "benchmarks.outside",
        arguments,
        {"concurrency": PLACES},
        queue=workflow_id,
    )
    testbed.client.deploy(workflow)
    pids = testbed.start_workers(workflow_id, concurrency=PLACES, options=["--queues", workflow_id])
    ours = DurableExecutions(testbed, pids, workflow_id)
    hops = size.branches + 1
    (batches,) = in_turns([ours], 1, hops, size.repetitions)
    redis, postgres = _calls(testbed, ours, hops)
    testbed.stop_workers(workflow_id)
    return [
        ratio_at_least(
            f"{name}: throughput, relative to the ideal", _share(batches, WAIT, PLACES), PROCESSES_LIMIT
        ),
        at_most("- calls of Redis per hop", redis, REDIS_LIMIT),
        at_most("- transactions of Postgres per hop", postgres, POSTGRES_LIMIT),
    ]


def _calls(testbed: Testbed, ours: DurableExecutions, hops: int) -> tuple[float, float]:
    """Return the calls of Redis per hop, and the transactions of Postgres, of further executions."""
    redis = Counters.now(testbed)
    ours.run(1, hops)
    calls = (Counters.now(testbed) - redis).calls
    # Reading them ends all sessions, which connect again: one execution is subtracted from several.
    transactions = _transactions(testbed, ours, hops, 1 + COUNTED) - _transactions(testbed, ours, hops, 1)
    each = transactions / COUNTED - 1  # the start has one
    return (calls["evalsha"] + calls["eval"]) / hops, each / hops


def _transactions(testbed: Testbed, ours: DurableExecutions, hops: int, executions: int) -> int:
    before = TableCounters.at_last(testbed)
    for _ in range(executions):
        ours.run(1, hops)
    return (TableCounters.at_last(testbed) - before).transactions


def _on_threads(testbed: Testbed, size: Size) -> list[Figure]:
    name = (
        f"{size.on_threads} branches of {LONGER_WAIT * 1000:g} ms on {THREADS} threads, {THREADS} at a time"
    )
    print_step(name)
    workflow_id = "parallel-threads"
    arguments = {"seconds": LONGER_WAIT}
    workflow = branches(
        workflow_id,
        size.on_threads,
        "benchmarks.outside",
        arguments,
        {"concurrency": THREADS},
        queue=workflow_id,
    )
    testbed.client.deploy(workflow)
    pids = testbed.start_workers(
        workflow_id,
        concurrency=THREADS,
        options=["--pool", "threads", "--queues", workflow_id],
        environment={f"{ENVIRONMENT_PREFIX}DATABASE_POOL_SIZE": str(THREADS)},
    )
    raw_name, options = "raw-threads-results", ["--pool", "threads"]
    with RawWorker(testbed, THREADS, raw_name, THREADS_DATABASE, options, results=True) as raw:
        contenders: list[Contender] = [
            DurableExecutions(testbed, pids, workflow_id),
            RawChords(raw, "outside", LONGER_WAIT),
        ]
        ours, chords = in_turns(contenders, 1, size.on_threads + 1, size.repetitions)
    testbed.stop_workers(workflow_id)
    share = _share(ours, LONGER_WAIT, THREADS)
    return [
        ratio_at_least(f"{name}: throughput, relative to the ideal", share, THREADS_LIMIT),
        Figure("- Celery's own chord, on the same pool", _share(chords, LONGER_WAIT, THREADS).text()),
        Figure("- ratio of the time to the chord", Spread.of(ratios(ours, chords)).text()),
    ]


def _idle(testbed: Testbed, size: Size) -> list[Figure]:
    name = f"{size.idle} branches that do nothing"
    print_step(name)
    pids = testbed.start_workers(WORKER)
    contenders = []
    ways: list[Mapping[str, Any]] = [{}, {"hops": "inline"}, {"pure": "inline"}, {"concurrency": PLACES}]
    for settings in ways:
        workflow_id = "-".join(["idle", *settings])
        function = "benchmarks.pure_no_op" if "pure" in settings else "benchmarks.no_op"
        testbed.client.deploy(branches(workflow_id, size.idle, function, settings=settings))
        contenders.append(DurableExecutions(testbed, pids, workflow_id))
    with RawWorker.with_results(testbed, PROCESSES) as raw:
        alone, inline, pure, at_once, chords = in_turns(
            [*contenders, RawChords(raw)], 1, size.idle + 1, size.repetitions
        )
    testbed.stop_workers(WORKER)

    def beside(batches: Sequence[Batch]) -> Spread:
        return Spread.of(ratios(batches, chords))

    return [
        seconds_figure(f"{name}: Celery's own chord", chords),
        seconds_figure("- one after the other", alone),
        Figure("- ratio to the chord", beside(alone).text()),
        seconds_figure("- one after the other, with `hops: inline`", inline),
        ratio_at_most("- ratio to the chord", beside(inline), CHORD_LIMIT),
        seconds_figure("- of pure nodes, with `pure: inline`", pure),
        ratio_at_most("- ratio to the chord", beside(pure), CHORD_LIMIT),
        seconds_figure(f"- {PLACES} at a time", at_once),
        Figure("- ratio to the chord", beside(at_once).text()),
    ]


def _share(batches: Sequence[Batch], wait: float, places: int) -> Spread:
    """Return the share of the time in which every place is taken by a waiting node."""
    return Spread.of([(batch.hops - 1) * wait / places / batch.seconds for batch in batches])


def _method(size: Size) -> str:
    return (
        f"One execution at a time, {size.repetitions} times after a warm-up: branches whose node sleeps, and "
        f"a merge. The worker has as many processes as places ({PLACES}), or {THREADS} threads. Ideally "
        "every place sleeps all the time. A worker of raw Celery with as many threads runs a chord of such "
        "tasks, alternating. Calls are those of one more execution, without those of Celery. "
        "Transactions include those of the worker's timekeeper. Branches that do nothing are the unkind "
        f"case, on {PROCESSES} processes like Celery's chord: their commits take turns at one row. "
        "Figures are medians, with the least and the greatest in brackets."
    )
