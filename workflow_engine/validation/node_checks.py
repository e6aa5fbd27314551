"""Problems of the nodes of a definition, each checked by itself.

A node with problems differs from one that does not exist: its legible parts (id, ways out) are passed on.
So the edges around it are checked as they will be once it is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflow_engine.definition.body import KINDS
from workflow_engine.definition.problems import check_model, listed, nearest, suggestion
from workflow_engine.definition.workflow import ERROR, Node
from workflow_engine.errors import Problem, UnknownNodeType
from workflow_engine.expressions import check_template, compile_template
from workflow_engine.expressions.compiler import FAILURE, RESPONSE
from workflow_engine.nodes.contract import KNOWN_KINDS_OF_LATER_RELEASES, NodeType
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.paths import at, below, enclosing, node_path
from workflow_engine.validation.limit_checks import limit_problems
from workflow_engine.validation.retry_checks import retry_problems
from workflow_engine.validation.unsupported import not_in_this_release

TYPES = ("trigger", "logic", "action")


@dataclass(frozen=True)
class CheckedNode:
    """A node after its check; None stands for a part that is illegible."""

    path: str
    problems: tuple[Problem, ...]
    id: str | None = None
    node: Node | None = None
    type: str | None = None
    handles: tuple[str, ...] | None = None
    """Its ways out, `error` apart."""
    on_error: Any = None
    kind: str | None = None
    """`type/subType`, if that is a known one."""
    config: Mapping[Any, Any] = field(default_factory=dict)
    """Its config as it was written."""


def check_nodes(nodes: Sequence[Any], registry: NodeRegistry) -> list[CheckedNode]:
    """Check each node by itself, and that no id is used twice."""
    first_uses: dict[str, int] = {}
    return [_check_place(index, node, first_uses, registry) for index, node in enumerate(nodes)]


def _check_place(index: int, node: Any, first_uses: dict[str, int], registry: NodeRegistry) -> CheckedNode:
    if not isinstance(node, Mapping):
        path = f"nodes[{index}]"
        return CheckedNode(path, tuple(check_model(Node, node, path)[1]))
    node_id = node.get("id")
    if not isinstance(node_id, str) or first_uses.setdefault(node_id, index) == index:
        return _check_node(node, node_path(index, node), registry)
    path = f"nodes[{index}]"  # its id leads to the other one
    message = f"nodes[{first_uses[node_id]}] has the id {node_id!r} already; give each node an id of its own"
    return _check_node(node, path, registry, [Problem(at(path, "id"), message)])


def _check_node(
    content: Mapping[Any, Any], path: str, registry: NodeRegistry, problems: Iterable[Problem] = ()
) -> CheckedNode:
    node, misshapen = check_model(Node, content, path)
    unavailable = not_in_this_release("node", content, path)
    beyond_shape = [*unavailable, *retry_problems(content.get("retry"), at(path, "retry"))]
    found = [*problems, *_outside(misshapen, beyond_shape), *beyond_shape]
    node_type, unknown = _find_type(content, path, registry)
    found += unknown
    handles, config = None, content.get("config", {})
    if node_type is not None and isinstance(config, Mapping):
        about_config = _config_problems(node_type, config, at(path, "config"), registry, misshapen)
        handles = _handles(node_type, config, registry)
        found += about_config or _reserved_handle_problems(handles, path)
        found += _on_error_problems(content, handles, path)
        found += _outside(_output_problems(content.get("output"), at(path, "output")), misshapen)
        if handles == ():
            found += _problems_of_an_end(content, path)
    found += _outside(limit_problems(content.get("limits"), at(path, "limits")), misshapen)
    if content.get("type") == "trigger":
        found += _problems_of_a_trigger(content, path)
    node_id, type_ = content.get("id"), content.get("type")
    return CheckedNode(
        path,
        tuple(found),
        id=node_id if isinstance(node_id, str) else None,
        node=node,
        type=str(type_) if type_ in TYPES else None,
        handles=handles,
        on_error=content.get("onError"),
        kind=node_type.kind if node_type is not None else None,
        config=config if isinstance(config, Mapping) else {},
    )


def variables_set(nodes: Iterable[CheckedNode]) -> Iterator[tuple[str, str]]:
    """Yield the name of each variable that a node of type `logic/set` sets, and where it stands."""
    for where in nodes:
        variables = where.config.get("variables") if where.kind == "logic/set" else None
        for name in variables if isinstance(variables, Mapping) else ():
            if isinstance(name, str):
                yield name, at(where.path, "config", "variables", name)


def _outside(problems: Iterable[Problem], reported: Iterable[Problem]) -> list[Problem]:
    """Return the problems that are not at or inside a place for which one was reported already."""
    places = {problem.path for problem in reported}
    return [problem for problem in problems if places.isdisjoint(enclosing(problem.path))]


def _find_type(
    content: Mapping[Any, Any], path: str, registry: NodeRegistry
) -> tuple[NodeType | None, list[Problem]]:
    type_, sub_type = content.get("type"), content.get("subType")
    if type_ not in TYPES or not isinstance(sub_type, str) or not sub_type:
        return None, []  # the check of the node's shape has reported this
    if (found := registry.find(f"{type_}/{sub_type}")) is not None:
        return found, [Problem(at(path, "subType"), found.lacks)] if found.lacks is not None else []
    return None, [Problem(at(path, "subType"), _unknown_kind(str(type_), sub_type, registry))]


def _unknown_kind(type_: str, sub_type: str, registry: NodeRegistry) -> str:
    kind = f"{type_}/{sub_type}"
    if kind in KNOWN_KINDS_OF_LATER_RELEASES:
        return f"{kind!r} is not in this release; remove this node"
    known = [each.partition("/")[2] for each in registry.kinds if each.startswith(f"{type_}/")]
    similar = nearest(sub_type, known)
    elsewhere = [f"{other}/{sub_type}" for other in TYPES if registry.find(f"{other}/{sub_type}")]
    if similar is not None or elsewhere:
        meant = f"{type_}/{similar}" if similar is not None else elsewhere[0]
        return f"there is no node type {kind!r}; did you mean {meant!r}?"
    if type_ == "action":
        return (
            f"there is no node type {kind!r}; register a function of your own with @node({sub_type!r}) and "
            "list its module in WORKFLOW_ENGINE_IMPORTS"
        )
    return f"there is no node type {kind!r}; choose the subType {listed(known)}"


# -- configs ---------------------------------------------------------------------------------------------


BODY_STUB: dict[str, Any] = {
    "nodes": [{"id": "stub", "type": "action", "subType": "function", "config": {"expression": 1}}],
    "edges": [],
}
"""Stands for a body while the config around it is checked: `body_checks` looks into the body itself."""


def _config_problems(
    node_type: NodeType,
    content: Mapping[Any, Any],
    path: str,
    registry: NodeRegistry,
    reported: Sequence[Problem],
) -> list[Problem]:
    """Return the problems of a config apart from those `reported` already, of values that are not JSON."""
    config = {key: value for key, value in content.items() if isinstance(key, str)}
    if node_type.kind in KINDS and isinstance(config.get("body"), Mapping):
        config["body"] = BODY_STUB
        reported = [problem for problem in reported if at(path, "body") not in enclosing(problem.path)]
    touched = {place for problem in reported for place in enclosing(problem.path)}
    sound = {key: value for key, value in config.items() if at(path, key) not in touched}
    problems = _template_problems(node_type, sound, path)
    problems += _outside(check_model(node_type.config_model, config, path)[1], [*reported, *problems])
    if not problems and len(sound) == len(content) and (prepared := node_type.prepare(sound)) is not sound:
        problems += _template_problems(node_type, prepared, path)
    if (call := _called(node_type, config, path)) is not None:
        problems += _outside(_call_problems(call, registry), [*reported, *problems])
    return problems


def _template_problems(node_type: NodeType, config: Mapping[str, Any], path: str) -> list[Problem]:
    return [
        Problem(below(at(path, key), problem.path), problem.message)
        for key, value in config.items()
        if key not in node_type.verbatim
        for problem in (*check_template(value), *_readings_too_early(value, ""))
    ]


TOO_EARLY = {
    RESPONSE: "is what this node returns, which only its `output` can read; move it there",
    FAILURE: "is how an execution has failed, which only the `data` of `onFailure` can read; move it there",
}
"""Names that exist only once the node, or its execution, has ended."""


def _readings_too_early(value: Any, path: str) -> Iterator[Problem]:
    """Yield a problem for each expression that reads a name for which a config is too early."""
    if isinstance(value, str):
        for name, reason in TOO_EARLY.items():
            if name in value and not check_template(value) and name in compile_template(value).names:
                yield Problem(path, f"`{name}` {reason}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _readings_too_early(item, at(path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _readings_too_early(item, at(path, index))


def _output_problems(output: Any, path: str) -> list[Problem]:
    return [Problem(below(path, problem.path), problem.message) for problem in check_template(output)]


def _problems_of_an_end(content: Mapping[Any, Any], path: str) -> Iterator[Problem]:
    """Yield a problem for each key that has no meaning for a node that fails on purpose."""
    reasons = {
        "retry": "it would fail again in the same way",
        "output": "it has none",
        "onError": "nothing follows it",
    }
    for key, reason in reasons.items():
        if content.get(key) is not None and (key, content[key]) != ("onError", "fail"):
            yield Problem(at(path, key), f"this node fails on purpose: {reason}; remove this")


def _problems_of_a_trigger(content: Mapping[Any, Any], path: str) -> Iterator[Problem]:
    if content.get("output") is not None:
        message = "the output of a trigger is the data of the start; map it in a node after this one"
        yield Problem(at(path, "output"), message)
    if content.get("onCrash") == "fail":
        message = "a trigger does not run in a worker; put this on the node that must not be repeated"
        yield Problem(at(path, "onCrash"), message)
    if content.get("queueTimeout") is not None:
        message = "a trigger stands in no queue; put this on a node that does"
        yield Problem(at(path, "queueTimeout"), message)
    if content.get("limits") is not None:
        message = "a trigger does not run in a worker; put this on the workflow, or on a node"
        yield Problem(at(path, "limits"), message)


# -- functions -------------------------------------------------------------------------------------------

CALLS_A_FUNCTION = "action/python"
"""The node type whose config names the function that it calls."""


@dataclass(frozen=True)
class _Call:
    """The Python function that a node calls, its arguments, and where the config names both."""

    name: str
    path: str
    arguments: Any
    arguments_path: str


def _called(node_type: NodeType, config: Mapping[str, Any], path: str) -> _Call | None:
    if isinstance(node_type.executor, RegisteredFunction):
        return _Call(node_type.executor.name, path, config, path)
    name = config.get("function") if node_type.kind == CALLS_A_FUNCTION else None
    if not isinstance(name, str):
        return None
    return _Call(name, at(path, "function"), config.get("arguments", {}), at(path, "arguments"))


def _call_problems(call: _Call, registry: NodeRegistry) -> list[Problem]:
    try:
        function = registry.function(call.name)
    except UnknownNodeType as unknown:
        return [Problem(call.path, f"{unknown}{suggestion(call.name, registry.functions)}")]
    if not isinstance(call.arguments, Mapping):
        return []  # an expression, whose value is checked when the node runs
    message = function.check({str(key): value for key, value in call.arguments.items()})
    return [Problem(call.arguments_path, message)] if message is not None else []


# -- ways out ----------------------------------------------------------------------------------------------


def _handles(
    node_type: NodeType, config: Mapping[str, Any], registry: NodeRegistry
) -> tuple[str, ...] | None:
    """Return the ways out of a node, or None if its config is too broken to list them."""
    if node_type.kind == CALLS_A_FUNCTION and config.get("function") in registry.functions:
        return registry.function(config["function"]).handles
    try:
        handles = node_type.handles(config)
    except (LookupError, TypeError, ValueError, AttributeError):  # it may rely on a valid config
        return None
    return handles if all(isinstance(handle, str) for handle in handles) else None


def _reserved_handle_problems(handles: tuple[str, ...] | None, path: str) -> list[Problem]:
    if handles is None or ERROR not in handles:
        return []
    message = f"one of its ways out is named {ERROR!r}, where failures leave; rename that way out"
    return [Problem(at(path, "subType"), message)]


def _on_error_problems(
    content: Mapping[Any, Any], handles: tuple[str, ...] | None, path: str
) -> list[Problem]:
    if content.get("onError") != "continue" or handles is None or len(handles) < 2:
        return []
    message = (
        f"'continue' cannot choose between the ways out {listed(handles)}; "
        f"draw an edge with sourceHandle {ERROR!r} instead"
    )
    return [Problem(at(path, "onError"), message)]
