"""Celery's tasks as nodes, and a canvas made durable, beside what Celery does with them itself.

All do the same: a task that does nothing. What differs is who calls it, and what is stored on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery import chord

from benchmarks import raw_celery
from benchmarks.contenders import (
    Batch,
    DurableExecutions,
    RawChains,
    RawChords,
    RawWorker,
    hop_figure,
    in_turns,
    processor_ratios,
    ratios,
    seconds_figure,
)
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, Spread, ratio_at_most
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from workflow_engine import Workflow, WorkflowBuilder, durable

TASK_LIMIT = 1.15
"""The processor time of a node that runs a task, relative to one that calls a function."""

CHORD_LIMIT = 1.0
"""The time of a durable chord, relative to Celery's own."""

NODES = 20


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    members: int
    repetitions: int


FULL = Size(at_once=30, members=500, repetitions=9)
QUICK = Size(at_once=2, members=210, repetitions=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure a task as a node, and a chord, on one worker of two processes for each contender."""
    size = QUICK if quick else FULL
    pids = testbed.start_workers(WORKER, concurrency=PROCESSES)
    figures = [*_as_nodes(testbed, pids, size), *_as_a_chord(testbed, pids, size)]
    testbed.stop_workers(WORKER)
    return Section(figures, _method(size))


def _as_nodes(testbed: Testbed, pids: dict[str, int], size: Size) -> list[Figure]:
    print_step(f"lines of {NODES} functions and of {NODES} Celery tasks, and Celery's own chain of these")
    workflows = [no_ops("functions", NODES), _tasks("tasks", NODES)]
    for workflow in workflows:
        testbed.client.deploy(workflow)
    ours = [DurableExecutions(testbed, pids, workflow.id) for workflow in workflows]
    with RawWorker(testbed, PROCESSES) as raw:
        functions, tasks, sent = in_turns([*ours, RawChains(raw)], size.at_once, NODES, size.repetitions)
    return [
        hop_figure("time of a node that calls a Python function", functions),
        hop_figure("- that runs a Celery task", tasks),
        Figure("- ratio", Spread.of(ratios(tasks, functions)).text()),
        ratio_at_most("- ratio of the processor time", _spent(tasks, functions), TASK_LIMIT),
        hop_figure("the same task in Celery's own chain", sent),
        Figure("- the node, relative to that", Spread.of(ratios(tasks, sent)).text()),
    ]


def _as_a_chord(testbed: Testbed, pids: dict[str, int], size: Size) -> list[Figure]:
    name = f"a chord of {size.members} tasks that do nothing"
    print_step(name)
    header = [raw_celery.no_op.si() for _ in range(size.members)]
    canvas = durable(chord(header, raw_celery.no_op.si()), "chord", client=testbed.client)
    testbed.client.deploy(canvas.workflow)
    ours = DurableExecutions(testbed, pids, "chord", data=dict(canvas.data))
    with RawWorker.with_results(testbed, PROCESSES) as raw:
        kept, lost = in_turns([ours, RawChords(raw)], 1, size.members + 1, size.repetitions)
    return [
        seconds_figure(f"{name}: Celery's own", lost),
        seconds_figure("- by `durable(…)`", kept),
        ratio_at_most("- ratio", Spread.of(ratios(kept, lost)), CHORD_LIMIT),
        Figure("- ratio of the processor time", _spent(kept, lost).text()),
    ]


def _tasks(workflow_id: str, nodes: int) -> Workflow:
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.celery_task(f"step{number}", raw_celery.no_op)
    return flow.build()


def _spent(ours: Sequence[Batch], theirs: Sequence[Batch]) -> Spread:
    return Spread.of(processor_ratios(ours, theirs))


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes for each side. Lines: {size.at_once} executions of {NODES} "
        "nodes at once, in turns with Celery's own chain without a result backend. Chords: one at a time, in "
        "turns, Celery's with its results in Redis; the clock begins when all is queued. Each "
        f"{size.repetitions} times after a warm-up. Processor time is of the worker, Redis and Postgres. "
        "Figures are medians, with the least and the greatest in brackets."
    )
