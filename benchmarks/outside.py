"""Nodes that wait for something outside: how near a pool comes to what its size allows.

Such a node holds its thread or process without using it, so a pool is larger than the machine. The gap to the
ideal is the engine's own work, which the same two cores do at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import Batch, Contender, DurableExecutions, RawChains, RawWorker, in_turns, ratios
from benchmarks.nodes import in_line
from benchmarks.report import Figure, Section, Spread, ratio_at_least
from benchmarks.testbed import Testbed, print_step
from workflow_engine.settings import ENVIRONMENT_PREFIX

OUTSIDE_LIMIT = 0.9
"""The share of the ideal throughput."""

WAIT = 0.1
"""Seconds that each node waits."""

EXECUTIONS = 64


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    nodes: int
    pool: int
    repetitions: int


FULL = Size(nodes=10, pool=32, repetitions=5)
QUICK = Size(nodes=2, pool=32, repetitions=1)

POOLS = {"threads": 3, "prefork": 4}
"""Celery's pools, and the databases of their raw workers' Redis. The first is the one for such nodes, and has
the target."""


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure the throughput of each pool, and of Celery's own chain on it, relative to the ideal."""
    size = QUICK if quick else FULL
    figures: list[Figure] = []
    for pool in list(POOLS)[: 1 if quick else None]:
        print_step(f"{EXECUTIONS} executions of {size.nodes} nodes, {size.pool} at once: {pool}")
        ours, theirs = _of_pool(testbed, pool, size)
        figures += _figures(pool, ours, theirs, size)
    return Section(figures, _method(size))


def _of_pool(testbed: Testbed, pool: str, size: Size) -> list[list[Batch]]:
    name, raw_name = f"outside-{pool}", f"raw-{pool}"
    # A queue of its own keeps its executions on its worker.
    testbed.client.deploy(in_line(name, size.nodes, "benchmarks.outside", {"seconds": WAIT}, queue=name))
    # Threads share a process, and with it the connections to Postgres that the process keeps.
    connections = size.pool if pool == "threads" else 1
    pids = testbed.start_workers(
        name,
        concurrency=size.pool,
        options=["--pool", pool, "--queues", name],
        environment={f"{ENVIRONMENT_PREFIX}DATABASE_POOL_SIZE": str(connections)},
    )
    with RawWorker(testbed, size.pool, raw_name, POOLS[pool], ["--pool", pool]) as raw:
        contenders: list[Contender] = [
            DurableExecutions(testbed, pids, name),
            RawChains(raw, "outside", WAIT),
        ]
        batches = in_turns(contenders, EXECUTIONS, size.nodes, size.repetitions)
    testbed.stop_workers(name)
    return batches


def _figures(pool: str, ours: Sequence[Batch], theirs: Sequence[Batch], size: Size) -> list[Figure]:
    def of_the_ideal(batches: Sequence[Batch]) -> Spread:
        ideal = EXECUTIONS * size.nodes * WAIT / size.pool
        return Spread.of([ideal / batch.seconds for batch in batches])

    name = f"{pool}, pool of {size.pool}: throughput, relative to the ideal"
    share = of_the_ideal(ours)
    hops_per_second = Spread.of([1 / batch.seconds_per_hop for batch in ours])
    processor = Spread.of([1000 * batch.processor_seconds_per_hop for batch in ours])
    return [
        ratio_at_least(name, share, OUTSIDE_LIMIT)
        if pool == next(iter(POOLS))
        else Figure(name, share.text()),
        Figure("- Celery's own chain, on the same pool", of_the_ideal(theirs).text()),
        Figure("- ratio of the time per hop", Spread.of(ratios(ours, theirs)).text()),
        Figure("- hops a second", hops_per_second.text()),
        Figure("- processor time of 1,000 hops, servers included", processor.text("s")),
    ]


def _method(size: Size) -> str:
    return (
        f"{EXECUTIONS} executions at once of {size.nodes} nodes one after another, each of which sleeps "
        f"{WAIT * 1000:g} ms. One worker with a pool of {size.pool}, and one of raw Celery with the same, "
        f"alternating, {size.repetitions} times after a warm-up. Ideally every slot of the pool sleeps all "
        f"the time: {size.pool / WAIT:g} hops a second. A worker with threads has "
        "WORKFLOW_ENGINE_DATABASE_POOL_SIZE set to the size of its pool. Figures are medians, with the least "
        "and the greatest in brackets."
    )
