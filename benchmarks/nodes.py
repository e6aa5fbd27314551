"""What the benchmarks' nodes call, and the workflows of them. Workers import it."""

from __future__ import annotations

import time
from typing import Any, Literal

from benchmarks import work
from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node

KILOBYTE = "x" * 1000

Hops = Literal["spread", "inline"]


@node("benchmarks.no_op")
def no_op(context: ExecutionContext) -> None:
    """The node that a raw task which does nothing is compared with."""


@node("benchmarks.kilobyte")
def kilobyte(context: ExecutionContext, previous: int) -> dict[str, object]:
    """Reads a number of the node before and puts out 1 KB of JSON."""
    return {"count": previous + 1, "text": KILOBYTE}


@node("benchmarks.text")
def text(length: int) -> str:
    """Puts out a text of so many bytes."""
    return "x" * length


@node("benchmarks.fib")
def fib(context: ExecutionContext, n: int) -> int:
    """Computes."""
    return work.fib(n)


@node("benchmarks.outside")
def outside(context: ExecutionContext, seconds: float) -> None:
    """Waits for something outside, and so holds its process or thread."""
    time.sleep(seconds)


def no_ops(workflow_id: str, nodes: int, hops: Hops = "spread", **options: Any) -> Workflow:
    """A trigger, and so many nodes one after another that do nothing."""
    return in_line(workflow_id, nodes, "benchmarks.no_op", hops=hops, **options)


def in_line(
    workflow_id: str,
    nodes: int,
    function: str,
    arguments: dict[str, Any] | None = None,
    hops: Hops = "spread",
    **options: Any,
) -> Workflow:
    """A trigger, and so many nodes one after another that call the same."""
    flow = WorkflowBuilder(workflow_id, settings={"hops": hops})
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.python(f"step{number}", function, arguments=arguments, **options)
    return flow.build()


def kilobytes(workflow_id: str, nodes: int, **options: Any) -> Workflow:
    """A trigger, and so many nodes one after another with outputs of 1 KB, each read by the next."""
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        previous = f"{{{{ step{number - 1}.count }}}}" if number > 1 else 0
        arguments = {"previous": previous}
        last = last >> flow.python(f"step{number}", "benchmarks.kilobyte", arguments=arguments, **options)
    return flow.build()


def branches(workflow_id: str, number: int, **options: Any) -> Workflow:
    """A trigger, so many branches of a node that does nothing, and the merge that waits for all."""
    flow = WorkflowBuilder(workflow_id)
    begin, joined = flow.trigger("begin"), flow.merge("joined", **options)
    for each in range(1, number + 1):
        begin >> flow.python(f"branch{each}", "benchmarks.no_op", **options) >> joined
    return flow.build()


def texts(workflow_id: str, nodes: int, length: int, *, rests: bool = False) -> Workflow:
    """A trigger, and so many nodes one after another with outputs of this length; at last perhaps a wait."""
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.python(f"step{number}", "benchmarks.text", arguments={"length": length})
    if rests:
        last >> flow.delay("rest", duration=1, unit="hours")
    return flow.build()
