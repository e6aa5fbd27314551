"""One execution alone, with nodes that do next to nothing, that work, and that branch and join.

Where a node works, the engine's share of it shrinks; where it does not, this is what one execution sees of
the engine when nobody else is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from benchmarks.contenders import (
    Batch,
    Contender,
    DurableExecutions,
    RawChains,
    RawChords,
    RawWorker,
    in_turns,
    ratios,
    seconds_told,
)
from benchmarks.fleet import PROCESSES, WORKER, Fleet, tell
from benchmarks.nodes import Hops, branches, in_line
from benchmarks.report import Figure, Section, Spread
from workflow_engine import Workflow


@dataclass(frozen=True)
class Size:
    """How many of what."""

    light: int
    """Nodes of fib(10)."""
    heavy: int
    """Nodes of `fib(hard)`."""
    hard: int
    branches: int
    repetitions: int


FULL = Size(light=40, heavy=10, hard=33, branches=500, repetitions=5)
QUICK = Size(light=10, heavy=2, hard=15, branches=20, repetitions=1)


def measure(fleet: Fleet, quick: bool = False) -> Section:
    """The figures of single executions, on one worker of two processes for each of the contenders."""
    size = QUICK if quick else FULL
    pids = fleet.start_workers(WORKER, concurrency=PROCESSES)

    def engine(workflow: Workflow) -> Contender:
        fleet.client.deploy(workflow)
        return DurableExecutions(fleet, pids, workflow.id)

    light = [engine(_fibs(f"light-{hops}", size.light, 10, hops)) for hops in get_args(Hops)]
    heavy = engine(_fibs("heavy", size.heavy, size.hard))
    join = engine(branches("join", size.branches))
    with (
        RawWorker(fleet, PROCESSES) as raw,
        RawWorker.with_results(fleet, PROCESSES) as with_results,
    ):
        figures = [
            *_of_light(f"{size.light} nodes of fib(10)", [*light, RawChains(raw, "fib", 10)], size),
            *_of_line(
                f"{size.heavy} nodes of fib({size.hard})",
                heavy,
                RawChains(raw, "fib", size.hard),
                size.heavy,
                size,
            ),
            *_of_join(
                f"{size.branches} branches that join", join, [RawChains(raw), RawChords(with_results)], size
            ),
        ]
    fleet.stop_workers(*pids)
    return Section(figures, _method(size))


def _fibs(workflow_id: str, nodes: int, n: int, hops: Hops = "spread") -> Workflow:
    return in_line(workflow_id, nodes, "benchmarks.fib", {"n": n}, hops)


def _of_light(name: str, contenders: Sequence[Contender], size: Size) -> list[Figure]:
    tell(name)
    spread, inline, chains = in_turns(contenders, 1, size.light, size.repetitions)
    return [
        *_figures(name, size.light, spread, chains),
        seconds_told("- with `hops: inline`", inline),
        Figure("- ratio of that to the chain", Spread.of(ratios(inline, chains)).told()),
    ]


def _of_line(name: str, ours: Contender, theirs: Contender, nodes: int, size: Size) -> list[Figure]:
    tell(name)
    executions, chains = in_turns([ours, theirs], 1, nodes, size.repetitions)
    return _figures(name, nodes, executions, chains)


def _of_join(name: str, ours: Contender, raw: Sequence[Contender], size: Size) -> list[Figure]:
    tell(name)
    nodes = size.branches + 1
    executions, chains, chords = in_turns([ours, *raw], 1, nodes, size.repetitions)
    beside: Mapping[str, Sequence[Batch]] = {"Celery's own chord, branches at once": chords}
    return _figures(name, nodes, executions, chains, beside)


def _figures(
    name: str,
    nodes: int,
    ours: Sequence[Batch],
    theirs: Sequence[Batch],
    beside: Mapping[str, Sequence[Batch]] | None = None,
) -> list[Figure]:
    """Of the engine, of the chain it is held against, and of what else Celery has for it."""
    figures = [
        seconds_told(f"{name}: execution", ours),
        seconds_told(f"- Celery's own chain of {nodes}", theirs),
        Figure("- ratio", Spread.of(ratios(ours, theirs)).told()),
    ]
    for other, batches in (beside or {}).items():
        figures.append(seconds_told(f"- {other}", batches))
        figures.append(Figure("- ratio to that", Spread.of(ratios(ours, batches)).told()))
    return figures


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes with Celery's defaults, and one of raw Celery; another keeps "
        "its results in Redis, which a chord needs. One execution at a time, in turns with the chain, "
        f"{size.repetitions} times after a first that does not count; from the first node to the end. The "
        "branches run one after another, as nodes of an execution do. A chain of Celery carries the rest of "
        "itself in every message, so that a long one slows itself down. Figures are medians, in brackets the "
        "least and the greatest."
    )
