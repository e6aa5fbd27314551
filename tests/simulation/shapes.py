"""Workflows to disturb, each with a result that shows whether anything was missing, old or done twice.

A node's output repeats what it has read: outputs of others, fetched on entering or while it runs, and
variables. Every node sets a variable of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simulation.steps import pause
from workflow_engine.context import ExecutionContext
from workflow_engine.definition import Edge, Node, Retry, Workflow, WorkflowSettings
from workflow_engine.node_types import (
    FreeConfig,
    NodeExecutionResult,
    NodeRegistry,
    NodeType,
    failure,
    success,
)
from workflow_engine.nodes import BUILT_IN

TRIGGER = "start"
DATA = {"orderId": 42}


class Work:
    """The executor of `action/work`, which takes its time."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        pause()
        if context.attempt <= node_data["fails"]:
            return failure("NotYet", f"attempt {context.attempt}")
        while_running = {name: context.node_outputs.get(name) for name in node_data["looks"]}
        return success(
            {"node": node_id, "read": node_data["reads"], "looked": while_running},
            variables={f"by_{node_id}": context.attempt},
        )


def registry() -> NodeRegistry:
    known = NodeRegistry()
    for node_type in (*BUILT_IN, NodeType("action", "work", Work(), FreeConfig)):
        known.add(node_type)
    return known


def work(
    node_id: str, reads: Iterable[str] = (), looks: Iterable[str] = (), *, fails: int = 0, **options: Any
) -> Node:
    """`reads` are expressions, `looks` are nodes whose outputs are asked for only while this one runs."""
    config = {"reads": [f"{{{{ {each} }}}}" for each in reads], "looks": list(looks), "fails": fails}
    return Node(id=node_id, type="action", sub_type="work", config=config, **options)


def logic(node_id: str, sub_type: str, **config: Any) -> Node:
    return Node(id=node_id, type="logic", sub_type=sub_type, config=config)


def _workflow(hops: str, nodes: Iterable[Node], *ways: str) -> Workflow:
    edges = []
    for way in ways:
        source, arrow, target = way.split()
        edges.append(Edge(source=source, target=target, source_handle=arrow[:-2].strip("-") or None))
    trigger = Node(id=TRIGGER, type="trigger", sub_type="manual")
    settings = WorkflowSettings.model_validate({"hops": hops})
    return Workflow(
        id="simulated",
        settings=settings,
        variables={"currency": "EUR"},
        nodes=(trigger, *nodes),
        edges=tuple(edges),
    )


def line(hops: str) -> Workflow:
    nodes = (
        work("a", ["start", "currency"]),
        work("b", ["a", "by_a"], looks=["start"]),
        work("c", ["_metadata.executionPath"], looks=["b"]),
        work("d", ["[by_a, by_b, by_c]", "a", "b", "c", "_trigger.orderId"]),
    )
    return _workflow(hops, nodes, "start -> a", "a -> b", "b -> c", "c -> d")


def branches(hops: str) -> Workflow:
    nodes = (
        work("a", ["start"]),
        work("b", ["a"]),
        work("c", ["by_a"], looks=["a", "b"]),
        logic("all", "merge"),
        work("d", ["all", "[by_b, by_c]"]),
    )
    return _workflow(hops, nodes, "start -> a", "a -> b", "a -> c", "b -> all", "c -> all", "all -> d")


def skip(hops: str) -> Workflow:
    nodes = (
        logic("check", "condition", expression="{{ start.orderId > 40 }}"),
        work("yes", ["check"]),
        work("no"),
        work("after_no"),
        logic("joined", "merge", strategy="first"),
        work("d", ["joined", "by_yes"]),
    )
    ways = ("check -true-> yes", "check -false-> no", "no -> after_no", "yes -> joined", "after_no -> joined")
    return _workflow(hops, nodes, "start -> check", *ways, "joined -> d")


def join_any(hops: str) -> Workflow:
    nodes = (
        work("a", ["start"]),
        work("b", ["by_a"]),
        work("c"),
        logic("any", "merge", join="any"),
        work("d", ["any", "by_a"], looks=["a"]),
    )
    return _workflow(hops, nodes, "start -> a", "start -> b", "b -> c", "a -> any", "c -> any", "any -> d")


def retry(hops: str) -> Workflow:
    again = Retry(max_attempts=3, wait_duration=0)
    nodes = (work("a", ["start"]), work("b", ["a"], fails=2, retry=again), work("c", ["b", "[by_a, by_b]"]))
    return _workflow(hops, nodes, "start -> a", "a -> b", "b -> c")


def waiting(hops: str) -> Workflow:
    later = Retry(max_attempts=2, wait_duration=5_000)
    nodes = (
        logic("cool_off", "delay", duration=60, unit="seconds"),
        work("a", ["start"], fails=1, retry=later),
        work("b", ["a", "by_a"]),
        logic("all", "merge"),
        work("c", ["all", "by_b"], looks=["a"]),
    )
    ways = ("start -> cool_off", "start -> a", "a -> b", "cool_off -> all", "b -> all", "all -> c")
    return _workflow(hops, nodes, *ways)


SHAPES = {shape.__name__: shape for shape in (line, branches, skip, join_any, retry, waiting)}
