"""Running one node of the engine as a worker would: config checked, expressions evaluated, executed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workflow_engine.definition.problems import check_model
from workflow_engine.errors import Problem
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.expressions import Scope, compile_template
from workflow_engine.nodes.contract import NodeType, ResumableExecutor
from workflow_engine.nodes.results import NodeError, NodeExecutionResult

Call = Callable[..., NodeExecutionResult]
"""Runs a node with the config that its keywords are."""


def problems(node_type: NodeType, config: dict[str, Any]) -> list[Problem]:
    """Return the problems of a config as it is written."""
    return check_model(node_type.config_model, config)[1]


def run(
    node_type: NodeType,
    config: dict[str, Any],
    outputs: dict[str, Any] | None = None,
    arrivals: tuple[str, ...] = (),
) -> NodeExecutionResult:
    """Return the result of a node with this config after these outputs; the execution started at `placed`."""
    data, context = _prepared(node_type, config, outputs, arrivals)
    return node_type.executor.execute("n", data, context)


def resume(
    node_type: NodeType, config: dict[str, Any], wake: Wake, outputs: dict[str, Any] | None = None
) -> NodeExecutionResult:
    """Return the result of a waiting node with this config when it is woken."""
    data, context = _prepared(node_type, config, outputs)
    assert isinstance(node_type.executor, ResumableExecutor)
    return node_type.executor.resume("n", data, context, wake)


def _prepared(
    node_type: NodeType,
    config: dict[str, Any],
    outputs: dict[str, Any] | None,
    arrivals: tuple[str, ...] = (),
) -> tuple[dict[str, Any], ExecutionContext]:
    assert problems(node_type, config) == []
    outputs = {"placed": {}, **(outputs or {})}
    prepared = node_type.prepare(config)
    verbatim = {key: value for key, value in prepared.items() if key in node_type.verbatim}
    evaluated = {key: value for key, value in prepared.items() if key not in node_type.verbatim}
    data = compile_template(evaluated).evaluate(Scope(node_outputs=outputs, trigger_node_id="placed"))
    context = ExecutionContext("e-1", "shop", "t-1", "placed", "n", outputs, arrivals=arrivals)
    return {**data, **verbatim}, context


def error_of(result: NodeExecutionResult) -> NodeError:
    assert result.kind == "failure"
    assert result.error is not None
    return result.error
