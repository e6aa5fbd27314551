"""What the benchmarks' nodes call: nothing, or next to nothing. Workers import it."""

from __future__ import annotations

from collections.abc import Mapping

from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node

KILOBYTE = "x" * 1000


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


def no_ops(
    workflow_id: str, nodes: int, settings: Mapping[str, str] | None = None, **options: str
) -> Workflow:
    """A trigger, and so many nodes one after another that do nothing."""
    flow = WorkflowBuilder(workflow_id, settings=settings)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.python(f"step{number}", "benchmarks.no_op", **options)  # type: ignore[arg-type]
    return flow.build()


def kilobytes(workflow_id: str, nodes: int) -> Workflow:
    """A trigger, and so many nodes one after another with outputs of 1 KB, each read by the next."""
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        previous = f"{{{{ step{number - 1}.count }}}}" if number > 1 else 0
        last = last >> flow.python(f"step{number}", "benchmarks.kilobyte", arguments={"previous": previous})
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
