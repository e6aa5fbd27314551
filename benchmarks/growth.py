"""What must not grow: a hop's cost with the length of its execution, and with what the tables hold.

Hops of the same execution are compared with each other, in the journal's own times. Few and many rows stand
in two schemas of the same database, each with a worker of its own, so that the two can take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.contenders import (
    Batch,
    Contender,
    DurableExecutions,
    RawChains,
    RawWorker,
    hop_told,
    in_turns,
    ratios,
)
from benchmarks.fleet import PROCESSES, WORKER, Fleet, tell
from benchmarks.history import copy_execution, keep_only
from benchmarks.nodes import kilobytes, no_ops
from benchmarks.report import Figure, Section, Spread, ratio_at_most
from workflow_engine import WorkflowClient, migrations
from workflow_engine.engine import Engine
from workflow_engine.settings import ENVIRONMENT_PREFIX

GROWTH_LIMIT = 1.1
"""A hop far down or beside much, in hops at the beginning or beside nothing."""

NODES = 10
WINDOW = 8
"""Hops before and after a node of which the median counts as its own."""

LONG, SHORT = "long", "short"

HOPS_AROUND = f"""
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FROM (
    SELECT seq, extract(epoch FROM completed_at - lag(completed_at) OVER (ORDER BY seq)) AS took
    FROM node_executions WHERE execution_id = '{{execution_id}}'
) hops WHERE seq BETWEEN {{node}} + 1 - {WINDOW} AND {{node}} + 1 + {WINDOW}
"""
"""The trigger's row is the first, so a node's row bears a number greater by one."""


@dataclass(frozen=True)
class Size:
    """How many of what."""

    nodes: tuple[int, ...]
    """Where hops of a long execution are compared; the first is what the others are held against."""
    long_executions: int
    at_once: int
    repetitions: int
    few: int
    """Finished executions in the tables."""
    many: int


FULL = Size(nodes=(10, 100, 1000), long_executions=7, at_once=200, repetitions=7, few=10, many=100_000)
QUICK = Size(nodes=(10, 20, 50), long_executions=1, at_once=10, repetitions=1, few=10, many=1_000)


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """The figures of growth, on workers of two processes."""
    size = QUICK if quick else FULL
    with RawWorker(fleet, PROCESSES) as raw:
        chains = RawChains(raw)
        return Section([*_of_length(fleet, chains, size), *_of_tables(fleet, chains, size)], _method(size))


# -- with the length of an execution -----------------------------------------------------------------------


def _of_length(fleet: Fleet, chains: Contender, size: Size) -> list[Figure]:
    first, *others = size.nodes
    fleet.client.deploy(kilobytes(LONG, size.nodes[-1] + WINDOW))
    fleet.start_workers(WORKER)
    tell(f"{size.long_executions} executions of {size.nodes[-1]} nodes, one after another")
    hops: list[Mapping[int, float]] = []
    raw: list[Batch] = []
    for number in range(size.long_executions + 1):
        measured = _hops_of_a_long_execution(fleet, size), chains.run(1, first)
        if number > 0:  # the first is for caches and connections
            hops.append(measured[0])
            raw.append(measured[1])
    fleet.stop_workers(WORKER)
    beside_raw = [ours[first] / theirs.seconds_per_hop for ours, theirs in zip(hops, raw, strict=True)]
    figures = [
        Figure(
            f"one execution alone, outputs of 1 KB: hop at node {first}",
            Spread.of([ours[first] for ours in hops]).told("ms", 1000),
        ),
        Figure("- ratio to a hop of Celery's own chain, alone", Spread.of(beside_raw).told()),
    ]
    for node in others:
        grown = Spread.of([ours[node] / ours[first] for ours in hops])
        figures.append(ratio_at_most(f"- hop at node {node:,}, in hops at node {first}", grown, GROWTH_LIMIT))
    return figures


def _hops_of_a_long_execution(fleet: Fleet, size: Size) -> Mapping[int, float]:
    """Seconds of a hop by node."""
    execution_id = fleet.client.start(LONG).id
    fleet.client.wait(execution_id, timeout=60)
    return {
        node: float(fleet.rows(HOPS_AROUND.format(execution_id=execution_id, node=node))[0][0])
        for node in size.nodes
    }


# -- with what the tables hold -----------------------------------------------------------------------------


class BesideFinished:
    """Executions in a schema whose tables hold so many finished ones when each batch begins."""

    def __init__(self, fleet: Fleet, schema: str, finished: int) -> None:
        settings = fleet.settings.model_copy(update={"database_schema": schema, "queue": schema})
        migrations.upgrade(settings.database_url, schema)
        self._engine = Engine.assemble(settings)
        self._finished = finished
        client = WorkflowClient(engine=self._engine)
        client.deploy(no_ops(SHORT, NODES))
        pids = fleet.start_workers(
            schema,
            options=["--queues", schema],
            environment={
                f"{ENVIRONMENT_PREFIX}DATABASE_SCHEMA": schema,
                f"{ENVIRONMENT_PREFIX}QUEUE": schema,
            },
        )
        tell(f"{finished:,} finished executions, copied in bulk from one that ran")
        original = client.start(SHORT).id
        client.wait(original, timeout=30)
        copy_execution(self._engine, original, finished - 1)
        self._executions = DurableExecutions(fleet, pids, SHORT, client)

    def run(self, number: int, nodes: int) -> Batch:
        """Raises BenchmarkFailed."""
        keep_only(self._engine, self._finished)
        return self._executions.run(number, nodes)


def _of_tables(fleet: Fleet, chains: Contender, size: Size) -> list[Figure]:
    schemas = {"few": size.few, "many": size.many}
    beside = [BesideFinished(fleet, schema, finished) for schema, finished in schemas.items()]
    tell("hops beside them, in turns")
    few, many, raw = in_turns([*beside, chains], size.at_once, NODES, size.repetitions)
    fleet.stop_workers(*schemas)
    grown = ratio_at_most("- ratio of the two", Spread.of(ratios(many, few)), GROWTH_LIMIT)
    return [
        hop_told(f"time per hop, {size.few} executions in the tables", few),
        Figure("- ratio to Celery's own chain", Spread.of(ratios(few, raw)).told()),
        hop_told(f"time per hop, {size.many:,} executions in the tables", many),
        Figure("- ratio to Celery's own chain", Spread.of(ratios(many, raw)).told()),
        grown,
    ]


def _method(size: Size) -> str:
    return (
        f"Workers of {PROCESSES} processes with Celery's defaults. Hops along an execution are the times "
        f"between commits in the journal, each the median of the {2 * WINDOW + 1} hops around it, over "
        f"{size.long_executions} executions one after another. Hops beside finished executions are taken at "
        f"saturation ({size.at_once} executions of {NODES} nodes at once): tables with few and with many "
        "stand in two schemas of one database and take turns with Celery's own chain, "
        f"{size.repetitions} times after a first that does not count. What a turn adds to the tables is "
        "removed before the next. Figures are medians, in brackets the least and the greatest."
    )
