"""One execution alone, with nodes that do next to nothing, that work, and that branch and join.

Where a node works, the engine's share of it shrinks; where it does not, this is the cost of the engine for
one execution on an idle system.
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
    seconds_figure,
)
from benchmarks.nodes import Hops, branches, in_line
from benchmarks.report import Figure, Section, Spread
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from workflow_engine import Workflow


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    light: int
    """Nodes of fib(10)."""
    heavy: int
    """Nodes of `fib(hard)`."""
    hard: int
    branches: int
    repetitions: int


FULL = Size(light=40, heavy=10, hard=33, branches=500, repetitions=5)
QUICK = Size(light=10, heavy=2, hard=15, branches=20, repetitions=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure single executions, on one worker of two processes for each contender."""
    size = QUICK if quick else FULL
    pids = testbed.start_workers(WORKER, concurrency=PROCESSES)

    def engine(workflow: Workflow) -> Contender:
        testbed.client.deploy(workflow)
        return DurableExecutions(testbed, pids, workflow.id)

    light = [engine(_fibs(f"light-{hops}", size.light, 10, hops)) for hops in get_args(Hops)]
    heavy = engine(_fibs("heavy", size.heavy, size.hard))
    join = engine(branches("join", size.branches))
    with (
        RawWorker(testbed, PROCESSES) as raw,
        RawWorker.with_results(testbed, PROCESSES) as with_results,
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
    testbed.stop_workers(*pids)
    return Section(figures, _method(size))


def _fibs(workflow_id: str, nodes: int, n: int, hops: Hops = "spread") -> Workflow:
    return in_line(workflow_id, nodes, "benchmarks.fib", {"n": n}, hops)


def _of_light(name: str, contenders: Sequence[Contender], size: Size) -> list[Figure]:
    print_step(name)
    spread, inline, chains = in_turns(contenders, 1, size.light, size.repetitions)
    return [
        *_figures(name, size.light, spread, chains),
        seconds_figure("- with `hops: inline`", inline),
        Figure("- ratio of that to the chain", Spread.of(ratios(inline, chains)).text()),
    ]


def _of_line(name: str, ours: Contender, theirs: Contender, nodes: int, size: Size) -> list[Figure]:
    print_step(name)
    executions, chains = in_turns([ours, theirs], 1, nodes, size.repetitions)
    return _figures(name, nodes, executions, chains)


def _of_join(name: str, ours: Contender, raw: Sequence[Contender], size: Size) -> list[Figure]:
    print_step(name)
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
    """Return the figures of the engine, of the chain, and of Celery's alternatives to it."""
    figures = [
        seconds_figure(f"{name}: execution", ours),
        seconds_figure(f"- Celery's own chain of {nodes}", theirs),
        Figure("- ratio", Spread.of(ratios(ours, theirs)).text()),
    ]
    for other, batches in (beside or {}).items():
        figures.append(seconds_figure(f"- {other}", batches))
        figures.append(Figure("- ratio to that", Spread.of(ratios(ours, batches)).text()))
    return figures


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes with Celery's defaults, and one of raw Celery; another keeps "
        "its results in Redis, as a chord requires. One execution at a time, alternating with the chain, "
        f"{size.repetitions} times after a warm-up; from the first node to the end. The branches run one "
        "after another, like all nodes of an execution. Each message of a Celery chain carries the rest of "
        "the chain, so a long chain slows itself down. Figures are medians, with the least and the greatest "
        "in brackets."
    )
