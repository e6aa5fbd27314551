"""Every problem of a definition at once, each with its path and what to do.

Parts are checked one by one and as far as they are legible, so that no problem hides another. Problems that
only follow from another one are not reported. This is the way from raw data to a `Workflow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workflow_engine.definition.problems import check_model, short_repr
from workflow_engine.definition.text import parse_definition
from workflow_engine.definition.workflow import Workflow
from workflow_engine.errors import DefinitionInvalid, Problem
from workflow_engine.nodes.registry import NodeRegistry
from workflow_engine.paths import at
from workflow_engine.validation.body_checks import check_bodies
from workflow_engine.validation.concurrency_checks import concurrency_problems, settings_problems
from workflow_engine.validation.edge_checks import (
    check_edges,
    cycle_problems,
    join_problems,
    unreachable_problems,
)
from workflow_engine.validation.failure_checks import failure_problems
from workflow_engine.validation.limit_checks import limit_problems, problems_of_workflow_limits
from workflow_engine.validation.node_checks import CheckedNode, check_nodes, variables_set
from workflow_engine.validation.unsupported import not_in_this_release

MAX_NODES = 10_000
MAX_EDGES = 50_000


def validate(content: Any, registry: NodeRegistry) -> Workflow:
    """Return the workflow that a definition describes: a JSON value, or a `Workflow` built in Python.

    Raises `DefinitionInvalid` with all problems.
    """
    workflow, problems = _inspect(content, registry)
    return _accepted(content, workflow, problems)


def validate_text(text: str, registry: NodeRegistry, *, name: str = "") -> Workflow:
    """Return the workflow that YAML or JSON text describes; `name` is the file's name, for messages.

    Raises `DefinitionUnreadable` for text that is neither, `DefinitionInvalid` with all problems, repeated
    keys among them.
    """
    read = parse_definition(text, name=name)
    workflow, problems = _inspect(read.content, registry)
    return _accepted(read.content, workflow, [*read.repeated_keys, *problems])


def problems_of(content: Any, registry: NodeRegistry) -> list[Problem]:
    """Return all problems of a definition, in the order of the definition; empty if it is valid."""
    return _inspect(content, registry)[1]


def _accepted(content: Any, workflow: Workflow | None, problems: Sequence[Problem]) -> Workflow:
    if workflow is None or problems:
        workflow_id = content.get("id") if isinstance(content, Mapping) else None
        raise DefinitionInvalid(problems, workflow_id if isinstance(workflow_id, str) else None)
    return workflow


def _inspect(content: Any, registry: NodeRegistry) -> tuple[Workflow | None, list[Problem]]:
    if isinstance(content, Workflow):
        content = content.to_dict()
    if not isinstance(content, Mapping):
        return None, [
            Problem("", f"a definition is an object with id, nodes and edges, not {short_repr(content)}")
        ]
    problems = list(_frame_problems(content))
    nodes, edges = _list(content, "nodes"), _list(content, "edges")
    if len(nodes) > MAX_NODES or len(edges) > MAX_EDGES:
        return None, [*problems, *_size_problems(nodes, edges)]
    checked_nodes = check_nodes(nodes, registry)
    by_id = _by_id(checked_nodes)
    are_nodes_legible = len(by_id) == len(checked_nodes) and _is_list_or_absent(content, "nodes")
    checked_edges = check_edges(edges, by_id, all_nodes_known=are_nodes_legible)
    problems += _name_problems(content.get("variables"), by_id)
    for name, path in variables_set(checked_nodes):
        problems += _name_problem(name, path, by_id)
    problems += _limit_problems(content, checked_nodes, problems)
    variables = {name for name, _ in variables_set(checked_nodes)}
    problems += failure_problems(content, variables | _known_at_the_start(content, checked_nodes))
    problems += [problem for node in checked_nodes for problem in node.problems]
    problems += check_bodies(nodes, checked_nodes, _names(content.get("variables"), by_id), registry)
    problems += [problem for edge in checked_edges for problem in edge.problems]
    problems += join_problems(by_id, checked_edges) if _is_list_or_absent(content, "edges") else ()
    problems += cycle_problems(by_id, checked_edges)
    if any(node.type in ("trigger", None) for node in checked_nodes):
        if _is_list_or_absent(content, "edges"):
            problems += unreachable_problems(by_id, checked_edges)
    elif _is_list_or_absent(content, "nodes"):
        problems.append(Problem("nodes", _NO_TRIGGER))
    if problems:
        return None, problems
    sound = {
        **content,
        "nodes": [node.node for node in checked_nodes],
        **({"edges": [edge.edge for edge in checked_edges]} if "edges" in content else {}),
    }
    workflow, problems = check_model(Workflow, sound)
    if workflow is not None:
        problems = list(concurrency_problems(workflow, registry))
    return (None if problems else workflow), problems


def _limit_problems(
    content: Mapping[Any, Any], nodes: Sequence[CheckedNode], reported: Sequence[Problem]
) -> Iterator[Problem]:
    """Yield the problems of the workflow's own limits apart from those of their shape, `reported` already."""
    limits, places = content.get("limits"), {problem.path for problem in reported}
    for problem in (
        *limit_problems(limits, "limits"),
        *problems_of_workflow_limits(limits, "limits", _known_at_the_start(content, nodes)),
    ):
        if problem.path not in places:
            yield problem


def _known_at_the_start(content: Mapping[Any, Any], nodes: Sequence[CheckedNode]) -> set[str]:
    """Return the names of the triggers and of the variables of the definition."""
    variables = content.get("variables")
    known = {node.id for node in nodes if node.id is not None and node.type in ("trigger", None)}
    return known | {
        name for name in (variables if isinstance(variables, Mapping) else ()) if isinstance(name, str)
    }


_NO_TRIGGER = (
    "there is no trigger, so no execution can start; add a node such as "
    "{id: start, type: trigger, subType: manual}"
)


def _frame_problems(content: Mapping[Any, Any]) -> Iterator[Problem]:
    """Yield the problems of everything but the nodes and edges."""
    lists: dict[str, list[Any]] = {
        key: [] for key in ("nodes", "edges") if isinstance(content.get(key), list | tuple)
    }
    settings = content.get("settings")
    unavailable = (
        not_in_this_release("settings", settings, "settings") if isinstance(settings, Mapping) else []
    )
    frame, problems = check_model(Workflow, {**content, **lists})
    yield from problems
    if frame is not None:
        yield from settings_problems(frame.settings, "settings")
    # A value that no release accepts is a problem of its own.
    yield from (each for each in unavailable if each.path not in {problem.path for problem in problems})


def _list(content: Mapping[Any, Any], key: str) -> Sequence[Any]:
    value = content.get(key)
    return value if isinstance(value, list | tuple) else ()


def _is_list_or_absent(content: Mapping[Any, Any], key: str) -> bool:
    return isinstance(content.get(key, []), list | tuple)


def _size_problems(nodes: Sequence[Any], edges: Sequence[Any]) -> Iterator[Problem]:
    for path, count, limit in (("nodes", len(nodes), MAX_NODES), ("edges", len(edges), MAX_EDGES)):
        if count > limit:
            yield Problem(path, f"{count:,} {path} are more than the {limit:,} allowed; split the workflow")


def _by_id(nodes: Sequence[CheckedNode]) -> dict[str, CheckedNode]:
    """Return the nodes by id; of those that share one, the first."""
    by_id: dict[str, CheckedNode] = {}
    for node in nodes:
        if node.id is not None:
            by_id.setdefault(node.id, node)
    return by_id


def _names(variables: Any, nodes: Mapping[str, CheckedNode]) -> dict[str, str]:
    """Return every name that a body sees, and what it is the name of."""
    names = {node_id: node.path for node_id, node in nodes.items()}
    return names | {
        name: at("variables", name)
        for name in (variables if isinstance(variables, Mapping) else ())
        if isinstance(name, str)
    }


def _name_problems(variables: Any, nodes: Mapping[str, CheckedNode]) -> Iterator[Problem]:
    """Check names of variables: expressions read variables and outputs by name, so each must be unique."""
    for name in variables if isinstance(variables, Mapping) else ():
        if isinstance(name, str):
            yield from _name_problem(name, at("variables", name), nodes)


def _name_problem(name: str, path: str, nodes: Mapping[str, CheckedNode]) -> Iterator[Problem]:
    if name.startswith("_"):
        yield Problem(path, "names that start with _ belong to the engine; rename it")
    elif name in nodes:
        yield Problem(path, f"{nodes[name].path} has this name too; rename one of the two")
