"""Problems of `onFailure`: a workflow that would start itself, and data that reads what is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from workflow_engine.definition.problems import listed
from workflow_engine.errors import Problem
from workflow_engine.expressions import check_template, compile_template
from workflow_engine.expressions.compiler import FAILURE
from workflow_engine.paths import below

READABLE = {FAILURE, "_trigger", "_vars"}
"""The names of the engine that the data may read, beside triggers and variables."""


def failure_problems(content: Mapping[Any, Any], known: Collection[str]) -> Iterator[Problem]:
    """Yield the problems of a definition's `onFailure`; its shape is checked elsewhere.

    `known` are the triggers and variables.
    """
    on_failure = content.get("onFailure")
    if not isinstance(on_failure, Mapping):
        return
    if "workflow" in on_failure and on_failure["workflow"] == content.get("id"):
        yield Problem("onFailure.workflow", "a workflow cannot handle its own failures; name another one")
    data = on_failure.get("data")
    if problems := check_template(data):
        yield from (Problem(below("onFailure.data", each.path), each.message) for each in problems)
        return
    template = compile_template(data)
    if template.secrets:
        yield Problem(
            "onFailure.data", "it is stored as the data of a start, so it may not hold a secret; remove it"
        )
    read = (template.names | template.node_outputs) - {"_nodeOutputs", "_secrets"}
    if unknown := sorted(read - READABLE - set(known)):
        yield Problem(
            "onFailure.data",
            f"{listed(unknown)} may not be there once an execution has failed; read `{FAILURE}`, `_trigger` "
            "and variables",
        )
