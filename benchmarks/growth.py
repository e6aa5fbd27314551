"""What must not grow: memory, and a hop's cost with the length of its execution and with the tables.

Hops of the same execution are compared with each other, in the journal's own times. Those with few and with
many rows in the tables cannot be taken in turns, so each is held against raw hops of the same moment.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.contenders import DurableExecutions, RawChains
from benchmarks.fleet import Fleet, tell
from benchmarks.history import copy_execution
from benchmarks.hops import NODES, PROCESSES, in_turns, ratios
from benchmarks.nodes import kilobytes, no_ops
from benchmarks.report import Figure, Section, Spread, at_most, exactly, ratio_at_most

GROWTH_LIMIT = 1.1
"""A hop far down or beside much, in hops at the beginning or beside nothing."""
MEMORY_LIMIT = 5.0
"""Percent that a worker's memory may grow."""

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

    nodes: tuple[int, int, int]
    """Where hops of a long execution are compared; the first is what the others are held against."""
    long_executions: int
    at_once: int
    repetitions: int
    finished: int
    batches: int
    """Of `at_once` executions, while memory is watched."""


FULL = Size(
    nodes=(10, 100, 1000), long_executions=7, at_once=200, repetitions=5, finished=100_000, batches=10
)
QUICK = Size(nodes=(10, 20, 50), long_executions=1, at_once=10, repetitions=1, finished=1_000, batches=1)


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """The figures of growth, on one worker of two processes."""
    size = QUICK if quick else FULL
    fleet.client.deploy(kilobytes(LONG, size.nodes[-1] + WINDOW))
    fleet.client.deploy(no_ops(SHORT, NODES))
    pids = fleet.start_workers("worker1", concurrency=PROCESSES)
    fresh = _memory(pids)
    engine = DurableExecutions(fleet, pids, SHORT)
    memory = _of_memory(fleet, pids, engine, size)
    return Section(
        [
            *_of_length(fleet, size),
            *_of_tables(fleet, engine, size),
            Figure("memory of an idle worker, fresh", f"{fresh / 2**20:.0f} MiB"),
            *memory,
        ],
        _method(size),
    )


# -- with the length of an execution -----------------------------------------------------------------------


def _of_length(fleet: Fleet, size: Size) -> list[Figure]:
    tell(f"{size.long_executions} executions of {size.nodes[-1]} nodes, one after another")
    seconds = [_hops_of_a_long_execution(fleet, size) for _ in range(size.long_executions + 1)][1:]
    first, *others = size.nodes
    figures = [
        Figure(
            f"one execution alone, outputs of 1 KB: hop at node {first}",
            Spread.of([hops[first] for hops in seconds]).told("ms", 1000),
        )
    ]
    for node in others:
        grown = Spread.of([hops[node] / hops[first] for hops in seconds])
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


def _of_tables(fleet: Fleet, engine: DurableExecutions, size: Size) -> list[Figure]:
    with RawChains(fleet, PROCESSES) as raw:
        tell("hops beside empty tables")
        fleet.execute("TRUNCATE executions CASCADE")
        beside_few = ratios(*in_turns([engine, raw], size.at_once, size.repetitions))
        ((original,),) = fleet.rows(f"SELECT id::text FROM executions WHERE workflow_id = '{SHORT}' LIMIT 1")
        tell(f"{size.finished:,} finished executions, copied in bulk from one that ran")
        copy_execution(fleet, original, size.finished)
        tell("hops beside them")
        beside_many = ratios(*in_turns([engine, raw], size.at_once, size.repetitions))
    grown = Spread.of([each / statistics.median(beside_few) for each in beside_many])
    few = size.at_once * (size.repetitions + 1)
    name = f"hop with {size.finished:,} more executions in the tables, in hops beside {few:,} at most"
    return [ratio_at_most(name, grown, GROWTH_LIMIT)]


# -- memory ------------------------------------------------------------------------------------------------


def _of_memory(
    fleet: Fleet, pids: Mapping[str, int], engine: DurableExecutions, size: Size
) -> Sequence[Figure]:
    engine.run(size.at_once, NODES)  # loads what every process loads once
    before, keys_before = _memory(pids), _redis(fleet)
    hops = size.batches * size.at_once * NODES
    tell(f"{hops:,} hops, and what they leave behind")
    for _ in range(size.batches):
        engine.run(size.at_once, NODES)
    after, keys_after = _memory(pids), _redis(fleet)
    return [
        Figure("- after its first nodes", f"{before / 2**20:.0f} MiB"),
        at_most(f"- and its growth over {hops:,} hops", 100 * (after / before - 1), MEMORY_LIMIT, "%"),
        exactly("keys in Redis after them, beside those before", keys_after[0], keys_before[0]),
        Figure("- and memory used by Redis", f"{keys_before[1]:.2f} to {keys_after[1]:.2f} MiB"),
    ]


def _memory(pids: Mapping[str, int]) -> int:
    """Bytes of all processes of these workers; a page that several share is counted once (PSS)."""
    mains = [psutil.Process(pid) for pid in pids.values()]
    processes = [*mains, *(child for main in mains for child in main.children(recursive=True))]
    return sum(process.memory_full_info().pss for process in processes)


def _redis(fleet: Fleet) -> tuple[int, float]:
    """Keys of the engine's database, and the MiB that Redis uses."""
    return fleet.redis.dbsize(), fleet.redis.info("memory")["used_memory"] / 2**20


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes with Celery's defaults. Hops along an execution are the times "
        f"between commits in the journal, each the median of the {2 * WINDOW + 1} hops around it, over "
        f"{size.long_executions} executions one after another. Hops beside other executions are taken at "
        f"saturation ({size.at_once} executions of {NODES} nodes at once), each divided by that of Celery's "
        "own chain in turns with it. Memory is that of the worker's main process and its pool, pages that "
        "they share counted once."
    )
