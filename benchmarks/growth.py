"""What must not grow: a hop's cost with the length of its execution, and with the size of the tables.

Hops of the same execution are compared with each other, in the journal's own times. Few and many rows are in
two schemas of the same database, each with a worker of its own, so that the two can alternate.
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
    hop_figure,
    in_turns,
    ratios,
)
from benchmarks.history import copy_execution, keep_only
from benchmarks.nodes import kilobytes, no_ops
from benchmarks.report import Figure, Section, Spread, ratio_at_most
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from workflow_engine import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres import migrations
from workflow_engine.settings import ENVIRONMENT_PREFIX

GROWTH_LIMIT = 1.1
"""A late hop relative to an early one; a hop in full tables relative to one in empty tables."""

NODES = 10
WINDOW = 8
"""The hops before and after a node whose median counts as its own."""

LONG, SHORT = "long", "short"

HOPS_AROUND = f"""
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FROM (
    SELECT seq, extract(epoch FROM completed_at - lag(completed_at) OVER (ORDER BY seq)) AS took
    FROM node_executions WHERE execution_id = '{{execution_id}}'
) hops WHERE seq BETWEEN {{node}} + 1 - {WINDOW} AND {{node}} + 1 + {WINDOW}
"""
"""The trigger's row is the first, so the number of a node's row is greater by one."""


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    nodes: tuple[int, ...]
    """The nodes of a long execution whose hops are compared with that of the first."""
    long_executions: int
    at_once: int
    repetitions: int
    few: int
    """Finished executions in the tables."""
    many: int


FULL = Size(nodes=(10, 100, 1000), long_executions=7, at_once=200, repetitions=7, few=10, many=100_000)
QUICK = Size(nodes=(10, 20, 50), long_executions=1, at_once=10, repetitions=1, few=10, many=1_000)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure growth, on workers of two processes."""
    size = QUICK if quick else FULL
    with RawWorker(testbed, PROCESSES) as raw:
        chains = RawChains(raw)
        return Section(
            [*_of_length(testbed, chains, size), *_of_tables(testbed, chains, size)], _method(size)
        )


# -- with the length of an execution -----------------------------------------------------------------------


def _of_length(testbed: Testbed, chains: Contender, size: Size) -> list[Figure]:
    first, *others = size.nodes
    testbed.client.deploy(kilobytes(LONG, size.nodes[-1] + WINDOW))
    testbed.start_workers(WORKER)
    print_step(f"{size.long_executions} executions of {size.nodes[-1]} nodes, one after another")
    hops: list[Mapping[int, float]] = []
    raw: list[Batch] = []
    for number in range(size.long_executions + 1):
        measured = _hops_of_a_long_execution(testbed, size), chains.run(1, first)
        if number > 0:  # the first is for caches and connections
            hops.append(measured[0])
            raw.append(measured[1])
    testbed.stop_workers(WORKER)
    beside_raw = [ours[first] / theirs.seconds_per_hop for ours, theirs in zip(hops, raw, strict=True)]
    figures = [
        Figure(
            f"one execution alone, outputs of 1 KB: hop at node {first}",
            Spread.of([ours[first] for ours in hops]).text("ms", 1000),
        ),
        Figure("- ratio to a hop of Celery's own chain, alone", Spread.of(beside_raw).text()),
    ]
    for node in others:
        grown = Spread.of([ours[node] / ours[first] for ours in hops])
        figures.append(
            ratio_at_most(f"- hop at node {node:,}, relative to node {first}", grown, GROWTH_LIMIT)
        )
    return figures


def _hops_of_a_long_execution(testbed: Testbed, size: Size) -> Mapping[int, float]:
    """Return the seconds of a hop by node."""
    execution_id = testbed.client.start(LONG).id
    testbed.client.wait(execution_id, timeout=60)
    return {
        node: float(testbed.rows(HOPS_AROUND.format(execution_id=execution_id, node=node))[0][0])
        for node in size.nodes
    }


# -- with what the tables hold -----------------------------------------------------------------------------


class BesideFinished:
    """Executions in a schema whose tables hold `finished` ended ones when each batch begins."""

    def __init__(self, testbed: Testbed, schema: str, finished: int) -> None:
        settings = testbed.settings.model_copy(update={"database_schema": schema, "queue": schema})
        migrations.upgrade(settings.database_url, schema)
        self._engine = Engine.assemble(settings)
        self._finished = finished
        client = WorkflowClient(engine=self._engine)
        client.deploy(no_ops(SHORT, NODES))
        pids = testbed.start_workers(
            schema,
            options=["--queues", schema],
            environment={
                f"{ENVIRONMENT_PREFIX}DATABASE_SCHEMA": schema,
                f"{ENVIRONMENT_PREFIX}QUEUE": schema,
            },
        )
        print_step(f"{finished:,} finished executions, copied in bulk from one that ran")
        original = client.start(SHORT).id
        client.wait(original, timeout=30)
        copy_execution(self._engine, original, finished - 1)
        self._executions = DurableExecutions(testbed, pids, SHORT, client)

    def run(self, number: int, nodes: int) -> Batch:
        """Run the executions. Raises BenchmarkFailed."""
        keep_only(self._engine, self._finished)
        return self._executions.run(number, nodes)


def _of_tables(testbed: Testbed, chains: Contender, size: Size) -> list[Figure]:
    schemas = {"few": size.few, "many": size.many}
    beside = [BesideFinished(testbed, schema, finished) for schema, finished in schemas.items()]
    print_step("hops beside them, alternating")
    few, many, raw = in_turns([*beside, chains], size.at_once, NODES, size.repetitions)
    testbed.stop_workers(*schemas)
    grown = ratio_at_most("- ratio of the two", Spread.of(ratios(many, few)), GROWTH_LIMIT)
    return [
        hop_figure(f"time per hop, {size.few} executions in the tables", few),
        Figure("- ratio to Celery's own chain", Spread.of(ratios(few, raw)).text()),
        hop_figure(f"time per hop, {size.many:,} executions in the tables", many),
        Figure("- ratio to Celery's own chain", Spread.of(ratios(many, raw)).text()),
        grown,
    ]


def _method(size: Size) -> str:
    return (
        f"Workers of {PROCESSES} processes with Celery's defaults. Hops along an execution are the times "
        f"between commits in the journal, each the median of the {2 * WINDOW + 1} hops around it, over "
        f"{size.long_executions} executions one after another. Hops beside finished executions are taken at "
        f"saturation ({size.at_once} executions of {NODES} nodes at once). Tables with few and with many "
        "executions are in two schemas of one database and alternate with Celery's own chain, "
        f"{size.repetitions} times after a warm-up. The rows that one run adds are removed before the next. "
        "Figures are medians, with the least and the greatest in brackets."
    )
