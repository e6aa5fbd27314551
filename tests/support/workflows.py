"""Workflows made of the functions of a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workflow_engine import Workflow, WorkflowBuilder
from workflow_engine.definition.built_nodes import BuiltNode
from workflow_engine.nodes.registry import node


def line(
    *steps: Callable[..., Any], id: str = "line", settings: Mapping[str, Any] | None = None, **options: Any
) -> Workflow:
    """Return a workflow of one trigger, `start`, and a node for each function in a row, named after it.

    The functions are registered on the way; `options` are those of the nodes.
    """
    flow = WorkflowBuilder(id, settings=settings)
    last: BuiltNode = flow.trigger("start")
    for step in steps:
        last = last >> calling(flow, step, **options)
    return flow.build()


def calling(flow: WorkflowBuilder, function: Callable[..., Any], **options: Any) -> BuiltNode:
    """Return a node of this name that calls the function, which is registered on the way."""
    name = function.__name__
    node(f"test.{name}")(function)
    return flow.python(name, f"test.{name}", **options)
