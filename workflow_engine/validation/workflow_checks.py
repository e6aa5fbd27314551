"""Every problem of a definition at once, each with its path and what to do.

Parts are checked one by one and as far as they are legible, so that no problem hides another; nor does one
problem bring forth others: what follows from it alone is not told. The way from raw data to a `Workflow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workflow_engine.definition import Workflow
from workflow_engine.definition_text import parse_definition
from workflow_engine.errors import DefinitionInvalid, Problem
from workflow_engine.model_problems import check_model, shown
from workflow_engine.node_types import NodeRegistry
from workflow_engine.problem_paths import at
from workflow_engine.release import not_in_this_release
from workflow_engine.validation.edge_checks import check_edges, cycle_problems, unreachable_problems
from workflow_engine.validation.node_checks import CheckedNode, check_nodes

MAX_NODES = 10_000
MAX_EDGES = 50_000


def validate(content: Any, registry: NodeRegistry) -> Workflow:
    """The workflow that a definition describes: a JSON value, or a `Workflow` that was built in Python.

    Raises `DefinitionInvalid` with all problems.
    """
    workflow, problems = _inspect(content, registry)
    return _accepted(content, workflow, problems)


def validate_text(text: str, registry: NodeRegistry, *, name: str = "") -> Workflow:
    """The workflow that YAML or JSON text describes; `name` is the file's name, for messages.

    Raises `DefinitionUnreadable` for text that is neither, `DefinitionInvalid` with all problems, repeated
    keys among them.
    """
    read = parse_definition(text, name=name)
    workflow, problems = _inspect(read.content, registry)
    return _accepted(read.content, workflow, [*read.repeated_keys, *problems])


def problems_of(content: Any, registry: NodeRegistry) -> list[Problem]:
    """Everything that is wrong with a definition, in the order of the definition; empty if it is valid."""
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
            Problem("", f"a definition is an object with id, nodes and edges, not {shown(content)}")
        ]
    problems = list(_frame_problems(content))
    nodes, edges = _list(content, "nodes"), _list(content, "edges")
    if len(nodes) > MAX_NODES or len(edges) > MAX_EDGES:
        return None, [*problems, *_size_problems(nodes, edges)]
    checked_nodes = check_nodes(nodes, registry)
    by_id = _by_id(checked_nodes)
    checked_edges = check_edges(edges, by_id)
    problems += _name_problems(content.get("variables"), by_id)
    problems += [problem for node in checked_nodes for problem in node.problems]
    problems += [problem for edge in checked_edges for problem in edge.problems]
    problems += cycle_problems(by_id, checked_edges)
    if any(node.type in ("trigger", None) for node in checked_nodes):
        problems += unreachable_problems(by_id, checked_edges)
    elif isinstance(content.get("nodes", []), list | tuple):
        problems.append(Problem("nodes", _NO_TRIGGER))
    if problems:
        return None, problems
    sound = {
        **content,
        "nodes": [node.node for node in checked_nodes],
        **({"edges": [edge.edge for edge in checked_edges]} if "edges" in content else {}),
    }
    return check_model(Workflow, sound)


_NO_TRIGGER = (
    "there is no trigger, so that nothing can start; add a node such as "
    "{id: start, type: trigger, subType: manual}"
)


def _frame_problems(content: Mapping[Any, Any]) -> Iterator[Problem]:
    """What is wrong with everything but the nodes and edges."""
    lists: dict[str, list[Any]] = {
        key: [] for key in ("nodes", "edges") if isinstance(content.get(key), list | tuple)
    }
    settings = content.get("settings")
    unavailable = (
        not_in_this_release("settings", settings, "settings") if isinstance(settings, Mapping) else []
    )
    _, problems = check_model(Workflow, {**content, **lists})
    yield from (problem for problem in problems if problem.path not in {each.path for each in unavailable})
    yield from unavailable


def _list(content: Mapping[Any, Any], key: str) -> Sequence[Any]:
    value = content.get(key)
    return value if isinstance(value, list | tuple) else ()


def _size_problems(nodes: Sequence[Any], edges: Sequence[Any]) -> Iterator[Problem]:
    for path, count, limit in (("nodes", len(nodes), MAX_NODES), ("edges", len(edges), MAX_EDGES)):
        if count > limit:
            yield Problem(path, f"{count:,} {path} are more than the {limit:,} allowed; split the workflow")


def _by_id(nodes: Sequence[CheckedNode]) -> dict[str, CheckedNode]:
    """Nodes by id; of those that share one, the first."""
    by_id: dict[str, CheckedNode] = {}
    for node in nodes:
        if node.id is not None:
            by_id.setdefault(node.id, node)
    return by_id


def _name_problems(variables: Any, nodes: Mapping[str, CheckedNode]) -> Iterator[Problem]:
    """Expressions read variables and outputs by name, so that each name must stand for one thing."""
    for name in variables if isinstance(variables, Mapping) else ():
        if not isinstance(name, str):
            continue
        if name.startswith("_"):
            yield Problem(at("variables", name), "names that start with _ belong to the engine; rename it")
        elif name in nodes:
            yield Problem(
                at("variables", name), f"{nodes[name].path} has this name too; rename one of the two"
            )
