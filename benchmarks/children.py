"""A loop over items: the time of its children beside a line of as many nodes, and who waits behind it.

A child costs its rows, its hops and one more lock at its end, when it counts in the row of its parent's wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import DurableExecutions, in_turns, ratios, seconds_figure
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, Spread, at_most, ratio_at_most
from benchmarks.testbed import WORKER, BenchmarkFailed, Testbed, print_step
from workflow_engine import ExecutionStatus, Workflow, WorkflowBuilder

ITEMS_LIMIT, BATCHES_LIMIT = 3.0, 1.3
"""The time of the loop, relative to a line of as many nodes; one item for each child, and many."""
DELAY_LIMIT = 1.0
"""Seconds by which a wide loop may delay another execution, at most."""

PLACES = 8
BATCH = 50
PROBE_TIMEOUT = 30.0
"""Seconds for an execution beside a wide loop."""


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    items: int
    wide: int
    """Items of the loop beside which other executions are started."""
    probes: int
    repetitions: int


FULL = Size(items=1_000, wide=10_000, probes=40, repetitions=5)
QUICK = Size(items=40, wide=100, probes=2, repetitions=1)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure one loop at a time on one worker of two processes, and a wide one on two."""
    size = QUICK if quick else FULL
    figures = [*_beside_a_line(testbed, size), *_behind_a_wide_loop(testbed, size)]
    return Section(figures, _method(size))


def _beside_a_line(testbed: Testbed, size: Size) -> list[Figure]:
    print_step(f"a loop over {size.items:,} items and a line of as many nodes, alternating")
    pids = testbed.start_workers(WORKER)
    workflows = [
        no_ops("line", size.items),
        _loop("each", {}),
        _loop("batches", {"batch": BATCH}),
    ]
    for workflow in workflows:
        testbed.client.deploy(workflow)
    data = {"items": list(range(size.items))}
    contenders = [DurableExecutions(testbed, pids, workflow.id, data=data) for workflow in workflows]
    lines, each, batches = in_turns(contenders, 1, size.items, size.repetitions)
    return [
        seconds_figure(f"a line of {size.items:,} nodes that do nothing", lines),
        seconds_figure(f"a loop over {size.items:,} items of one such node, {PLACES} at a time", each),
        ratio_at_most("- ratio", Spread.of(ratios(each, lines)), ITEMS_LIMIT),
        seconds_figure(f"- with {BATCH} items for each child", batches),
        ratio_at_most("- ratio of that", Spread.of(ratios(batches, lines)), BATCHES_LIMIT),
    ]


def _loop(workflow_id: str, config: dict[str, int]) -> Workflow:
    body = WorkflowBuilder("body")
    body.function("nothing", "{{ item }}")
    flow = WorkflowBuilder(workflow_id)
    begin = flow.trigger("begin")
    begin >> flow.loop("each", "{{ begin['items'] }}", body=body, config={"concurrency": PLACES, **config})
    return flow.build()


def _behind_a_wide_loop(testbed: Testbed, size: Size) -> list[Figure]:
    print_step(f"executions of one node beside a loop over {size.wide:,} items")
    testbed.start_workers(WORKER, "second")
    for workflow in (_loop("wide", {}), no_ops("probe", 1)):
        testbed.client.deploy(workflow)
    idle = [_probe(testbed) for _ in range(size.probes)]
    wide = testbed.client.start("wide", {"items": list(range(size.wide))}).id
    beside = [_probe(testbed) for _ in range(size.probes)]
    status = testbed.client.get(wide).status
    if status.is_finished and size is FULL:
        raise BenchmarkFailed(f"the loop over {size.wide:,} items was {status} before the probes had ended")
    testbed.client.control.cancel(wide)
    testbed.stop_workers(WORKER, "second")
    return [
        Figure(
            f"an execution of one node, before a loop over {size.wide:,} items begins", _milliseconds(idle)
        ),
        Figure("- while it runs", _milliseconds(beside)),
        at_most("- delayed by at most", max(beside) - min(idle), DELAY_LIMIT, "s"),
    ]


def _probe(testbed: Testbed) -> float:
    """Return the seconds from the start of an execution of one node to its end."""
    begin = time.perf_counter()
    execution = testbed.client.start("probe")
    ended = testbed.client.wait(execution.id, PROBE_TIMEOUT)
    if ended.status is not ExecutionStatus.COMPLETED:
        raise BenchmarkFailed(f"an execution of one node is {ended.status} after {PROBE_TIMEOUT:g} s")
    return time.perf_counter() - begin


def _milliseconds(seconds: Sequence[float]) -> str:
    return Spread.of(seconds).text("ms", 1000)


def _method(size: Size) -> str:
    return (
        "One worker of two processes. Every child runs one node that does nothing. With batches it gets "
        f"{BATCH} items as a list. Loop and line alternate, {size.repetitions} times after a warm-up. The "
        f"wide loop runs on two workers of two processes. Beside it, {size.probes} executions of one "
        "node are started one after the other, at the same priority. Figures are medians, with the least and "
        "the greatest in brackets."
    )
