"""The cost of a durable hop beside a raw one: at saturation, beside a busy neighbour, and on an idle system.

Every figure is beside Celery's own of the same run, measured alternately, because a hop's time says more
about the machine than about the engine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from benchmarks.chart import Bar, Bars, Stacks, drawn
from benchmarks.commits import CommitsAlone
from benchmarks.contenders import (
    Batch,
    Contender,
    DurableExecutions,
    RawChains,
    RawWorker,
    hop_figure,
    in_turns,
    processor_ratios,
    ratios,
)
from benchmarks.neighbour import busy_neighbour
from benchmarks.nodes import Hops, half_pure, no_ops
from benchmarks.report import Figure, Section, Spread, at_most, ratio_at_least
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from benchmarks.usage import Usage
from workflow_engine import Workflow

SPREAD_LIMIT, INLINE_LIMIT, HALF_PURE_LIMIT = 1.4, 3.0, 6.0
"""Throughput of hops that are tasks of their own, of those that stay on their worker, and of those if every
other node is pure, relative to raw ones."""
NEIGHBOUR_LIMIT = 1.0
"""Throughput of hops that are tasks of their own, beside a neighbour that keeps every core busy."""
LATENCY_LIMIT = 2.0
"""A one-node execution, relative to a bare task with a result."""
DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")

NODES = 10
REST = 0.005
"""Seconds between two measurements of latency, so that the last one has ended."""

ONE_NODE = "one-node"
COMMITS = "commits-alone"
THROUGHPUT = "- throughput, relative to the chain"


HALF_PURE = "inline, every other node pure"

WAYS: Mapping[str, float] = {"spread": SPREAD_LIMIT, "inline": INLINE_LIMIT, HALF_PURE: HALF_PURE_LIMIT}
"""The ways in which nodes are run, and the least throughput of such hops, relative to raw ones."""


def _workflows(nodes: int) -> dict[str, Workflow]:
    """Return a workflow for each way."""
    hops: tuple[Hops, ...] = get_args(Hops)
    return {way: no_ops(way, nodes, hops=way) for way in hops} | {HALF_PURE: half_pure("half-pure", nodes)}


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    repetitions: int
    latencies: int


FULL = Size(at_once=200, repetitions=7, latencies=200)
QUICK = Size(at_once=20, repetitions=2, latencies=10)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure a hop, on one worker of two processes for the engine and one for raw Celery."""
    size = QUICK if quick else FULL
    workflows = _workflows(NODES)
    for workflow in workflows.values():
        testbed.client.deploy(workflow)
    testbed.client.deploy(no_ops(ONE_NODE, 1))
    # Started like any other, but no worker serves its queue: its nodes are only committed.
    testbed.client.deploy(no_ops(COMMITS, 1, queue=COMMITS))
    pids = testbed.start_workers(WORKER)
    with RawWorker(testbed, PROCESSES) as raw, CommitsAlone(testbed, COMMITS) as alone:
        print_step(f"{size.at_once} executions of {NODES} nodes at once, and chains, alternating")
        contenders: list[Contender] = [RawChains(raw), alone]
        contenders += (DurableExecutions(testbed, pids, workflows[way].id) for way in WAYS)
        theirs, commits, *batches = in_turns(contenders, size.at_once, NODES, size.repetitions)
        with busy_neighbour() as neighbours:
            print_step(f"and beside a neighbour of {neighbours} processes that never wait")
            raw_beside, *beside = in_turns(
                [contenders[0], *contenders[2:]], size.at_once, NODES, size.repetitions, warm_up=False
            )
    ours = dict(zip(WAYS, batches, strict=True))
    print_step("one after another on an idle system")
    latency = _latency(testbed, size)
    testbed.stop_workers(*pids)
    figures = [
        _durability(testbed),
        *_of_saturation(theirs, ours, commits),
        *_of_neighbour(raw_beside, dict(zip(WAYS, beside, strict=True))),
        *latency,
    ]
    return Section(figures, _method(size), chart=_chart(theirs, ours))


def _durability(testbed: Testbed) -> Figure:
    values = [testbed.rows(f"SHOW {name}")[0][0] for name in DURABILITY]
    is_on = all(value == "on" for value in values)
    return Figure(f"{', '.join(DURABILITY)}, as Postgres shows them", ", ".join(values), "on, on, on", is_on)


def _of_saturation(
    theirs: Sequence[Batch], ours: Mapping[str, Sequence[Batch]], commits: Sequence[Batch]
) -> Iterator[Figure]:
    yield hop_figure(f"time per hop, {PROCESSES} processes at saturation: Celery's own chain", theirs)
    for hops, batches in ours.items():
        yield hop_figure(f"- {hops}", batches)
        yield ratio_at_least(THROUGHPUT, _throughput(batches, theirs), WAYS[hops])
    yield hop_figure(f"- {PROCESSES} processes that do nothing but commit", commits)
    yield Figure("- their throughput, relative to the chain", _throughput(commits, theirs).text())
    yield from _processor_time("Celery's own chain", theirs)
    for hops, batches in ours.items():
        yield from _processor_time(hops, batches)
        ratio = Spread.of(processor_ratios(batches, theirs))
        yield Figure("- ratio, without the rest of the machine", ratio.text())


def _of_neighbour(theirs: Sequence[Batch], ours: Mapping[str, Sequence[Batch]]) -> Iterator[Figure]:
    yield hop_figure("time per hop beside a busy neighbour: Celery's own chain", theirs)
    for hops, batches in ours.items():
        yield hop_figure(f"- {hops}", batches)
        throughput = _throughput(batches, theirs)
        if hops == "spread":
            yield ratio_at_least(THROUGHPUT, throughput, NEIGHBOUR_LIMIT)
        else:
            yield Figure(THROUGHPUT, throughput.text())


def _throughput(ours: Sequence[Batch], theirs: Sequence[Batch]) -> Spread:
    return Spread.of([1 / ratio for ratio in ratios(ours, theirs)])


def _processor_time(name: str, batches: Sequence[Batch]) -> Iterator[Figure]:
    def text(seconds: float) -> str:
        return f"{seconds:.2f} s"

    parts = _parts(batches)
    yield Figure(f"processor time of 1,000 hops, {name}", text(sum(parts.values())))
    for part, seconds in parts.items():
        yield Figure(f"- {part}", text(seconds))
    yield Figure("- and the rest of the machine", text(_median(batches, lambda used: used.others)))
    switches = statistics.median(batch.used.switches / batch.hops for batch in batches)
    yield Figure("- context switches of the machine per hop", f"{switches:.1f}")


def _parts(batches: Sequence[Batch]) -> dict[str, float]:
    """Return the seconds of processor time of 1,000 hops, by process."""

    def pool(used: Usage) -> float:
        # All threads of the main process but its first belong to the engine, like the pool.
        return used.workers.children + used.workers.other_threads

    return {
        "worker's main process": _median(batches, lambda used: used.workers.first_thread),
        "its pool": _median(batches, pool),
        "Redis": _median(batches, lambda used: used.redis.total),
        # No chain of Celery's touches it; its time then is its own housekeeping.
        "Postgres": _median(batches, lambda used: used.postgres.total),
    }


def _median(batches: Sequence[Batch], share: Callable[[Usage], float]) -> float:
    return statistics.median(1000 * share(batch.used) / batch.hops for batch in batches)


def _chart(theirs: Sequence[Batch], ours: Mapping[str, Sequence[Batch]]) -> str:
    def bar(label: str, batches: Sequence[Batch], is_ours: bool = True) -> Bar:
        return Bar(label, Spread.of([1000 * batch.seconds_per_hop for batch in batches]), is_ours)

    chain = "Celery's own chain"
    return drawn(
        "The cost of a durable hop beside one of Celery's own chain",
        Bars(
            f"Time per hop, {PROCESSES} processes at saturation",
            "Median of the batches, with the least and the greatest. Lower is better.",
            "ms",
            [bar(chain, theirs, is_ours=False), *(bar(hops, batches) for hops, batches in ours.items())],
        ),
        Stacks(
            "Processor time of 1,000 hops",
            "A chain stores nothing; the engine commits every node to Postgres.",
            "s",
            {chain: _parts(theirs)} | {hops: _parts(batches) for hops, batches in ours.items()},
        ),
    )


# -- on an idle system -------------------------------------------------------------------------------------


def _latency(testbed: Testbed, size: Size) -> list[Figure]:
    """Measure one-node executions and bare tasks alternately, each begun when the last has ended."""

    def execution() -> None:
        testbed.client.wait(testbed.client.start(ONE_NODE).id, timeout=10)

    def bare_task() -> None:
        no_op.apply_async().get(timeout=10)

    ours, bare = [], []
    with RawWorker.with_results(testbed, PROCESSES) as raw:
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
        "prefork, default settings, no result backend, on another database of the same Redis. Both run "
        f"{size.at_once} chains of {NODES} tasks that do nothing, alternating, {size.repetitions} times "
        "after a warm-up. The engine runs them three times: with each node as a task of its own (spread), "
        "with a worker that keeps walking (inline), and so that every other node is pure. Each worker is "
        "stopped until all its chains are queued. "
        "The time per hop is that of the whole batch, from there to the end of the last chain, divided by "
        "its hops. Alternating with these, as many processes commit as many nodes and do nothing else. "
        "Then the same batches alternate beside a busy neighbour: one process per core that never waits. "
        "Figures are medians, with the least and the greatest in brackets. The operating system counts the "
        "processor time."
    )
