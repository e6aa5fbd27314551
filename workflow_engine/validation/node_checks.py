"""What is wrong with the nodes of a definition, each looked at by itself.

A node with problems is still told apart from one that does not exist: whatever of it is legible (its id,
its ways out) is handed on, so that the edges around it are judged as they will be once it is mended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.definition import ERROR, Node
from workflow_engine.errors import Problem, UnknownNodeType
from workflow_engine.expressions import check_template
from workflow_engine.model_problems import check_model, listed, nearest, suggestion
from workflow_engine.node_types import (
    KNOWN_KINDS_OF_LATER_RELEASES,
    NodeRegistry,
    NodeType,
    RegisteredFunction,
)
from workflow_engine.problem_paths import at, below, enclosing, node_path
from workflow_engine.release import not_in_this_release

TYPES = ("trigger", "logic", "action")


@dataclass(frozen=True)
class CheckedNode:
    """What is known of a node after it was checked; None stands for what is not legible."""

    path: str
    problems: tuple[Problem, ...]
    id: str | None = None
    node: Node | None = None
    type: str | None = None
    handles: tuple[str, ...] | None = None
    """Its ways out, `error` apart."""
    on_error: Any = None


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
    found = [*problems, *_outside(misshapen, unavailable), *unavailable]
    node_type, unknown = _find_type(content, path, registry)
    found += unknown
    handles, config = None, content.get("config", {})
    if node_type is not None and isinstance(config, Mapping):
        about_config = _config_problems(node_type, config, at(path, "config"), registry, misshapen)
        handles = _handles(node_type, config, registry)
        found += about_config or _reserved_handle_problems(handles, path)
        found += _on_error_problems(content, handles, path)
    node_id, type_ = content.get("id"), content.get("type")
    return CheckedNode(
        path,
        tuple(found),
        id=node_id if isinstance(node_id, str) else None,
        node=node,
        type=str(type_) if type_ in TYPES else None,
        handles=handles,
        on_error=content.get("onError"),
    )


def _outside(problems: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """The problems that are not at or inside a place of which something was told already."""
    places = {problem.path for problem in told}
    return [problem for problem in problems if places.isdisjoint(enclosing(problem.path))]


def _find_type(
    content: Mapping[Any, Any], path: str, registry: NodeRegistry
) -> tuple[NodeType | None, list[Problem]]:
    type_, sub_type = content.get("type"), content.get("subType")
    if type_ not in TYPES or not isinstance(sub_type, str) or not sub_type:
        return None, []  # which the shape of the node has told already
    if (found := registry.find(f"{type_}/{sub_type}")) is not None:
        return found, []
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


def _config_problems(
    node_type: NodeType,
    content: Mapping[Any, Any],
    path: str,
    registry: NodeRegistry,
    told: Sequence[Problem],
) -> list[Problem]:
    """What is wrong with a config apart from what was `told` already, which are values that are not JSON."""
    config = {key: value for key, value in content.items() if isinstance(key, str)}
    touched = {place for problem in told for place in enclosing(problem.path)}
    sound = {key: value for key, value in config.items() if at(path, key) not in touched}
    problems = _template_problems(node_type, sound, path)
    problems += _outside(check_model(node_type.config_model, config, path)[1], [*told, *problems])
    if not problems and len(sound) == len(content) and (prepared := node_type.prepare(sound)) is not sound:
        problems += _template_problems(node_type, prepared, path)
    if (call := _called(node_type, config, path)) is not None:
        problems += _outside(_call_problems(call, registry), [*told, *problems])
    return problems


def _template_problems(node_type: NodeType, config: Mapping[str, Any], path: str) -> list[Problem]:
    return [
        Problem(below(at(path, key), problem.path), problem.message)
        for key, value in config.items()
        if key not in node_type.verbatim
        for problem in check_template(value)
    ]


# -- functions -------------------------------------------------------------------------------------------

CALLS_A_FUNCTION = "action/python"
"""The node type whose config names the function it calls."""


@dataclass(frozen=True)
class _Call:
    """The Python function that a node calls, and where its config says with what."""

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
        return []  # an expression, whose value is checked when it is there
    message = function.check({str(key): value for key, value in call.arguments.items()})
    return [Problem(call.arguments_path, message)] if message is not None else []


# -- ways out ----------------------------------------------------------------------------------------------


def _handles(
    node_type: NodeType, config: Mapping[str, Any], registry: NodeRegistry
) -> tuple[str, ...] | None:
    """The ways out of a node, or None if its config is too broken to tell."""
    if node_type.kind == CALLS_A_FUNCTION and config.get("function") in registry.functions:
        return registry.function(config["function"]).handles
    try:
        handles = node_type.handles(config)
    except (LookupError, TypeError, ValueError, AttributeError):  # it may count on its config being valid
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
        f"'continue' would not know which way to go, {listed(handles)}; "
        f"draw an edge with sourceHandle {ERROR!r} instead"
    )
    return [Problem(at(path, "onError"), message)]
