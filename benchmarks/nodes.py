"""The functions of the benchmarks' nodes, and their workflows. Workers import this module."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from benchmarks import work
from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node

if TYPE_CHECKING:
    import httpx2

KILOBYTE = "x" * 1000

Hops = Literal["spread", "inline"]


@node("benchmarks.no_op")
def no_op(context: ExecutionContext) -> None:
    """Do nothing, like the raw task that it is compared with."""


@node("benchmarks.pure_no_op", pure=True)
def pure_no_op(context: ExecutionContext) -> None:
    """Do nothing, which may be repeated."""


@node("benchmarks.kilobyte")
def kilobyte(context: ExecutionContext, previous: int) -> dict[str, object]:
    """Read a number of the previous node and return 1 KB of JSON."""
    return {"count": previous + 1, "text": KILOBYTE}


@node("benchmarks.text")
def text(length: int) -> str:
    """Return a text of `length` bytes."""
    return "x" * length


@node("benchmarks.fib")
def fib(context: ExecutionContext, n: int) -> int:
    """Compute a Fibonacci number."""
    return work.fib(n)


@node("benchmarks.outside")
def outside(context: ExecutionContext, seconds: float) -> None:
    """Wait for something outside, and so hold a process or thread."""
    time.sleep(seconds)


@functools.cache
def _client() -> httpx2.Client:
    import httpx2

    return httpx2.Client(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100))


@node("benchmarks.request")
def request(url: str) -> dict[str, Any]:
    """Send a GET as a team's own function would, and return what `action/api-call` returns."""
    response = _client().get(url, headers={"Accept": "application/json"}).raise_for_status()
    return {"status": response.status_code, "headers": dict(response.headers), "body": response.json()}


def no_ops(workflow_id: str, nodes: int, hops: Hops = "spread", **options: Any) -> Workflow:
    """Return a workflow of `nodes` nodes one after another that do nothing."""
    return in_line(workflow_id, nodes, "benchmarks.no_op", hops=hops, **options)


def half_pure(workflow_id: str, nodes: int) -> Workflow:
    """Return a workflow of nodes that do nothing, walked inline, of which every other one is pure."""
    flow = WorkflowBuilder(workflow_id, settings={"hops": "inline"})
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.python(f"step{number}", ("benchmarks.no_op", "benchmarks.pure_no_op")[number % 2])
    return flow.build()


def in_line(
    workflow_id: str,
    nodes: int,
    function: str,
    arguments: dict[str, Any] | None = None,
    hops: Hops = "spread",
    **options: Any,
) -> Workflow:
    """Return a workflow of `nodes` nodes one after another that call the same function."""
    flow = WorkflowBuilder(workflow_id, settings={"hops": hops})
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.python(f"step{number}", function, arguments=arguments, **options)
    return flow.build()


def kilobytes(workflow_id: str, nodes: int, **options: Any) -> Workflow:
    """Return a workflow of `nodes` nodes one after another with outputs of 1 KB, each read by the next."""
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        previous = f"{{{{ step{number - 1}.count }}}}" if number > 1 else 0
        arguments = {"previous": previous}
        last = last >> flow.python(f"step{number}", "benchmarks.kilobyte", arguments=arguments, **options)
    return flow.build()


def branches(
    workflow_id: str,
    number: int,
    function: str = "benchmarks.no_op",
    arguments: dict[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Workflow:
    """Return a workflow of `number` branches of one node each, and a merge that waits for all."""
    flow = WorkflowBuilder(workflow_id, settings=settings)
    begin, joined = flow.trigger("begin"), flow.merge("joined", **options)
    for each in range(1, number + 1):
        begin >> flow.python(f"branch{each}", function, arguments=arguments, **options) >> joined
    return flow.build()


def texts(workflow_id: str, nodes: int, length: int, *, rests: bool = False) -> Workflow:
    """Return a workflow of `nodes` nodes one after another with outputs of this length.

    If it `rests`, it ends with a wait.
    """
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for number in range(1, nodes + 1):
        last = last >> flow.python(f"step{number}", "benchmarks.text", arguments={"length": length})
    if rests:
        last >> flow.delay("rest", duration=1, unit="hours")
    return flow.build()
