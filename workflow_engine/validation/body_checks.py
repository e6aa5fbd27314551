"""Problems of bodies, the nodes inside a node: those of any nodes and edges, and of the names around them.

A body has no trigger; it begins with the nodes that no edge leads to. It reads what is around it by name, so
no name may mean two things.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from workflow_engine.definition.body import DEEPEST, KINDS, Body
from workflow_engine.definition.problems import check_model
from workflow_engine.errors import ExpressionError, Problem
from workflow_engine.expressions import LOOP_NAMES, compile_template
from workflow_engine.nodes.registry import NodeRegistry
from workflow_engine.paths import at, below
from workflow_engine.validation.concurrency_checks import settings_problems
from workflow_engine.validation.edge_checks import check_edges, cycle_problems, join_problems
from workflow_engine.validation.node_checks import BODY_STUB, CheckedNode, check_nodes, variables_set
from workflow_engine.validation.unsupported import not_in_this_release

LOOP = "logic/loop"

EVALUATED_LATER = ("while", "until", "wait", "backoff", "data")
"""Keys of a loop that are evaluated for each iteration, so that they see its names."""


def check_bodies(
    nodes: Sequence[Any],
    checked: Sequence[CheckedNode],
    names: Mapping[str, str],
    registry: NodeRegistry,
    *,
    is_in_loop: bool = False,
    level: int = 1,
) -> Iterator[Problem]:
    """Yield the problems of the bodies of some nodes; `names` maps each name around them to its place."""
    for content, node in zip(nodes, checked, strict=True):
        config = content.get("config") if isinstance(content, Mapping) else None
        if not isinstance(config, Mapping):
            continue
        path, kind = at(node.path, "config"), f"{content.get('type')}/{content.get('subType')}"
        if not is_in_loop:
            yield from _loop_name_problems(config, kind, path)
        body = config.get("body")
        if kind not in KINDS or not isinstance(body, Mapping):
            continue
        if level > DEEPEST:
            yield Problem(at(path, "body"), f"at most {DEEPEST} bodies may stand inside one another")
            continue
        inside = _Body(body, at(path, "body"), registry, names, level)
        yield from inside.problems(_given_names(config) if kind == LOOP else {}, is_in_loop or kind == LOOP)


class _Body:
    """One body, and where it stands."""

    def __init__(
        self,
        body: Mapping[Any, Any],
        path: str,
        registry: NodeRegistry,
        outer: Mapping[str, str],
        level: int,
    ) -> None:
        self._body = body
        self._path = path
        self._registry = registry
        self._outer = outer
        self._level = level

    def problems(self, given: Mapping[str, str], is_in_loop: bool) -> Iterator[Problem]:
        """Yield its problems; `given` are the names that a loop gives it, and the keys that say so."""
        nodes, edges = self._list("nodes"), self._list("edges")
        checked = check_nodes(nodes, self._registry)
        by_id: dict[str, CheckedNode] = {}
        for node in checked:
            if node.id is not None:
                by_id.setdefault(node.id, node)
        checked_edges = check_edges(edges, by_id, all_nodes_known=len(by_id) == len(checked))
        inner = [
            *(problem for node in checked for problem in node.problems),
            *(_trigger_problem(node) for node in checked if node.type == "trigger"),
            *(problem for edge in checked_edges for problem in edge.problems),
            *join_problems(by_id, checked_edges),
            *cycle_problems(by_id, checked_edges),
        ]
        yield from self._frame_problems()
        yield from self._name_problems(by_id, given)
        yield from self._problems_of_names_set(checked, by_id, given)
        yield from self._below(inner)
        around = {**self._outer, **dict.fromkeys(by_id, "a node around it"), **given}
        around |= dict.fromkeys(self._variables(), "a variable of the body around it")
        deeper = check_bodies(
            nodes, checked, around, self._registry, is_in_loop=is_in_loop, level=self._level + 1
        )
        yield from self._below(deeper)

    def _frame_problems(self) -> Iterator[Problem]:
        """Yield the problems of everything but the nodes and edges."""
        lists = {key: BODY_STUB[key] for key in ("nodes", "edges") if self._list(key)}
        settings = self._body.get("settings")
        body, problems = check_model(Body, {**self._body, **lists}, self._path)
        yield from problems
        if body is not None:
            yield from settings_problems(body.settings, at(self._path, "settings"))
        if isinstance(settings, Mapping):
            yield from not_in_this_release("settings", settings, at(self._path, "settings"))

    def _name_problems(self, nodes: Mapping[str, CheckedNode], given: Mapping[str, str]) -> Iterator[Problem]:
        for node_id, node in nodes.items():
            if (place := given.get(node_id) or self._outer.get(node_id)) is not None:
                path = at(below(self._path, node.path), "id")
                yield Problem(path, f"{node_id!r} is also the name of {place}; rename one of the two")
        for name in self._variables():
            path = at(self._path, "variables", name)
            if name.startswith("_"):
                yield Problem(path, "names that start with _ belong to the engine; rename it")
            elif name in nodes or name in given:
                place = given.get(name, "a node of this body")
                yield Problem(path, f"{name!r} is also the name of {place}; rename one of the two")
        for name, place in given.items():
            if (taken := self._outer.get(name)) is not None and not taken.startswith("`"):
                yield Problem(
                    self._path, f"{name!r}, the name of {place}, is also that of {taken}; rename one"
                )

    def _problems_of_names_set(
        self, checked: Sequence[CheckedNode], nodes: Mapping[str, CheckedNode], given: Mapping[str, str]
    ) -> Iterator[Problem]:
        """Check the variables that nodes set: one from around the body may get another value inside it."""
        outer = {name: place for name, place in self._outer.items() if "variable" not in place}
        for name, where in variables_set(checked):
            path = below(self._path, where)
            if name.startswith("_"):
                yield Problem(path, "names that start with _ belong to the engine; rename it")
            elif name in nodes or name in given or name in outer:
                place = given.get(name) or outer.get(name) or "a node of this body"
                yield Problem(path, f"{name!r} is also the name of {place}; rename one of the two")

    def _below(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        for problem in problems:
            yield Problem(below(self._path, problem.path), problem.message)

    def _variables(self) -> list[str]:
        variables = self._body.get("variables")
        return [name for name in variables if isinstance(name, str)] if isinstance(variables, Mapping) else []

    def _list(self, key: str) -> Sequence[Any]:
        value = self._body.get(key)
        return value if isinstance(value, list | tuple) else ()


def _trigger_problem(node: CheckedNode) -> Problem:
    return Problem(
        at(node.path, "type"),
        "a body has no trigger, it begins with the nodes that no edge leads to; remove this node",
    )


def _given_names(config: Mapping[Any, Any]) -> dict[str, str]:
    """Return the names that a loop over items gives its body, and what gives them."""
    if "items" not in config:
        return {}
    names = {
        config.get(f"{which}Variable", which): f"`{which}Variable` of the loop" for which in ("item", "index")
    }
    return {name: place for name, place in names.items() if isinstance(name, str)}


def _loop_name_problems(config: Mapping[Any, Any], kind: str, path: str) -> Iterator[Problem]:
    """Yield a problem for each key that reads a name which only a loop gives."""
    sees_them = (*EVALUATED_LATER, "body") if kind == LOOP else ("body",)
    for key, value in config.items():
        if not isinstance(key, str) or key in sees_them:
            continue
        try:
            read = compile_template(value).names
        except ExpressionError:
            continue  # reported where it stands
        for name in sorted(read & LOOP_NAMES.keys()):
            yield Problem(at(path, key), f"`{name}` exists only in the body and the conditions of a loop")
