"""Hops over RabbitMQ: its quorum queues have the messages, Redis the contexts and locks.

The same work as in `hops`, beside Celery's own chain over the same RabbitMQ.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

from benchmarks.contenders import (
    Batch,
    Contender,
    DurableExecutions,
    RawChains,
    RawWorker,
    hop_figure,
    in_turns,
    ratios,
)
from benchmarks.nodes import Hops, no_ops
from benchmarks.processor_time import of_the_tree
from benchmarks.report import SCALING, Figure, Section, Spread
from benchmarks.testbed import PROCESSES, Testbed, print_step
from workflow_engine import WorkflowClient
from workflow_engine.embedded.rabbitmq import EmbeddedRabbit
from workflow_engine.engine.assembly import Engine

NODES = 10
WORKER, RAW_WORKER = "worker-over-rabbitmq", "raw-over-rabbitmq"
WAYS: tuple[Hops, ...] = get_args(Hops)


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    repetitions: int


FULL = Size(at_once=100, repetitions=5)
QUICK = Size(at_once=10, repetitions=1)


@dataclass
class OverRabbit:
    """A contender, and the processor time that RabbitMQ takes for each of its batches."""

    contender: Contender
    rabbit: EmbeddedRabbit
    brokers_seconds: list[float] = field(default_factory=list)

    def run(self, number: int, nodes: int) -> Batch:
        """Run the chains. Raises BenchmarkFailed."""
        before = of_the_tree(self.rabbit.pid)
        batch = self.contender.run(number, nodes)
        self.brokers_seconds.append((of_the_tree(self.rabbit.pid) - before) / batch.hops)
        return batch


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure a hop over RabbitMQ, on one worker of two processes for the engine and one for raw Celery.

    Raises `EmbeddedServerFailed` if this machine has no RabbitMQ.
    """
    size = QUICK if quick else FULL
    with EmbeddedRabbit() as rabbit:
        client = WorkflowClient(engine=Engine.assemble(testbed.settings_over(rabbit.url)))
        for way in WAYS:
            client.deploy(no_ops(way, NODES, hops=way))
        app = "benchmarks.engine_over_rabbitmq"
        pids = testbed.start_workers(WORKER, app=app, broker_url=rabbit.url)
        with RawWorker(testbed, PROCESSES, RAW_WORKER, broker_url=rabbit.url) as raw:
            print_step(f"{size.at_once} executions of {NODES} nodes at once, and chains, alternating")
            contenders = [
                OverRabbit(RawChains(raw, "no_op_acknowledged_late"), rabbit),
                OverRabbit(RawChains(raw), rabbit),
                *(OverRabbit(DurableExecutions(testbed, pids, way, client), rabbit) for way in WAYS),
            ]
            batches = in_turns(contenders, size.at_once, NODES, size.repetitions)
        testbed.stop_workers(WORKER)
    figures = list(_figures(contenders, batches))
    return Section(figures, _method(size), document=SCALING)


def _figures(contenders: Sequence[OverRabbit], batches: Sequence[Sequence[Batch]]) -> Iterator[Figure]:
    theirs, early, *of_ways = batches
    yield hop_figure(f"time per hop, {PROCESSES} processes at saturation: Celery's own chain", theirs)
    yield hop_figure("- acknowledged early", early)
    for way, ours in zip(WAYS, of_ways, strict=True):
        yield hop_figure(f"- {way}", ours)
        throughput = Spread.of([1 / ratio for ratio in ratios(ours, theirs)])
        yield Figure("- throughput, relative to the chain", throughput.text())
    names = ["Celery's own chain", "acknowledged early", *WAYS]
    for name, contender, ours in zip(names, contenders, batches, strict=True):
        yield Figure(f"processor time of 1,000 hops, {name}", _per_thousand(_workers_and_stores(ours)))
        yield Figure("- of RabbitMQ besides", _per_thousand(contender.brokers_seconds[-len(ours) :]))


def _workers_and_stores(batches: Sequence[Batch]) -> list[float]:
    return [batch.processor_seconds_per_hop for batch in batches]


def _per_thousand(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2f} s"


def _method(size: Size) -> str:
    return (
        "One RabbitMQ with a quorum queue for the engine and one for Celery's own chain, contexts and locks "
        f"on Redis, and a worker of {PROCESSES} processes each. The messages of both are persistent and "
        "acknowledged after their task, none is confirmed to its publisher. Celery's worker has the prefetch "
        "multiplier that is its default, 4. Its chain stores nothing; acknowledged early, as by default, it "
        f"loses a task with its process. {size.at_once} chains of {NODES} tasks that "
        f"do nothing, alternating, {size.repetitions} times after a warm-up, as in "
        "[performance](performance.md#hops). Figures are medians, with the least and the greatest in "
        "brackets. The processor time is that of the workers, Redis and Postgres."
    )
