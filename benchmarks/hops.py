"""What a durable hop costs beside a raw one: at saturation, in processor time, and on an idle system.

Every figure stands beside Celery's own of the same run, taken in turns with it, because a hop's time says
more about the machine than about the engine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contenders import (
    Batch,
    DurableExecutions,
    RawChains,
    RawWorker,
    in_turns,
    processor_ratios,
    ratios,
)
from benchmarks.fleet import PROCESSES, WORKER, Fleet, tell
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, Spread, at_most, ratio_at_most

HOP_LIMIT = 1.0
"""A durable hop, in raw ones."""
LATENCY_LIMIT = 3.0
"""A one-node execution, in bare tasks with a result."""
DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")

NODES = 10
REST = 0.005
"""Seconds between two measurements of latency, for the last one's end to be over."""

SATURATION, ONE_NODE = "saturation", "one-node"


@dataclass(frozen=True)
class Size:
    """How many of what."""

    at_once: int
    repetitions: int
    latencies: int


FULL = Size(at_once=200, repetitions=7, latencies=200)
QUICK = Size(at_once=20, repetitions=2, latencies=10)


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """The figures of a hop, on one worker of two processes for each of the contenders."""
    size = QUICK if quick else FULL
    fleet.client.deploy(no_ops(SATURATION, NODES))
    fleet.client.deploy(no_ops(ONE_NODE, 1))
    pids = fleet.start_workers(WORKER)
    engine = DurableExecutions(fleet, pids, SATURATION)
    with RawWorker(fleet, PROCESSES) as raw:
        tell(f"{size.at_once} executions of {NODES} nodes at once, and chains, in turns")
        ours, theirs = in_turns([engine, RawChains(raw)], size.at_once, NODES, size.repetitions)
    saturation = _of_saturation(ours, theirs)
    tell("one after another on an idle system")
    latency = _latency(fleet, size)
    fleet.stop_workers(*pids)
    return Section([_durability(fleet), *saturation, *latency], _method(size))


def _durability(fleet: Fleet) -> Figure:
    values = [fleet.rows(f"SHOW {name}")[0][0] for name in DURABILITY]
    is_on = all(value == "on" for value in values)
    return Figure(f"{', '.join(DURABILITY)}, as Postgres shows them", ", ".join(values), "on, on, on", is_on)


def _of_saturation(ours: Sequence[Batch], theirs: Sequence[Batch]) -> list[Figure]:
    def time_of(batches: Sequence[Batch]) -> str:
        return Spread.of([batch.seconds_per_hop for batch in batches]).told("ms", 1000)

    return [
        Figure(f"time per hop, {PROCESSES} processes at saturation", time_of(ours)),
        Figure("- of Celery's own chain", time_of(theirs)),
        ratio_at_most("- ratio", Spread.of(ratios(ours, theirs)), HOP_LIMIT),
        *_processor_time("processor time of 1,000 hops", ours),
        *_processor_time("processor time of 1,000 hops of Celery's own chain", theirs, is_durable=False),
        Figure(
            "ratio of the processor time, Redis and Postgres included",
            Spread.of(processor_ratios(ours, theirs)).told(),
        ),
    ]


def _processor_time(name: str, batches: Sequence[Batch], is_durable: bool = True) -> list[Figure]:
    def told(share: Callable[[Batch], float]) -> str:
        return f"{statistics.median(1000 * share(batch) / batch.hops for batch in batches):.2f} s"

    figures = [
        Figure(f"{name}: worker's main process", told(lambda batch: batch.used.workers.first_thread)),
        Figure("- its pool", told(lambda batch: batch.used.workers.children)),
        Figure("- Redis", told(lambda batch: batch.used.redis.total)),
    ]
    if is_durable:
        figures.insert(2, Figure("- its other threads", told(lambda batch: batch.used.workers.other_threads)))
        figures.append(Figure("- Postgres", told(lambda batch: batch.used.postgres.total)))
    others = Figure("- all else on the machine", told(lambda batch: batch.used.others))
    return [*figures, others]


# -- on an idle system -------------------------------------------------------------------------------------


def _latency(fleet: Fleet, size: Size) -> list[Figure]:
    """One-node executions and bare tasks in turns, each begun when the one before has ended."""

    def execution() -> None:
        fleet.client.wait(fleet.client.start(ONE_NODE).id, timeout=10)

    def bare_task() -> None:
        no_op.apply_async().get(timeout=10)

    ours, bare = [], []
    with RawWorker.with_results(fleet, PROCESSES) as raw:
        no_op = raw.task("no_op")
        for _ in range(size.latencies):
            ours.append(_seconds(execution))
            bare.append(_seconds(bare_task))
    return [
        Figure("one-node execution, idle system, start to result: p50", _percentile(ours, 50)),
        Figure("- p95", _percentile(ours, 95)),
        Figure("bare Celery task, apply_async to result: p50", _percentile(bare, 50)),
        Figure("- p95", _percentile(bare, 95)),
        at_most("- ratio of the p50", statistics.median(ours) / statistics.median(bare), LATENCY_LIMIT),
    ]


def _seconds(run: Callable[[], None]) -> float:
    time.sleep(REST)
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _percentile(seconds: Sequence[float], percent: int) -> str:
    return f"{statistics.quantiles(seconds, n=100, method='inclusive')[percent - 1] * 1000:.2f} ms"


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes with Celery's defaults, and another for the raw chains: "
        "prefork, no setting touched, no result backend, on another database of the same Redis. Both run "
        f"{size.at_once} chains of {NODES} tasks that do nothing, in turns, {size.repetitions} times after a "
        "first that does not count; each worker is stopped until all its chains are queued. A hop's time is "
        "that of the whole batch, from there to the end of the last chain, divided by its hops. Figures are "
        "medians, in brackets the least and the greatest. Processor time is counted by the operating system."
    )
