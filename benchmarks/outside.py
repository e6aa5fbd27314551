"""Nodes that wait for something outside: how near a pool comes to what its size allows.

Such a node holds its thread or process without using it, so a pool is made larger than the machine. What is
lost against the ideal is the engine's own work, which the same two cores do meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import Batch, Contender, DurableExecutions, RawChains, RawWorker, in_turns, ratios
from benchmarks.fleet import Fleet, tell
from benchmarks.nodes import in_line
from benchmarks.report import Figure, Section, Spread, ratio_at_least
from workflow_engine.settings import ENVIRONMENT_PREFIX

OUTSIDE_LIMIT = 0.9
"""Of the ideal throughput."""

WAIT = 0.1
"""Seconds that each node waits."""

EXECUTIONS = 64


@dataclass(frozen=True)
class Size:
    """How many of what."""

    nodes: int
    pool: int
    repetitions: int


FULL = Size(nodes=10, pool=32, repetitions=5)
QUICK = Size(nodes=2, pool=32, repetitions=1)

POOLS = {"threads": 3, "prefork": 4}
"""Celery's pools, and the databases of their raw workers' Redis. The first is the one for such nodes, and is
held to the target."""


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """The throughput of each pool, and of Celery's own chain on the same pool, in parts of the ideal."""
    size = QUICK if quick else FULL
    figures: list[Figure] = []
    for pool in list(POOLS)[: 1 if quick else None]:
        tell(f"{EXECUTIONS} executions of {size.nodes} nodes, {size.pool} at once: {pool}")
        ours, theirs = _of_pool(fleet, pool, size)
        figures += _figures(pool, ours, theirs, size)
    return Section(figures, _method(size))


def _of_pool(fleet: Fleet, pool: str, size: Size) -> list[list[Batch]]:
    name, raw_name = f"outside-{pool}", f"raw-{pool}"
    # A queue of its own keeps its executions on its worker.
    fleet.client.deploy(in_line(name, size.nodes, "benchmarks.outside", {"seconds": WAIT}, queue=name))
    # Threads share a process, and with it what a process keeps of connections to Postgres.
    connections = size.pool if pool == "threads" else 1
    pids = fleet.start_workers(
        name,
        concurrency=size.pool,
        options=["--pool", pool, "--queues", name],
        environment={f"{ENVIRONMENT_PREFIX}DATABASE_POOL_SIZE": str(connections)},
    )
    with RawWorker(fleet, size.pool, raw_name, POOLS[pool], ["--pool", pool]) as raw:
        contenders: list[Contender] = [
            DurableExecutions(fleet, pids, name),
            RawChains(raw, "outside", WAIT),
        ]
        batches = in_turns(contenders, EXECUTIONS, size.nodes, size.repetitions)
    fleet.stop_workers(name)
    return batches


def _figures(pool: str, ours: Sequence[Batch], theirs: Sequence[Batch], size: Size) -> list[Figure]:
    def of_the_ideal(batches: Sequence[Batch]) -> Spread:
        ideal = EXECUTIONS * size.nodes * WAIT / size.pool
        return Spread.of([ideal / batch.seconds for batch in batches])

    name = f"{pool}, pool of {size.pool}: throughput, of the ideal"
    share = of_the_ideal(ours)
    hops_per_second = Spread.of([1 / batch.seconds_per_hop for batch in ours])
    processor = Spread.of([1000 * batch.processor_seconds_per_hop for batch in ours])
    return [
        ratio_at_least(name, share, OUTSIDE_LIMIT)
        if pool == next(iter(POOLS))
        else Figure(name, share.told()),
        Figure("- of Celery's own chain, on the same pool", of_the_ideal(theirs).told()),
        Figure("- ratio of the time per hop", Spread.of(ratios(ours, theirs)).told()),
        Figure("- hops a second", hops_per_second.told()),
        Figure("- processor time of 1,000 hops, servers included", processor.told("s")),
    ]


def _method(size: Size) -> str:
    return (
        f"{EXECUTIONS} executions at once of {size.nodes} nodes one after another, each of which sleeps "
        f"{WAIT * 1000:g} ms; one worker with a pool of {size.pool}, and one of raw Celery likewise, in "
        f"turns, {size.repetitions} times after a first that does not count. Ideal is that every place of "
        f"the pool sleeps all the time, {size.pool / WAIT:g} hops a second. A worker with threads is given "
        "WORKFLOW_ENGINE_DATABASE_POOL_SIZE as large as its pool. Figures are medians, in brackets the least "
        "and the greatest."
    )
