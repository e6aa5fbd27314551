"""Workflows to disturb, each with a result that shows whether anything was missing, stale or done twice.

A node's output repeats what it has read: outputs of others, fetched on entering or while it runs, and
variables. Every node sets a variable of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from simulation.steps import pause
from workflow_engine.definition.workflow import Edge, Node, Retry, RetryRule, Workflow, WorkflowSettings
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.loading import BUILT_IN
from workflow_engine.nodes.registry import FreeConfig, NodeRegistry
from workflow_engine.nodes.results import NodeExecutionResult, failure, success

TRIGGER = "start"
DATA = {"orderId": 42}


class Work:
    """The executor of `action/work`, which takes its time."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        pause()
        if context.attempt <= node_data["fails"]:
            return failure(f"NotYet{context.attempt % 2}", f"attempt {context.attempt}")
        while_running = {name: context.node_outputs.get(name) for name in node_data["looks"]}
        return success(
            {"node": node_id, "read": node_data["reads"], "looked": while_running},
            variables={f"by_{node_id}": context.attempt},
        )


EFFECTS: list[tuple[str, dict[str, Any]]] = []
"""Each effect of `action/act` in the present simulation: the node, and the outputs that it rests on."""


class Act:
    """The executor of `action/act`, which has an effect that rests on outputs of other nodes."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        pause()
        EFFECTS.append((node_id, {name: context.node_outputs[name] for name in node_data["looks"]}))
        return success({"node": node_id})


_numbers = itertools.count()


class Draw:
    """The executor of `action/draw`, of which each run makes another number."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        pause()
        return success(next(_numbers))


RUNS_OF_ONCE: list[int] = []
"""An entry for each time that a node with `onCrash: fail` has acted, in the present simulation."""


class Once:
    """The executor of `action/once`, whose side effect must not be repeated."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        pause()
        RUNS_OF_ONCE.append(context.attempt)
        pause()
        return success()


def registry() -> NodeRegistry:
    known = NodeRegistry()
    executors = {"work": Work(), "once": Once(), "act": Act(), "draw": Draw()}
    own = (NodeType("action", name, executor, FreeConfig) for name, executor in executors.items())
    for node_type in (*BUILT_IN, *own):
        known.add(node_type)
    return known


def work(
    node_id: str, reads: Iterable[str] = (), looks: Iterable[str] = (), *, fails: int = 0, **options: Any
) -> Node:
    """Make a node; `reads` are expressions, `looks` are nodes whose outputs it fetches only while it runs."""
    config = {"reads": [f"{{{{ {each} }}}}" for each in reads], "looks": list(looks), "fails": fails}
    return Node(id=node_id, type="action", sub_type="work", config=config, **options)


def act(node_id: str, *looks: str) -> Node:
    return Node(id=node_id, type="action", sub_type="act", config={"looks": list(looks)})


def compute(node_id: str, expression: str) -> Node:
    """Make a node that is pure."""
    return Node(id=node_id, type="action", sub_type="function", config={"expression": expression})


def logic(node_id: str, sub_type: str, **config: Any) -> Node:
    return Node(id=node_id, type="logic", sub_type=sub_type, config=config)


MODES: dict[str, dict[str, Any]] = {
    "spread": {"hops": "spread"},
    "inline": {"hops": "inline"},
    "pure_inline": {"pure": "inline"},
    "parallel": {"concurrency": 2},
}
"""The settings of a workflow, by the way in which its nodes are run."""


def _workflow(hops: str, nodes: Iterable[Node], *ways: str) -> Workflow:
    edges = []
    for way in ways:
        source, arrow, target = way.split()
        edges.append(Edge(source=source, target=target, source_handle=arrow[:-2].strip("-") or None))
    trigger = Node(id=TRIGGER, type="trigger", sub_type="manual")
    settings = WorkflowSettings.model_validate(MODES[hops])
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
        # It does not look at `b`: a message of commits that were lost may let it run before.
        work("c", ["by_a"], looks=["a"]),
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
        work("b", [] if hops == "parallel" else ["by_a"]),
        work("c"),
        logic("any", "merge", join="any"),
        work("d", ["any"] if hops == "parallel" else ["any", "by_a"], looks=["a"]),
    )
    return _workflow(hops, nodes, "start -> a", "start -> b", "b -> c", "a -> any", "c -> any", "any -> d")


def join_two(hops: str) -> Workflow:
    nodes = (
        work("a", ["start"]),
        work("b", ["start"]),
        work("c"),
        logic("two", "merge", join=2, require=2),
        work("d", ["two"], looks=["a"]),
    )
    ways = (
        "start -> a",
        "start -> b",
        "b -> c",
        "start -> e",
        "e -> two",
        "a -> two",
        "c -> two",
        "two -> d",
    )
    return _workflow(hops, (*nodes, work("e", ["start"])), *ways)


def incomplete(hops: str) -> Workflow:
    """Let a merge lack a branch that has failed, which its error names from the journal."""
    join = logic("join", "merge", require="all").model_copy(update={"on_error": "continue"})
    nodes = (work("a", ["start"]), work("b", ["a"], fails=9), work("mourn"), work("c"), join)
    ways = ("start -> a", "a -> b", "b -error-> mourn", "b -> c", "c -> join", "a -> join", "join -> d")
    return _workflow(hops, (*nodes, work("d", ["join.error", "b.error.type"])), *ways)


def retry(hops: str) -> Workflow:
    again = Retry(max_attempts=3, wait_duration=0)
    nodes = (work("a", ["start"]), work("b", ["a"], fails=2, retry=again), work("c", ["b", "[by_a, by_b]"]))
    return _workflow(hops, nodes, "start -> a", "a -> b", "b -> c")


def retry_by_rules(hops: str) -> Workflow:
    """Let each rule allow two of the four attempts that fail; counting one more would end the node."""
    rules = (
        RetryRule(on=("NotYet1",), max_attempts=3, wait_duration=0),
        RetryRule(on=("NotYet0",), max_attempts=3, wait_duration=5_000),
    )
    nodes = (work("a", ["start"], fails=4, retry=rules), work("b", ["a", "by_a"]))
    return _workflow(hops, nodes, "start -> a", "a -> b")


def once(hops: str) -> Workflow:
    """Run a node once at most: whether it was lost or not, the execution goes on behind it."""
    careful = Node(id="once", type="action", sub_type="once", on_crash="fail", on_error="continue")
    nodes = (work("a", ["start"]), careful, work("b", ["a", "by_a"]))
    return _workflow(hops, nodes, "start -> a", "a -> once", "once -> b")


def pure(hops: str) -> Workflow:
    """Let pure nodes follow each other and others, and read what is not committed yet."""
    nodes = (
        compute("first", "{{ start.orderId + 1 }}"),
        logic("check", "condition", expression="{{ first > 40 }}"),
        work("a", ["first", "check"], looks=["start", "first"]),
        logic("set", "set", variables={"rate": "{{ first * 2 }}"}),
        compute("path", "{{ _metadata.executionPath }}"),
        work("b", ["rate", "_metadata.executionPath"], looks=["path", "a"]),
        compute("last", "{{ [rate, by_a, by_b, path] }}"),
    )
    ways = ("start -> first", "first -> check", "check -true-> a", "a -> set", "set -> path", "path -> b")
    return _workflow(hops, nodes, *ways, "b -> last")


def effects(hops: str) -> Workflow:
    """Let effects rest on a result that comes out otherwise each time, and on what was computed from it."""
    nodes = (
        Node(id="draw", type="action", sub_type="draw"),
        act("a", "draw"),
        compute("double", "{{ draw * 2 }}"),
        act("b", "draw", "double"),
    )
    return _workflow(hops, nodes, "start -> draw", "draw -> a", "a -> double", "double -> b")


def raced(hops: str) -> Workflow:
    """Let an effect rest on a variable that a waiting branch changes."""
    nodes = (
        logic("cool_off", "delay", duration=60, unit="seconds"),
        logic("change", "set", variables={"currency": "USD"}),
        work("a", ["start"]),
        logic("check", "condition", expression="{{ currency == 'EUR' }}"),
        act("yes", "check"),
        act("no", "check"),
    )
    ways = ("start -> cool_off", "cool_off -> change", "start -> a", "a -> check")
    return _workflow(hops, nodes, *ways, "check -true-> yes", "check -false-> no")


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


def wide(hops: str) -> Workflow:
    """Branches of all kinds, of which no more than two may run at the same time."""
    nodes = (
        work("a", ["start"]),
        work("b", ["by_a"], looks=["a"]),
        work("c", ["start"], fails=1, retry=Retry(max_attempts=2, wait_duration=0)),
        logic("cool_off", "delay", duration=60, unit="seconds"),
        work("d", ["start.orderId"]),
        logic("all", "merge"),
        work("e", ["all", "[by_a, by_b, by_c, by_d]"], looks=["c"]),
    )
    ends = ("b", "c", "cool_off", "d")
    starts = (f"start -> {node_id}" for node_id in ("a", "c", "cool_off", "d"))
    return _workflow(hops, nodes, *starts, "a -> b", *(f"{end} -> all" for end in ends), "all -> e")


def children(hops: str) -> Workflow:
    """Return a loop over three items, two at a time, beside a branch; each child has two nodes."""
    body = _body(hops, work("x", ["item", "a"]), work("y", ["x", "index", "by_x"]))
    nodes = (
        work("a", ["start"]),
        logic("each", "loop", items=["one", "two", "three"], concurrency=2, body=body),
        work("beside", ["by_a"]),
        logic("all", "merge"),
        work("d", ["all", "by_beside"]),
    )
    ways = ("start -> a", "a -> each", "a -> beside", "each -> all", "beside -> all", "all -> d")
    return _workflow(hops, nodes, *ways)


def repeated(hops: str) -> Workflow:
    """Return a loop of three iterations beside a branch; each reads the result of the one before."""
    body = _body(hops, work("x", ["a", "_previous | default(0)"]), work("y", ["x", "_index", "by_x"]))
    every = {"duration": 5, "unit": "seconds"}
    nodes = (
        work("a", ["start"]),
        logic("again", "loop", until="{{ _index >= 3 }}", wait=every, body=body),
        work("beside", ["by_a"]),
        logic("all", "merge"),
        work("d", ["all", "by_beside"]),
    )
    ways = ("start -> a", "a -> again", "a -> beside", "again -> all", "beside -> all", "all -> d")
    return _workflow(hops, nodes, *ways)


def overtaken_children(hops: str) -> Workflow:
    """Return a loop whose branch loses a race, so that its children are cancelled while they wait."""
    body = _body(hops, logic("cool", "delay", duration=100, unit="days"))
    nodes = (
        logic("each", "loop", items=[1, 2, 3], concurrency=2, body=body),
        logic("cool_off", "delay", duration=60, unit="seconds"),
        logic("any", "merge", join="any"),
        work("d", ["any"]),
    )
    ways = ("start -> each", "start -> cool_off", "each -> any", "cool_off -> any", "any -> d")
    return _workflow(hops, nodes, *ways)


def _body(hops: str, *nodes: Node) -> dict[str, Any]:
    edges = [{"source": before.id, "target": after.id} for before, after in pairwise(nodes)]
    written = [node.model_dump(mode="json", by_alias=True, exclude_unset=True) for node in nodes]
    return {"nodes": written, "edges": edges, "settings": MODES[hops]}


ALL = (line, branches, skip, join_any, join_two, incomplete, retry, retry_by_rules, once, waiting, wide)
ALL += (children, repeated, overtaken_children, pure, effects, raced)
DEPEND_ON_ORDER = {("join_any", "parallel"), ("join_two", "parallel"), *(("raced", mode) for mode in MODES)}
"""Shapes and modes in which the order of commits decides about the result."""

SHAPES = {shape.__name__: shape for shape in ALL}

ONE_WORKER = ("inline", "pure_inline")
"""Modes in which the worker that makes a pure node due runs it."""

OF_PURE_NODES = ("pure", "effects", "raced")
WITH_PURE_NODES = ("skip", "join_any", "waiting", *OF_PURE_NODES)

RUNS = [
    (shape, mode)
    for shape in SHAPES
    for mode in MODES
    if (mode in ONE_WORKER or shape not in OF_PURE_NODES)
    and (mode != "pure_inline" or shape in WITH_PURE_NODES)
]
"""The shapes, each in the modes that make a difference to it."""
