"""Problems of limits: keys that do not compile, or read what is not there when they are evaluated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from workflow_engine.definition.problems import listed
from workflow_engine.errors import Problem
from workflow_engine.expressions import Template, check_template, compile_template
from workflow_engine.expressions.compiler import RESPONSE
from workflow_engine.paths import at, below

AT_THE_START = {"_trigger", "_vars"}
"""The names of the engine that the limits of a workflow may read, beside triggers and variables."""


def limit_problems(limits: Any, path: str) -> Iterator[Problem]:
    """Yield the problems of the keys of a workflow's or node's limits; their shape is checked elsewhere."""
    for place, template in _templates(limits, path):
        if isinstance(template, Problem):
            yield template
            continue
        if template.secrets:
            yield Problem(place, "a key is stored and shown, so it may not hold a secret; use another value")
        if RESPONSE in template.names:
            yield Problem(
                place, f"`{RESPONSE}` is what the node returns, and a slot is taken before; remove it"
            )


def problems_of_workflow_limits(limits: Any, path: str, known: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each key that reads more than what an execution is started with.

    `known` are the triggers and variables.
    """
    for place, template in _templates(limits, path):
        if isinstance(template, Problem):
            continue
        read = (template.names | template.node_outputs) - {"_nodeOutputs", "_secrets", RESPONSE}
        if unknown := sorted(read - AT_THE_START - set(known)):
            yield Problem(
                place,
                f"{listed(unknown)} is not known when an execution starts; a workflow's key reads its "
                "trigger and its variables. Put the limit on a node to read more",
            )


def _templates(limits: Any, path: str) -> Iterator[tuple[str, Template | Problem]]:
    for index, limit in enumerate(limits if isinstance(limits, list | tuple) else ()):
        key = limit.get("key") if isinstance(limit, Mapping) else None
        if not isinstance(key, str):
            continue
        place = at(path, index, "key")
        if problems := check_template(key):
            yield place, Problem(below(place, problems[0].path), problems[0].message)
        else:
            yield place, compile_template(key)
